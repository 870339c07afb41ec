"""What an episode and a batch of clips are, and what makes an episode valid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lssvwm.worldmodel.actions import NO_ACTION as NO_ACTION
from lssvwm.worldmodel.common.errors import InputError

INVERSE_KEY = "inverse_actions"
"""Extra of an episode, int64 (1, A, n): the actions that undo each of A actions, filled up with -1; all -1: none."""

FPS_KEY = "fps"
"""Extra of an episode, one number: frames per second of the world, or of the video."""

INTENDED_KEY = "intended_action"
"""Extra of an episode, as its actions: what the player meant to do where noise decided what was done."""

KEYS = ("image", "action", "reward", "terminated", "truncated")
"""The arrays of every episode; all other keys are extras."""


@dataclass(frozen=True)
class Episode:
    """One episode on the project's time-line (`docs/timeline.md`); all arrays have T + 1 entries, frame 0 included.

    `action[t]` led to `image[t]`; `reward[t]`, `terminated[t]`, `truncated[t]` came with `image[t]`. Actions are whole
    numbers from 0, or vectors of A numbers where they are continuous; nothing led to frame 0, so action[0] is
    NO_ACTION or all NaN. A video of which no action is known has NO_ACTION throughout.
    `extras` holds whatever else was recorded, under any other key and of any shape: positions, layouts, the seed.
    """

    image: NDArray[np.uint8]  # (T + 1, h, w, 3)
    action: NDArray[np.int64] | NDArray[np.float32]  # (T + 1,) int64, or (T + 1, A) float32
    reward: NDArray[np.float32]  # (T + 1,), reward[0] = 0
    terminated: NDArray[np.bool_]  # (T + 1,)
    truncated: NDArray[np.bool_]  # (T + 1,)
    extras: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return every array under its key, the extras too."""
        return {key: getattr(self, key) for key in KEYS} | dict(self.extras)

    def beginning(self, frames: int) -> Episode:
        """Return the first frames, and those extras that are single values or have an entry for each frame."""
        lengths = {key: value.shape[0] if value.ndim else None for key, value in self.extras.items()}
        extras = {key: value for key, value in self.extras.items() if lengths[key] in (None, len(self.image))}
        extras = {key: value if lengths[key] is None else value[:frames] for key, value in extras.items()}
        return Episode(**{key: getattr(self, key)[:frames] for key in KEYS}, extras=extras)


@dataclass(frozen=True)
class Clips:
    """B windows of T frames. Frames past an episode's end are zero and have `mask` False.

    The action is NO_ACTION, or all NaN where actions are continuous, on frame 0 of an episode.
    """

    frames: Tensor  # (B, T, h, w, 3) uint8
    actions: Tensor  # (B, T) int64, or (B, T, A) float32
    rewards: Tensor  # (B, T) float32
    terminated: Tensor  # (B, T) bool
    mask: Tensor  # (B, T) bool
    pose: Tensor | None = None  # (B, T, P) float32
    told: Tensor | None = None  # (B, T, G) float32

    @property
    def goals(self) -> dict[str, Any]:
        """What is told, as `WorldModel.observe` takes it; nothing where nothing is."""
        return {} if self.told is None else {"told": self.told}

    def span(self, part: slice) -> Clips:
        """Return some of the frames of all clips."""
        return self.map(lambda values: values[:, part])

    def to(self, device: torch.device | str) -> Clips:
        """Return the same clips with every tensor on `device`."""
        return self.map(lambda part: part.to(device, non_blocking=True))

    def pin_memory(self) -> Clips:
        """Return the same clips in memory from which a GPU copies while it computes."""
        return self.map(Tensor.pin_memory)

    def rows(self, which: slice | Tensor) -> Clips:
        """Return some of the clips."""
        return self.map(lambda part: part[which])

    @staticmethod
    def cat(clips: Sequence[Clips]) -> Clips:
        """Return the clips of several batches, all with the same number of frames, as one."""
        return clips[0].map(lambda *parts: torch.cat(parts), *clips[1:])

    def map(self, function: Callable[..., Tensor], *others: Clips) -> Clips:
        """Return clips of what `function` makes of every tensor, and of those of `others` beside it."""
        parts = ([getattr(one, item.name) for one in (self, *others)] for item in fields(self))
        return Clips(*(None if part[0] is None else function(*part) for part in parts))  # type: ignore[arg-type]


