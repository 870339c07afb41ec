"""What share of a plain float32 product's rate training and dreaming reach, and where the rest of the time goes.

    python -m benchmarks.throughput [--presets default memory-maze demo small] [--rows 1 32 256] [--steps 2]
        [--instructions avx2] [--against CHECKOUT] [--turns 7] [--tables]

One thread. Counted are the multiplications and additions of products (linear layers, scan, attention, Muon), not those
of anything else; a share is their number over the time of the whole step, over the same of a 1024 x 1024 x 1024 product
measured in turns with it. A training step is `Trainer.train_step`, a dreamt frame `DreamVectorEnv.step`, by rows.

`--instructions avx2` leaves everything newer unused, as on a CPU that has no more: bfloat16 is then emulated.
`--against` measures another checkout of this project too, in turns within the same run, and prints ratios;
`--against-steps` are its denoising steps, where they are to differ. Compare figures only within one run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LIMITS = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "all": {},
}
TELLING = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "asimd", "bf16", "sve")
KINDS = {
    "products": ("mm", "addmm", "bmm", "baddbmm", "baddbmm_"),
    "copies": ("copy_", "cat", "clone", "index", "fill_", "zero_", "repeat_interleave", "masked_fill_"),
    "reductions": ("sum", "mean", "norm", "linalg_vecdot", "cumsum", "softmax", "max", "min"),
}
SIDE = 1024


def machine() -> str:
    """The CPU, those of its instruction sets that decide, and which of them torch uses."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set((told.get("flags") or told.get("Features") or "").split())
    sets = ", ".join(name for name in TELLING if name in flags)
    return f"{told.get('model name', 'CPU')} ({sets}); torch {torch.__version__} uses {used()}; 1 thread"


def used() -> str:
    """Instruction sets in use: torch's own name, and whether bfloat16 products are as fast as others."""
    import torch

    half, full = (seconds(product(dtype, 256), 3) for dtype in (torch.bfloat16, torch.float32))
    return (
        f"{torch.backends.cpu.get_cpu_capability()}, bfloat16 products take {half / full:.1f} times as long as float32"
    )


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Least CPU time of a call: what else the machine does only ever adds."""
    best = float("inf")
    for _ in range(repeats):
        begin = time.process_time()
        work()
        best = min(best, time.process_time() - begin)
    return best


def product(dtype: Any, side: int = SIDE) -> Callable[[], object]:
    import torch

    a, b = (torch.ones(side, side, dtype=dtype) for _ in range(2))
    return lambda: a @ b


@contextmanager
def counted() -> Iterator[list[int]]:
    """Operations of the products inside; convolutions, which are counted wrongly by groups, are left out."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

    ops = torch.ops.aten
    mapping = {
        ops._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
        ops._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: sdpa_backward_flop_count(
            g, q, k, v
        ),
        ops.convolution: lambda *_, **__: 0,
        ops.convolution_backward: lambda *_, **__: 0,
    }
    found: list[int] = []
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        yield found
    found.append(counter.get_total_flops())


