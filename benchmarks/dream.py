"""Dreamt steps per second by rows, denoising steps and output, and what the environment costs beside its model.

    python -m benchmarks.dream [--threads 1] [--calls 5] [--turns 7]

Figures of one run on one machine; compare only within it. The ratios are of CPU time, the least that a call took, and
measured in turns, so that other load falls on both sides.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.imagination import make_model, seconds
from lssvwm.envs.dream import DreamVectorEnv
from lssvwm.worldmodel import Checkpoint, Episode, EpisodeStore, WorldModel
from lssvwm.worldmodel.sampling import Sampler, Sampling

ROWS, STEPS = (1, 8, 32), (1, 2, 4)


def contexts(folder: Path, model: WorldModel) -> Path:
    """Episodes of noise: what they show costs nothing."""
    source, store, config = np.random.default_rng(0), EpisodeStore(folder, create=True), model.config
    for _ in range(8):
        last = np.arange(64) == 63
        store.append(
            Episode(
                image=source.integers(256, size=(64, config.height, config.width, 3), dtype=np.uint8),
                action=np.concatenate([[-1], source.integers(config.num_actions, size=63)]),
                reward=np.zeros(64, np.float32),
                terminated=last,
                truncated=np.zeros_like(last),
            )
        )
    return folder


def stepping(env: DreamVectorEnv, calls: int) -> Callable[[], None]:
    """Reset `env`, and return what takes `calls` steps in it."""
    env.reset(seed=0)
    rows = np.zeros(env.num_envs, np.int64)
    actions = torch.from_numpy(rows).to(env.device) if env.options.output == "torch" else rows

    def work() -> None:
        for _ in range(calls):
            env.step(actions)

    return work


def bare(model: WorldModel, rows: int, steps: int, calls: int) -> Callable[[], None]:
    """What dreams on with the model alone: one generator for all rows, nothing taken to the host."""
    sampler, actions = Sampler(model, Sampling(steps)), torch.zeros(rows, dtype=torch.int64)
    generator, memory = torch.Generator().manual_seed(0), model.empty(rows)

    def work() -> None:
        nonlocal memory
        for _ in range(calls):
            with torch.no_grad():
                memory = sampler.imagine(actions, memory, generator=generator).memory

    work()
    return work


def in_turns(works: Mapping[Any, Callable[[], None]], turns: int) -> dict[Any, float]:
    """Best CPU time of each in seconds, all of them taking turns."""
    best = dict.fromkeys(works, float("inf"))
    for _ in range(turns):
        for name, work in works.items():
            begin = time.process_time()
            work()
            best[name] = min(best[name], time.process_time() - begin)
    return best


def outside(env: DreamVectorEnv, calls: int) -> float:
    """Share of a step's CPU time that is not spent in the model: of the same calls, so other load hardly matters."""
    work, inside, imagine = stepping(env, calls), 0.0, env.sampler.imagine

    def timed(*args: Any, **kwargs: Any) -> Any:
        nonlocal inside
        begin = time.process_time()
        result = imagine(*args, **kwargs)
        inside += time.process_time() - begin
        return result

    env.sampler.imagine = timed  # type: ignore[method-assign]
    begin = time.process_time()
    work()
    return 1 - inside / (time.process_time() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--calls", type=int, default=5)
    parser.add_argument("--turns", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = make_model()
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{parameters:.1f} M parameters, {model.config.tokens} tokens per frame, {options.threads} thread(s)")
    with tempfile.TemporaryDirectory() as folder:
        measure(model, contexts(Path(folder), model), options.calls, options.turns)


def measure(model: WorldModel, episodes: Path, calls: int, turns: int) -> None:
    checkpoint = Checkpoint(model, {}, 0, Path("benchmark"))

    def dream(rows: int, steps: int, **settings: Any) -> DreamVectorEnv:
        settings = {"max_episode_steps": None, "terminate": "never", **settings}
        return DreamVectorEnv(rows, checkpoint=checkpoint, contexts=episodes, steps=steps, **settings)

    print("\nrows  denoising steps  output  dreamt steps/s")
    for rows in ROWS:
        for steps in STEPS:
            for output in ("numpy", "torch"):
                spent = seconds(stepping(dream(rows, steps, output=output), calls), 3)
                print(f"{rows:4d}  {steps:15d}  {output:6s}  {rows * calls / spent:14.0f}")

    print("\nCPU time of the environment over that of the model alone; share of a step outside of the model")
    print("rows  denoising steps  numpy  torch  outside: numpy  torch")
    for rows in ROWS:
        for steps in STEPS:
            outputs = {output: stepping(dream(rows, steps, output=output), 1) for output in ("numpy", "torch")}
            best = in_turns({"model": bare(model, rows, steps, 1), **outputs}, calls * turns)
            ratios = "  ".join(f"{best[output] / best['model']:.3f}" for output in outputs)
            numpy, tensors = (outside(dream(rows, steps, output=output), calls * turns) for output in outputs)
            print(f"{rows:4d}  {steps:15d}  {ratios}  {numpy:14.1%}  {tensors:5.1%}")

    print("\nCPU time with an option over that without, 8 rows, 2 denoising steps")
    settings: dict[str, dict[str, Any]] = {
        "plain": {},
        "observation=both": {"observation": "both"},
        "uncertainty=heads": {"uncertainty": "heads"},
        "uncertainty=draws": {"uncertainty": "draws"},
        "a new context every 16 steps": {"max_episode_steps": 16},
        "a new context every 16 steps, not prefetched": {"max_episode_steps": 16, "prefetch": False},
    }
    works = {name: stepping(dream(8, 2, **chosen), max(calls, 17)) for name, chosen in settings.items()}
    best = in_turns(works, 3)
    for name in list(settings)[1:]:
        print(f"{best[name] / best['plain']:6.2f}  {name}")

    print("\nhistory  memory per row")
    memory, sampler, generator = model.empty(8), Sampler(model, Sampling(1)), torch.Generator().manual_seed(0)
    for frame in range(1, 1001):
        with torch.no_grad():
            memory = sampler.imagine(torch.zeros(8, dtype=torch.int64), memory, generator=generator).memory
        if frame in (10, 100, 1000):
            print(f"{frame:7d}  {memory.nbytes / memory.rows / 1e6:.3f} MB")


if __name__ == "__main__":
    main()
