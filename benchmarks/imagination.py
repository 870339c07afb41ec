"""Imagined frames per second by rows and denoising steps, and what a long history costs: nothing.

    python -m benchmarks.imagination [--threads 1] [--frames 5]

Figures of one run on one machine; compare only within it. The last lines are ratios measured side by side.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable

import torch

from lssvwm.worldmodel import Memory, WorldModel, WorldModelConfig


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Best of `repeats`: what else the machine does only ever adds."""
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begin)
    return best


def make_model() -> WorldModel:
    model = WorldModel(WorldModelConfig()).eval()
    model.tokenizer.fit(torch.randint(0, 256, (64, 56, 56, 3), dtype=torch.uint8))
    return model


def dream(model: WorldModel, memory: Memory, frames: int, steps: int, generator: torch.Generator) -> Memory:
    actions = torch.zeros(memory.rows, dtype=torch.int64)
    for _ in range(frames):
        memory = model.imagine(actions, memory, steps=steps, generator=generator).memory
    return memory


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--frames", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model, generator = make_model(), torch.Generator().manual_seed(0)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{parameters:.1f} M parameters, {model.config.tokens} tokens per frame, {options.threads} thread(s)")
    for rows in (1, 8, 32):
        for steps in (1, 2, 4):
            memory = model.empty(rows)
            spent = seconds(functools.partial(dream, model, memory, options.frames, steps, generator), 3)
            print(f"{rows:3d} rows, {steps} denoising steps: {rows * options.frames / spent:6.0f} imagined frames/s")

    young = dream(model, model.empty(8), 10, 1, generator)
    old = dream(model, young, 1000, 1, generator)
    best = {10: float("inf"), 1010: float("inf")}
    for _ in range(5):  # in turns, so that other load falls on both
        for history, memory in ((10, young), (1010, old)):
            begin = time.process_time()
            dream(model, memory, 10, 2, generator)
            best[history] = min(best[history], time.process_time() - begin)
    print(f"CPU time per frame at history 1,010 over history 10: {best[1010] / best[10]:.2f}")
    print(f"bytes of memory at history 1,010 over history 10: {old.nbytes / young.nbytes:.2f}")


if __name__ == "__main__":
    main()