class Works:
    """What is measured, for one preset: made once, called many times."""

    def __init__(self, preset: str, folder: Path, steps: int) -> None:
        import torch

        from agents.presets import PRESETS
        from worldmodel import WorldModel, WorldModelConfig
        from worldmodel.training import TrainingConfig

        torch.manual_seed(0)
        torch.set_num_threads(1)
        settings = PRESETS[preset]
        # The frames that the preset is recorded in: of MiniGrid 56 pixels (the carpet 24), of everything else 64.
        pixels = settings.size or (settings.model.height if settings.actions else 64)
        patch = settings.model.patch if pixels % settings.model.patch == 0 else 16
        own = {"height": pixels, "width": pixels, "patch": patch, "num_actions": len(settings.actions or range(6))}
        config = WorldModelConfig.from_dict({**settings.model.to_dict(), **own, "pose_size": 0})
        options = {k: v for k, v in vars(settings.training).items() if k not in ("precision", "workers")}
        self.training = TrainingConfig(**options | {"save_seconds": 1e9})
        if preset in ("small", "base", "paper"):  # what fits one thread; rates hardly depend on it
            self.training = replace(self.training, batch=2, length=32)
        self.model, self.folder, self.steps = WorldModel(config), folder, steps
        self.model.tokenizer.fit(torch.randint(256, (512, pixels, pixels, 3), dtype=torch.uint8))
        self.episodes = self.record(config, max(64, 2 * self.training.length))

    def record(self, config: Any, length: int) -> Path:
        """Episodes of noise: what they show costs nothing."""
        import numpy as np

        from worldmodel import Episode, EpisodeStore

        source, store = np.random.default_rng(0), EpisodeStore(self.folder / "episodes", create=True)
        for _ in range(8):
            last = np.arange(length) == length - 1
            store.append(
                Episode(
                    image=source.integers(256, size=(length, config.height, config.width, 3), dtype=np.uint8),
                    action=np.concatenate([[-1], source.integers(config.num_actions, size=length - 1)]),
                    reward=np.zeros(length, np.float32),
                    terminated=last,
                    truncated=np.zeros_like(last),
                )
            )
        return self.folder / "episodes"

    def train(self) -> Callable[[], object]:
        """One step of training; what it gives are its figures."""
        from worldmodel import EpisodeStore
        from worldmodel.training import Trainer

        store = EpisodeStore(self.episodes)
        trainer = Trainer(self.model, store, self.training, self.folder / "model", world={})
        trainer.prepare()
        return trainer.train_step

    def dream(self, rows: int) -> Callable[[], object]:
        """One step of a dream environment of so many rows, whose windows are full."""
        import torch

        from envs.dream import DreamVectorEnv
        from worldmodel import Checkpoint

        checkpoint = Checkpoint(self.model.eval(), {}, 0, Path("benchmark"))
        settings: dict[str, Any] = {"max_episode_steps": None, "terminate": "never", "output": "torch"}
        settings |= {"contexts": self.episodes, "context_length": 16, "steps": self.steps}
        env = DreamVectorEnv(rows, checkpoint=checkpoint, **settings)
        env.reset(seed=0)
        actions = torch.zeros(rows, dtype=torch.int64)
        return lambda: env.step(actions)


def spent(work: Callable[[], object]) -> dict[str, float]:
    """Milliseconds of one call by kind of operation, under the profiler."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        begin = time.perf_counter()
        work()
        whole = time.perf_counter() - begin
    by_kind: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        name = event.key.removeprefix("aten::").removeprefix("_")
        kinds = (kind for kind, names in KINDS.items() if name in names)
        if event.key.startswith("aten::"):
            known = "products" if name.startswith("scaled_dot_product") else next(kinds, None)
            known = "reductions" if "layer_norm" in name else known
            by_kind[known or "element by element, and views"] += event.self_cpu_time_total / 1e3
    by_kind["outside of torch's operations"] = 1e3 * whole - sum(by_kind.values())
    return dict(by_kind)


def serve(preset: str, steps: int) -> None:
    """Answer lines of JSON on standard input: what to measure, one line back each."""
    works: dict[str, Callable[[], object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        source = Works(preset, Path(folder), steps)
        for line in sys.stdin:
            asked = json.loads(line)
            name, what = asked["work"], asked["what"]
            if name not in works:
                works[name] = source.train() if name == "train" else source.dream(int(name.split()[1]))
                works[name]()
            answer: Any = None
            if what == "count":
                with counted() as found:
                    works[name]()
                answer = found[0]
            elif what == "time":
                answer = seconds(works[name], 1)
            elif what == "spent":
                answer = spent(works[name])
            elif what == "forget":
                works.pop(name)
            print(json.dumps(answer), flush=True)


class Measured:
    """A process that measures one checkout."""

    def __init__(self, checkout: Path, preset: str, steps: int) -> None:
        own = [sys.executable, str(Path(__file__).resolve()), "--serve", preset, "--steps", str(steps)]
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
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.steps)
        return
    missing = {
        k: v for k, v in {**LIMITS[options.instructions], "OMP_NUM_THREADS": "1"}.items() if os.environ.get(k) != v
    }
    if missing:  # libraries read these when they are loaded
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.throughput", *sys.argv[1:]], os.environ | missing)
    print(machine(), flush=True)
    for preset in options.presets:
        compare(preset, options)


def compare(preset: str, options: argparse.Namespace) -> None:
    import torch

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
