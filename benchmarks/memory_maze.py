"""Steps per second of the Memory Maze: stock touch test against the fast one, in turns within one run.

python -m benchmarks.memory_maze --size 15x15
"""

from __future__ import annotations

import os
import statistics
import threading
import time

import numpy as np
import tyro

from envs.memory_maze import MemoryMaze


def main(size: str = "9x9", blocks: int = 5, steps: int = 100) -> None:
    """Random actions, the same for both; the median over blocks of CPU time, which other load disturbs least."""
    mazes = {"stock": MemoryMaze(size, fast_contacts=False), "fast": MemoryMaze(size)}
    actions = np.random.default_rng(0).integers(6, size=(blocks, steps))
    cpu: dict[str, list[float]] = {name: [] for name in mazes}
    wall: dict[str, list[float]] = {name: [] for name in mazes}
    for maze in mazes.values():
        maze.reset(seed=0)
    for block in actions:
        for name, maze in mazes.items():
            cpu_start, wall_start = time.process_time(), time.perf_counter()
            for action in block:
                maze.step(action)
            cpu[name].append((time.process_time() - cpu_start) / steps)
            wall[name].append((time.perf_counter() - wall_start) / steps)
    renderer, cores = os.environ["MUJOCO_GL"], os.cpu_count()
    print(f"Memory Maze {size}, {renderer}, 1 process with {threading.active_count()} Python threads, {cores} cores")
    for name in mazes:
        cpu_step, wall_step = statistics.median(cpu[name]), statistics.median(wall[name])
        print(f"{name:5}  {1 / wall_step:6.0f} steps/s  {1000 * cpu_step:6.1f} ms CPU per step")
    print(f"ratio  {statistics.median(cpu['stock']) / statistics.median(cpu['fast']):6.2f} (CPU time)")
    for maze in mazes.values():
        maze.close()


if __name__ == "__main__":
    tyro.cli(main)
