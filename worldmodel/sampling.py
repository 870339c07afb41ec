"""Compute against quality when dreaming: profiles, and the best one that keeps up with a frame rate on this machine.

    python -m lssvwm.worldmodel.sampling CHECKPOINT --target-fps 20 --rows 1

The paper names a hybrid scheduler of compute against quality as future work; here it is a choice made once, before the
dream begins, so that every frame after it takes the same time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch
import tyro
from torch import Tensor

from lssvwm.worldmodel.checkpoint import device_of, load_checkpoint
from lssvwm.worldmodel.common.command_line import run_main, started_as
from lssvwm.worldmodel.common.errors import InputError, check_fields
from lssvwm.worldmodel.common.rng import Noise
from lssvwm.worldmodel.diffusion.shortcut import halvings_of
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.model import Imagined, WorldModel

Precision = Literal["float32", "bfloat16"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sampling:
    """What a dreamt frame costs and how good it is."""

    steps: int = 2
    """Denoising steps per frame."""
    window: int | None = None
    """Frames before its own that a frame attends to; None: as many as in training, fewer are cheaper."""
    precision: Precision = "float32"
    """bfloat16 is meant for GPUs (docs/gpu.md: not run yet); most CPUs gain nothing."""
    stabilise: float = 0.0
    """Noise level that dreamt frames are declared to have once they are in memory (Chen et al. 2024, section 3.3)."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.steps < 1:
            raise InputError(f"steps={self.steps}: give at least 1 denoising step")


PROFILES: Mapping[str, Sampling] = MappingProxyType(
    {
        "quality": Sampling(steps=8),
        "balanced": Sampling(steps=2),
        "realtime": Sampling(steps=1, window=1),
    }
)
"""Best first. On CUDA all of them compute in bfloat16, and models with `shortcut` keep their window (`named`)."""