def without_actions(actions: Tensor, where: Tensor) -> Tensor:
    """Actions (B, ...) int64 or (B, ..., A) floating, with "none" (-1 or NaN) where `where` (B, ...) is True."""
    if actions.is_floating_point():
        return actions.masked_fill(where[..., None], torch.nan)
    return actions.masked_fill(where, NO_ACTION)


def led_here(actions: Tensor) -> Tensor:
    """Which frames an action led to: actions (B, T) int64 or (B, T, A) floating -> (B, T) bool."""
    return ~actions.isnan().any(-1) if actions.is_floating_point() else actions != NO_ACTION


def cleared(values: Tensor, where: Tensor) -> Tensor:
    """Values (B, T, ...) with zero where `where` (B, T) is True."""
    return values.masked_fill(where.view(*where.shape, *[1] * (values.ndim - 2)), 0)


def check_episode(episode: Episode, source: str) -> None:
    """Raise InputError, naming `source`, unless shapes, dtypes and the time-line of `episode` are right."""

    def want(holds: bool, message: str) -> None:
        if not holds:
            raise InputError(f"{source}: {message}")

    image = episode.image
    want(
        image.dtype == np.uint8 and image.ndim == 4 and image.shape[3] == 3 and min(image.shape[1:]) > 0,
        f"'image' must be uint8 (T + 1, h, w, 3), got {image.dtype} {image.shape}",
    )
    frames = len(image)
    want(frames >= 2, f"an episode needs at least 2 frames, got {frames}")
    for key, dtype in (("reward", np.float32), ("terminated", np.bool_), ("truncated", np.bool_)):
        array = getattr(episode, key)
        want(
            array.dtype == dtype and array.shape == (frames,),
            f"'{key}' must be {np.dtype(dtype)} ({frames},), one entry per frame, got {array.dtype} {array.shape}",
        )
    action = episode.action
    if action.dtype == np.float32:
        want(
            action.ndim == 2 and len(action) == frames and action.shape[1] > 0,
            f"continuous 'action' must be float32 ({frames}, A), one row per frame, got {action.shape}",
        )
        want(bool(np.isnan(action[0]).all()), "action[0] must be all NaN, since nothing led to image[0]")
        want(bool(np.isfinite(action[1:]).all()), "action[1:] must be finite")
    else:
        want(
            action.dtype == np.int64 and action.shape == (frames,),
            f"'action' must be int64 ({frames},), one entry per frame, or float32 ({frames}, A) where actions are "
            f"continuous, got {action.dtype} {action.shape}",
        )
        want(
            int(action[0]) == NO_ACTION,
            f"action[0] must be {NO_ACTION}, since action[t] is the action that led to image[t], got {action[0]}",
        )
        want(
            int(action[1:].min()) >= 0 or bool((action == NO_ACTION).all()),
            f"action[1:] must be 0 or more, or {NO_ACTION} throughout in a video of which no action is known",
        )
    want(float(episode.reward[0]) == 0.0, f"reward[0] must be 0: nothing was done yet, got {episode.reward[0]}")
    want(bool(np.isfinite(episode.reward).all()), "'reward' must be finite")
    ends = np.flatnonzero(episode.terminated[:-1] | episode.truncated[:-1])
    want(
        len(ends) == 0,
        f"only the last frame may be terminated or truncated, but frame {ends[:1]} of {frames} is: write one file per "
        "episode",
    )
