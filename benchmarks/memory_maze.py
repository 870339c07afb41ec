"""Steps per second of the Memory Maze: through dm_control and without it, in turns within one run.

python -m benchmarks.memory_maze --size 15x15
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import tyro

from benchmarks.shared.machine import cpu as machine
from lssvwm.envs.memory_maze.environment import MemoryMaze


def main(size: str = "9x9", blocks: int = 5, steps: int = 100) -> None:
    """Random actions, the same for both; the median over blocks of CPU time, which other load disturbs least."""
    mazes = {"stock": MemoryMaze(size, stock=True), "fast": MemoryMaze(size)}
    actions = np.random.default_rng(0).integers(6, size=(blocks, steps))
    step: dict[str, list[float]] = {name: [] for name in mazes}
    reset: dict[str, list[float]] = {name: [] for name in mazes}
    for block, taken in enumerate(actions):
        for name, maze in mazes.items():
            reset[name].append(_cpu(lambda maze=maze, block=block: maze.reset(seed=block)))
            step[name].append(_cpu(lambda maze=maze, taken=taken: [maze.step(action) for action in taken]) / steps)
    print(f"Memory Maze {size}, {os.environ['MUJOCO_GL']}, LP_NUM_THREADS={os.environ['LP_NUM_THREADS']}, {machine()}")
    for name, maze in mazes.items():
        cpu, again = statistics.median(step[name]), statistics.median(reset[name])
        print(f"{name:5}  {1000 * cpu:5.2f} ms CPU per step, {1 / cpu:4.0f} steps/s per core; reset {again:5.2f} s CPU")
        maze.close()
    ratios = (statistics.median(cpu["stock"]) / statistics.median(cpu["fast"]) for cpu in (step, reset))
    print("ratio  {:5.1f} per step, {:5.1f} per reset (CPU time)".format(*ratios))


def _cpu(do: Callable[[], object]) -> float:
    start = time.process_time()
    do()
    return time.process_time() - start


if __name__ == "__main__":
    tyro.cli(main)
