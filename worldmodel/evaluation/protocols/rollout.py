"""Trials run: a world model continues what it was shown, a few rows at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.common.rng import row_generators
from lssvwm.worldmodel.episodes import Clips, Episode
from lssvwm.worldmodel.evaluation.metrics.frames import psnr
from lssvwm.worldmodel.evaluation.protocols.trials import Trial, window
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.model import Features, WorldModel
from lssvwm.worldmodel.told import told_in

SEGMENT = 60
"""Frames observed at once, about: what bounds the memory that a long context takes."""


@dataclass(frozen=True)
class Rollout:
    """What a model imagined, per row and frame, and its memory after the last one."""

    frames: Tensor  # (B, T, h, w, 3) uint8
    rewards: Tensor  # (B, T)
    terminations: Tensor  # (B, T) probabilities
    features: Tensor  # (B, T, F)
    memory: Memory


class Observed(NamedTuple):
    """What the frames of every segment told, in order and without `inputs`, and the memory after the last one."""

    segments: list[Features]
    memory: Memory


@torch.no_grad()
def rollout(
    model: WorldModel,
    trial: Trial,
    *,
    steps: int | None,
    seed: int = 0,
    rows: int = 16,
    first: int = 0,
    progress: bool = False,
) -> Rollout:
    """Show `model` the context of every row, then let it imagine the horizon with `steps` denoising steps per frame.

    What a row imagines follows from `seed` and its number alone, which is `first` for the first one here: `rows`, how
    many are computed at once, is a matter of memory and speed. A model of chunks wants horizons of whole chunks.
    `steps` None: as many as the model usually takes.
    """
    count, horizon, chunk = *trial.ahead.mask.shape, model.config.chunk
    if horizon % chunk:
        raise InputError(f"horizon={horizon} must be whole chunks of {chunk} frames, which this model denoises jointly")
    parts: list[Rollout] = []
    with tqdm(total=count * horizon, desc="imagine", unit="frame", disable=not progress) as bar:
        for begin in range(0, count, rows):
            part = trial.rows(begin, begin + rows).to(model.device)
            here = len(part.ahead.mask)
            generators = row_generators(seed, 0, range(first + begin, first + begin + here), model.device)
            memory = observe(model, part.context, model.empty(here)).memory
            chunks, nothing = list[Rollout](), model.empty(0)
            for t in range(0, horizon, chunk):
                ahead = window(part.ahead, t, t + chunk)
                told = ahead if part.told is None else replace(ahead, actions=part.told[:, t : t + chunk])
                new = continue_clip(model, told, memory, steps=steps, generators=generators)
                memory = observe(model, ahead, memory).memory if trial.teacher else new.memory
                chunks.append(_joined([new], nothing, 0))  # no memory but the last one is kept
                bar.update(here * chunk)
            parts.append(_joined(chunks, memory.to("cpu"), 1))
    memories = [part.memory.state_dict() for part in parts]
    together = {key: torch.cat([each[key] for each in memories]) for key in memories[0]}
    return _joined(parts, parts[0].memory.load_state_dict(together), 0)


@dataclass(frozen=True)
class Dreamt:
    """A real episode dreamt again from its own beginning and actions."""

    frames: NDArray[np.uint8]  # (T + 1, h, w, 3), the first `context` are real
    context: int
    psnr: tuple[float, ...]  # of every dreamt frame against the real one, in dB


def dream_along(model: WorldModel, episode: Episode, *, context: int, steps: int | None) -> Dreamt:
    """Observe the first `context` frames, at most half of the episode, then dream on under its recorded actions."""
    context = max(1, min(context, len(episode.image) // 2))
    arrays = (episode.image, episode.action, episode.reward, episode.terminated, np.ones(len(episode.image), np.bool_))
    clips = Clips(*(torch.tensor(array)[None] for array in arrays))
    if parts := model.config.told:
        told = told_in(episode.extras, len(episode.image), parts, "the episode to dream along")
        clips = replace(clips, told=torch.from_numpy(told)[None])
    trial = Trial(window(clips, 0, context), window(clips, context, len(episode.image)))
    frames = rollout(model, trial, steps=steps).frames
    everything = torch.cat([trial.context.frames, frames], 1)[0]
    return Dreamt(everything.numpy(), context, tuple(psnr(frames, trial.ahead.frames)[0].tolist()))


def observe(model: WorldModel, clips: Clips, memory: Memory) -> Observed:
    """Let all frames of `clips` (B, T) enter `memory`, in segments; T may be 0."""
    length, seen = max(1, SEGMENT // model.config.chunk) * model.config.chunk, []
    for t in range(0, clips.mask.shape[1], length):
        part = window(clips, t, t + length)
        features, memory = model.observe(
            part.frames, part.actions, memory, pose=_pose(model, part.pose), **_goals(model, part)
        )
        seen.append(replace(features, inputs=features.inputs.new_empty(0)))  # many times larger than all the rest
    return Observed(seen, memory)


def continue_clip(
    model: WorldModel, told: Clips, memory: Memory, *, steps: int | None, generators: Sequence[torch.Generator]
) -> Rollout:
    """Imagine the frames of one chunk, `told` (B, c), of which only actions and poses are looked at."""
    one = model.config.chunk == 1
    pose = told.pose[:, 0] if one and told.pose is not None else told.pose
    actions = told.actions[:, 0] if one else told.actions
    new = model.imagine(actions, memory, steps=steps, generator=generators, pose=_pose(model, pose))
    values = (new.frame, new.reward, new.termination, new.features)
    frames, rewards, terminations, features = (value[:, None] if one else value for value in values)
    return Rollout(frames, rewards, terminations, features, new.memory)


def _joined(parts: Sequence[Rollout], memory: Memory, along: int) -> Rollout:
    """Several as one, along rows (0) or time (1), on the CPU."""
    names = ("frames", "rewards", "terminations", "features")
    parts_of = {name: [getattr(part, name) for part in parts] for name in names}
    joined: dict[str, Any] = {name: torch.cat(each, along).cpu() for name, each in parts_of.items()}
    return Rollout(**joined, memory=memory)


def _goals(model: WorldModel, clips: Clips) -> dict[str, Any]:
    """What is told, for a model that is told something."""
    return clips.goals if clips.told is not None and model.config.told else {}


def _pose(model: WorldModel, pose: Tensor | None) -> Tensor | None:
    """The pose for a model that is told one, so that models with and without can be shown the same clips."""
    if not model.config.pose_size:
        return None
    if pose is None:
        raise InputError(
            f"this world model is told a pose of {model.config.pose_size} numbers: name the extras of the episodes "
            "that hold it, as in training (--pose agent_pos,agent_dir)"
        )
    return pose
