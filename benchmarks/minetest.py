"""Steps per second of Minetest engines, by window and by how many run side by side; memory and leftovers of a long run.

    python -m benchmarks.minetest [--sizes 64x64 128x128 320x180] [--instances 1 2] [--steps 300] [--long 10000]

Engines walk in circles in a land that is there already, so this is the cost of stepping; making new land comes on top.
Figures of one run on one machine; compare only within it. CPU time is that of minetest, client and server.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.shared.machine import cpu_seconds
from lssvwm.envs.minecraft.minetest.config import EngineConfig
from lssvwm.envs.minecraft.minetest.engine import Engine


def resident(pid: int) -> float:
    """Megabytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def walk(step: int) -> dict[str, Any]:
    """Round in a circle: it stays where the land is."""
    return {"forward": 1, "jump": step % 15 == 0, "camera": (0.0, 6.0)}


def run(engine: Engine, steps: int) -> None:
    for step in range(steps):
        engine.step(walk(step))


def measure(configs: list[EngineConfig], steps: int, turns: int = 3) -> str:
    with ExitStack() as stack, ThreadPoolExecutor(len(configs)) as pool:
        begin = time.perf_counter()
        engines = [stack.enter_context(engine) for engine in pool.map(Engine, configs)]
        started = time.perf_counter() - begin
        list(pool.map(run, engines, [100] * len(engines)))
        rates, costs = [], []
        for _ in range(turns):
            begin, spent = time.perf_counter(), sum(cpu_seconds(engine.pid) for engine in engines)
            list(pool.map(run, engines, [steps] * len(engines)))
            rates.append(len(engines) * steps / (time.perf_counter() - begin))
            costs.append((sum(cpu_seconds(engine.pid) for engine in engines) - spent) / (len(engines) * steps))
        memory = np.mean([resident(engine.pid) for engine in engines])
    return (
        f"{np.median(rates):6.0f} steps/s in all (best {max(rates):.0f}), {1e3 * min(costs):5.1f} ms CPU per step, "
        f"started in {started:.1f} s, {memory:.0f} MB each"
    )


def long_run(config: EngineConfig, steps: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        with Engine(config) as engine:
            begin = time.perf_counter()
            for part in range(10):
                run(engine, steps // 10)
                files = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
                print(
                    f"{(part + 1) * (steps // 10):7d} steps: engine {resident(engine.pid):.0f} MB, "
                    f"this process {resident(os.getpid()):.0f} MB, files {files / 1e6:.1f} MB, "
                    f"{(part + 1) * (steps // 10) / (time.perf_counter() - begin):.0f} steps/s",
                    flush=True,
                )
        tempfile.tempdir = None
        commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
        print(f"left behind: {sum(folder.encode() in command for command in commands)} processes, ", end="")
        print(f"{len(list(Path(folder).iterdir()))} files")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="*", default=["64x64", "128x128", "320x180"])
    parser.add_argument("--instances", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--mapgen", default="flat")
    parser.add_argument("--long", type=int, default=0, help="steps of a long run that prints memory")
    options = parser.parse_args()
    for size in options.sizes:
        width, height = (int(side) for side in size.split("x"))
        config = EngineConfig(width=width, height=height, mapgen=options.mapgen, seed=1)
        for count in options.instances:
            print(f"{size:>8}, {count} engine(s): {measure([config] * count, options.steps)}", flush=True)
    if options.long:
        long_run(EngineConfig(mapgen=options.mapgen, seed=1), options.long)


if __name__ == "__main__":
    main()
