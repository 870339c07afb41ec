"""What share of a plain float32 product's rate training and dreaming reach, and where the rest of the time goes.

    python -m benchmarks.throughput [--presets default memory-maze demo small] [--rows 1 32 256] [--steps 2]
        [--instructions avx2] [--against CHECKOUT] [--turns 7] [--tables]
    python -m benchmarks.throughput --losses 300 --episodes DIR --presets memory-maze --against CHECKOUT --plot FILE.png

One thread. Counted are the multiplications and additions of products (linear layers, scan, attention, Muon), not those
of anything else; a share is their number over the time of the whole step, over the same of a 1024 x 1024 x 1024 product
measured in turns with it. A training step is `Trainer.train_step`, a dreamt frame `DreamVectorEnv.step`, by rows.

`--instructions avx2` leaves everything newer unused, as on a CPU that has no more: bfloat16 is then emulated.
`--against` measures another checkout of this project too, in turns within the same run, and prints ratios;
`--against-steps` are its denoising steps, where they are to differ. Compare figures only within one run. `--losses`
trains both from the same seeds on the same clips instead, and lays their losses by step over each other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.shared.machine import cpu
from benchmarks.throughput.works import seconds

ROOT = Path(__file__).resolve().parent.parent.parent
LIMITS = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "all": {},
}
SIDE = 1024


def machine() -> str:
    """The CPU, and which of its instruction sets torch uses."""
    return f"{cpu()}; torch {torch.__version__} uses {used()}; 1 thread"


def used() -> str:
    """Instruction sets in use: torch's own name, and whether bfloat16 products are as fast as others."""
    half, full = (seconds(product(dtype, 256), 3) for dtype in (torch.bfloat16, torch.float32))
    return (
        f"{torch.backends.cpu.get_cpu_capability()}, bfloat16 products take {half / full:.1f} times as long as float32"
    )


def product(dtype: Any, side: int = SIDE) -> Callable[[], object]:
    a, b = (torch.ones(side, side, dtype=dtype) for _ in range(2))
    return lambda: a @ b


class Measured:
    """A process that measures one checkout."""

    def __init__(self, checkout: Path, preset: str, steps: int, episodes: Path | None = None) -> None:
        own = [sys.executable, str(Path(__file__).with_name("works.py").resolve()), preset, str(steps)]
        own += [str(episodes.resolve())] if episodes else []
        where = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            own, cwd=checkout, env=where, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def ask(self, work: str, what: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps({"work": work, "what": what}), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"error: the measuring process ended with {self.process.wait()}, see above")
        return json.loads(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=["default", "memory-maze", "demo"])
    parser.add_argument("--rows", nargs="*", type=int, default=[1, 32, 256])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--instructions", choices=LIMITS, default="all")
    parser.add_argument("--against", type=Path)
    parser.add_argument("--against-steps", type=int)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--losses", type=int, help="train so many steps, and compare the losses")
    parser.add_argument("--episodes", type=Path, help="recorded episodes to train on; noise otherwise")
    parser.add_argument("--plot", type=Path, help="where to draw the losses")
    options = parser.parse_args()
    missing = {
        k: v for k, v in {**LIMITS[options.instructions], "OMP_NUM_THREADS": "1"}.items() if os.environ.get(k) != v
    }
    if missing:  # libraries read these when they are loaded
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.throughput", *sys.argv[1:]], os.environ | missing)
    print(machine(), flush=True)
    for preset in options.presets:
        losses(preset, options) if options.losses else compare(preset, options)


def losses(preset: str, options: argparse.Namespace) -> None:
    """Diffusion losses by step of both checkouts, smoothed over 20 steps in the figure."""
    places = {"here": ROOT} | ({"there": options.against.resolve()} if options.against else {})
    measured = {name: Measured(path, preset, options.steps, options.episodes) for name, path in places.items()}
    curves = {name: [one.ask("train", "loss") for _ in range(options.losses)] for name, one in measured.items()}
    print(f"\n{preset}: diffusion loss by step, means of tenths")
    for name, curve in curves.items():
        print(f"{name:6s}" + "".join(f"{part.mean():8.4f}" for part in np.array_split(np.array(curve), 10)))
    if options.plot:
        figure = Figure((7, 4), layout="constrained")
        axes = figure.subplots()
        for name, curve in curves.items():
            axes.plot(np.convolve(curve, np.ones(20) / 20, "valid"), label=name, lw=1)
        axes.set(xlabel="training step", ylabel="diffusion loss", yscale="log", title=preset)
        axes.legend()
        figure.savefig(options.plot, dpi=110)


def compare(preset: str, options: argparse.Namespace) -> None:
    checkouts = {"here": (ROOT, options.steps)}
    if options.against:
        checkouts["there"] = (options.against.resolve(), options.against_steps or options.steps)
    measured = {name: Measured(path, preset, steps) for name, (path, steps) in checkouts.items()}
    plain, tables = product(torch.float32), {}
    print(f"\n{preset}: {options.steps} denoising step(s)", flush=True)
    print(f"{'':18s}{'GFLOP':>8s}{'ms':>10s}{'rows/s':>9s}{'share':>8s}", end="")
    print(f"{'ms there':>12s}{'share':>8s}{'here is':>12s}" if options.against else "")
    for work in ("train", *(f"dream {rows}" for rows in options.rows)):
        count = {name: one.ask(work, "count") for name, one in measured.items()}
        best = dict.fromkeys((*measured, "plain"), float("inf"))
        for _ in range(options.turns):
            best["plain"] = min(best["plain"], seconds(plain, 1))
            for name, one in measured.items():
                best[name] = min(best[name], one.ask(work, "time"))
        rate = 2 * SIDE**3 / best["plain"]
        share = {name: count[name] / best[name] / rate for name in measured}
        rows = int(work.split()[1]) if work != "train" else 1
        print(f"{work:18s}{count['here'] / 1e9:8.2f}{1e3 * best['here']:10.1f}{rows / best['here']:9.1f}", end="")
        print(f"{share['here']:8.1%}", end="")
        if options.against:
            print(f"{1e3 * best['there']:12.1f}{share['there']:8.1%}{best['there'] / best['here']:8.2f} x", end="")
        print(flush=True)
        if options.tables:
            tables[work] = measured["here"].ask(work, "spent")
        for one in measured.values():
            one.ask(work, "forget")
    for work, table in tables.items():
        whole = sum(table.values())
        parts = ", ".join(f"{kind} {part / whole:.0%}" for kind, part in sorted(table.items(), key=lambda i: -i[1]))
        print(f"{work}: {parts} of {whole:.0f} ms under the profiler")


if __name__ == "__main__":
    main()
