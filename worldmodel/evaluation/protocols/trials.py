"""What a world model is asked: the frames it is shown, and those it has to continue with.

The protocols of the paper (section 4), one-step prediction, cold start, and contexts with something wrong in them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.common.rng import Generators, normal, row_generators, uniform
from lssvwm.worldmodel.episodes import Clips
from lssvwm.worldmodel.episodes.data import cleared, without_actions

Protocol = Literal["reasoning", "one-step", "retrieval", "cold-start", "dropped", "noised", "jumped"]
CORRUPTED: tuple[Protocol, ...] = ("dropped", "noised", "jumped")
"""These are reasoning after a context with something wrong in it."""


@dataclass(frozen=True)
class Trial:
    """One question per row. The model is shown `context` and told the actions and poses of `ahead`, whose frames,
    rewards and ends are the truth. `teacher`: every true frame is shown once it has been predicted. `told` replaces the
    actions under which frames are imagined; those that enter memory with true frames are the true ones.
    """

    context: Clips  # (B, n, ...), n may be 0
    ahead: Clips  # (B, horizon, ...)
    teacher: bool = False
    told: Tensor | None = None  # (B, horizon) int64, or (B, horizon, A)

    def rows(self, begin: int, end: int) -> Trial:
        """Rows `begin` to `end` alone."""
        part = slice(begin, end)
        told = None if self.told is None else self.told[part]
        return Trial(self.context.rows(part), self.ahead.rows(part), self.teacher, told)

    def to(self, device: torch.device | str) -> Trial:
        """The same on `device`."""
        told = None if self.told is None else self.told.to(device)
        return Trial(self.context.to(device), self.ahead.to(device), self.teacher, told)


@dataclass(frozen=True)
class Corruption:
    """What is wrong with a corrupted context."""

    drop: float = 0.25
    """Share of the context's frames that are missing, anywhere but at its end."""
    noise: float = 0.1
    """Deviation of the noise on every pixel, in units of the whole range."""
    gap: float = 0.25
    """Share of the context's frames that are cut out of its middle in one piece."""

    def __post_init__(self) -> None:
        for name in ("drop", "gap"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: give a share between 0 and 1")
        if self.noise <= 0:
            raise InputError(f"noise={self.noise}: give a strength above 0, such as 0.1")


def make_trial(
    protocol: Protocol,
    clips: Clips,
    *,
    context: int,
    horizon: int,
    chunk: int = 1,
    corruption: Corruption | None = None,
    seed: int = 0,
    first: int = 0,
) -> Trial:
    """The trial of a protocol on recorded clips (B, T); every row must have the frames that it needs.

    `chunk`: frames that the model denoises jointly; context and horizon are whole chunks. What a corruption takes away
    follows from `seed` and the number of the row, which is `first` for the first one here. An `InputError` says which
    frames are lacking.
    """
    if horizon < 1 or horizon % chunk or context % chunk:
        raise InputError(
            f"context={context} and horizon={horizon} must be whole chunks of the {chunk} frames that this model "
            "denoises jointly, and the horizon at least one"
        )
    if protocol == "cold-start":
        return Trial(window(clips, 0, 0), whole(window(clips, 0, horizon), protocol, horizon))
    if protocol == "retrieval":
        return retrieval(clips, context, horizon)
    trial = reasoning(clips, context, horizon)
    if protocol not in CORRUPTED:
        return replace(trial, teacher=protocol == "one-step")
    generators = row_generators(seed, 1, range(first, first + len(clips.mask)), clips.mask.device)
    return replace(trial, context=corrupted(protocol, trial.context, corruption or Corruption(), chunk, generators))


def reasoning(clips: Clips, context: int, horizon: int) -> Trial:
    """Frames 0 to `context` - 1, then the recorded actions and poses of the `horizon` frames after them."""
    if context < 1:
        raise InputError(f"context={context}: give at least 1 frame, or use the protocol cold-start")
    shown = whole(window(clips, 0, context + horizon), "reasoning", context + horizon)
    return Trial(window(shown, 0, context), window(shown, context, context + horizon))


def retrieval(clips: Clips, context: int, horizon: int) -> Trial:
    """Frames 0 to `context` - 1, then the same path backwards: frame `context` - 2 first.

    The model is told the poses of these frames, and no actions. Clips without poses are an `InputError`.
    """
    if clips.pose is None:
        raise InputError(
            "retrieval plays a path backwards, where only the agent's pose says where it goes: use a model that is "
            "told the pose (train one with --pose agent_pos,agent_dir on episodes that have these extras)"
        )
    if horizon > context - 1:
        raise InputError(f"horizon={horizon}: a context of {context} frames can be walked back {context - 1} at most")
    shown = whole(window(clips, 0, context), "retrieval", context)
    order = torch.arange(context - 2, context - 2 - horizon, -1)
    back = select(shown, order.expand(len(shown.mask), -1))
    everywhere = torch.ones_like(back.mask)
    ahead = replace(back, actions=without_actions(back.actions, everywhere), rewards=cleared(back.rewards, everywhere))
    return Trial(shown, ahead)


def corrupted(protocol: Protocol, shown: Clips, corruption: Corruption, chunk: int, generators: Generators) -> Clips:
    """A context with something wrong in it; what is missing is whole chunks, at least one, and leaves one."""
    if protocol == "noised":
        return noised(shown, corruption.noise, generators)
    frames = shown.mask.shape[1]
    count = max(1, round((corruption.drop if protocol == "dropped" else corruption.gap) * frames / chunk)) * chunk
    if count > frames - chunk:
        raise InputError(f"a context of {frames} frames is too short to take {count} away: use a longer one")
    return dropped(shown, count, generators) if protocol == "dropped" else jumped(shown, count)


def dropped(clips: Clips, count: int, generators: Generators) -> Clips:
    """The clips without `count` frames each, drawn anew for every row; the last frame stays."""
    rows, frames = clips.mask.shape
    ranks = uniform((rows, frames - 1), generators, clips.rewards).argsort(1)
    kept = torch.cat([ranks[:, count:].sort(1).values, torch.full((rows, 1), frames - 1)], 1)
    return select(clips, kept)


def jumped(clips: Clips, count: int) -> Clips:
    """The clips without the `count` frames in their middle: what comes after does not follow from what was before."""
    rows, frames = clips.mask.shape
    begin = (frames - count) // 2
    kept = torch.cat([torch.arange(begin), torch.arange(begin + count, frames)])
    return select(clips, kept.expand(rows, -1))


def noised(clips: Clips, strength: float, generators: Generators) -> Clips:
    """The clips with Gaussian noise of deviation 255 * `strength` on every pixel, rounded and clamped."""
    noise = normal(tuple(clips.frames.shape), generators, clips.rewards) * (255 * strength)
    return replace(clips, frames=(clips.frames + noise).round().clamp(0, 255).to(torch.uint8))


def window(clips: Clips, begin: int, end: int) -> Clips:
    """Frames `begin` to `end` of every clip, as many of them as there are."""
    return clips.map(lambda part: part[:, begin:end])


def select(clips: Clips, index: Tensor) -> Clips:
    """Frames `index` (B, n) of every clip, in that order."""
    row = torch.arange(len(index))[:, None]
    return clips.map(lambda part: part[row, index])


def whole(clips: Clips, protocol: Protocol, length: int) -> Clips:
    """The clips themselves, or an `InputError` if one has fewer than `length` frames."""
    shortest = int(clips.mask.sum(1).min()) if clips.mask.numel() else 0
    if shortest < length:
        raise InputError(
            f"{protocol} needs clips of {length} frames, the shortest has {shortest}: "
            "use a shorter context or horizon, or longer episodes"
        )
    return clips