class Sampler:
    """A world model that dreams under one `Sampling`."""

    def __init__(self, model: WorldModel, sampling: Sampling) -> None:
        halvings_of(sampling.steps, model.config.shortcut)  # raises for a number of steps that it has not learned
        self.model, self.sampling = model, sampling
        self.runtime = replace(model.backbone.runtime, window=sampling.window)

    def imagine(
        self,
        actions: Tensor,
        memory: Memory,
        *,
        generator: Noise,
        active: Tensor | None = None,
        pose: Tensor | None = None,
        in_place: bool = False,
    ) -> Imagined:
        """`WorldModel.imagine` with these settings; the model is left as it was found."""
        with self.applied():
            return self.model.imagine(
                actions,
                memory,
                steps=self.sampling.steps,
                generator=generator,
                active=active,
                pose=pose,
                stabilise=self.sampling.stabilise,
                in_place=in_place,
            )

    def denoised(self, noise: Tensor, actions: Tensor, memory: Memory, *, pose: Tensor | None = None) -> Tensor:
        """`WorldModel.denoised` with these settings, likewise."""
        with self.applied():
            return self.model.denoised(noise, actions, memory, steps=self.sampling.steps, pose=pose)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model computes with the window and the precision of these settings."""
        found = self.model.backbone.runtime
        self.model.backbone.use(self.runtime)
        half = self.sampling.precision == "bfloat16"
        try:
            with torch.autocast(self.model.device.type, torch.bfloat16, enabled=half):
                yield
        finally:
            self.model.backbone.use(found)


def named(name: str, model: WorldModel) -> Sampling:
    """The profile `name` for this model on its device, with a window no longer than the model's.

    A model with `shortcut` keeps its own, the only one that it was trained with: a window of 1 saved no more than a
    fifth of a frame's time (1 and 16 dreams of 16 and 64 tokens, windows of 4 and 10, one CPU thread).
    """
    if name not in PROFILES:
        raise InputError(f"unknown sampling profile '{name}': choose one of {', '.join(PROFILES)}")
    chosen, trained = PROFILES[name], model.config.window
    window = None if model.config.shortcut else chosen.window
    if window is not None:
        window = max(window, model.config.chunk)  # whole chunks
        window = window if trained is None else min(window, trained) or None
    return replace(chosen, window=window, precision="bfloat16" if model.device.type == "cuda" else "float32")


@dataclass(frozen=True)
class Measured:
    """How fast a profile dreams: frames per second of every row, by the slow calls (the 90th percentile)."""

    name: str
    sampling: Sampling
    fps: float


@torch.no_grad()
def measure(model: WorldModel, name: str, rows: int, *, calls: int = 10) -> Measured:
    """Dream `calls` times under a profile, after two calls to warm up."""
    if rows < 1:
        raise InputError(f"rows={rows}: give at least 1 dream")
    sampling = named(name, model)
    sampler, config = Sampler(model, sampling), model.config
    lead = (rows,) if config.chunk == 1 else (rows, config.chunk)
    actions = torch.full(lead, -1, device=model.device)
    if config.action_size:
        actions = torch.full((*lead, config.action_size), torch.nan, device=model.device)
    pose = torch.zeros(*lead, config.pose_size, device=model.device) if config.pose_size else None
    generator, memory, seconds = torch.Generator(model.device).manual_seed(0), model.empty(rows), []
    for _ in range(calls + 2):
        begin = time.perf_counter()
        memory = sampler.imagine(actions, memory, generator=generator, pose=pose).memory
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    slow = sorted(seconds[2:])[int(0.9 * (calls - 1))]
    return Measured(name, sampling, config.chunk / slow)


def fastest_enough(model: WorldModel, target_fps: float, rows: int) -> Measured:
    """The best profile in which every one of `rows` dreams gets `target_fps` frames per second here.

    Raises InputError where none does, with what was measured.
    """
    if not target_fps > 0:
        raise InputError(f"target_fps={target_fps}: give frames per second, more than 0")
    slower = []
    for name in PROFILES:
        measured = measure(model, name, rows)
        if measured.fps >= target_fps:
            return measured
        slower.append(f"{name} {measured.fps:.1f}")
    raise InputError(
        f"{rows} dreams at {target_fps} frames per second are more than this machine can do ({', '.join(slower)}): "
        "lower target_fps, dream fewer rows, or use a smaller model"
    )


def choose(
    model: WorldModel,
    rows: int,
    *,
    steps: int | None = None,
    profile: str | None = None,
    target_fps: float | None = None,
) -> Sampling:
    """The sampling that one of the three asks for, logged where it was measured; where none does, 2 steps, or 1 for a
    model with `shortcut`.
    """
    if sum(given is not None for given in (steps, profile, target_fps)) > 1:
        raise InputError(f"steps={steps}, profile={profile}, target_fps={target_fps}: give one of them")
    if target_fps is not None:
        measured = fastest_enough(model, target_fps, rows)
        logger.info("sampling profile %s: %.1f frames/s in each of %d dreams", measured.name, measured.fps, rows)
        return measured.sampling
    if profile is not None:
        return named(profile, model)
    return Sampling(steps=model.config.usual_steps if steps is None else steps)


@dataclass(frozen=True)
class Options:
    """Measure the sampling profiles of a checkpoint on this machine, and choose one."""

    checkpoint: tyro.conf.Positional[Path]
    """World model: a checkpoint folder, a name of `python -m lssvwm.worldmodel.worlds`, or hf://OWNER/NAME."""
    rows: int = 1
    """Dreams at once."""
    target_fps: float | None = None
    """Frames per second that every dream should get; the best profile that reaches it is named."""
    device: str = "cpu"
    """Where to dream: cpu, cuda, or auto for CUDA where there is one."""


def main(args: Sequence[str] | None = None) -> None:
    """Print what every profile reaches, and the choice."""
    options = tyro.cli(Options, args=args, prog=started_as("lssvwm.worldmodel.sampling"))
    model = load_checkpoint(options.checkpoint, device_of(options.device)).model
    for name in PROFILES:
        measured = measure(model, name, options.rows)
        s = measured.sampling
        window = "trained" if s.window is None else s.window
        print(f"{name:9s} {s.steps} steps, window {window}, {s.precision}: {measured.fps:7.1f} frames/s in each dream")
    if options.target_fps is not None:
        print(f"chosen: {fastest_enough(model, options.target_fps, options.rows).name}")


if __name__ == "__main__":
    run_main(main)
