"""What an episode and a batch of clips are, and what makes an episode valid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.errors import InputError

NO_ACTION = -1
"""The action of frame 0: nothing led to it."""


KEYS = ("image", "action", "reward", "terminated", "truncated")
"""The arrays of every episode; all other keys are extras."""


@dataclass(frozen=True)
class Episode:
    """One episode on the project's time-line (`docs/timeline.md`); all arrays have T + 1 entries, frame 0 included.

    `action[t]` led to `image[t]`; `reward[t]`, `terminated[t]`, `truncated[t]` came with `image[t]`.
    `extras` holds whatever else was recorded, under any other key and of any shape: positions, layouts, the seed.
    """

    image: NDArray[np.uint8]  # (T + 1, h, w, 3)
    action: NDArray[np.int64]  # (T + 1,), action[0] = NO_ACTION
    reward: NDArray[np.float32]  # (T + 1,), reward[0] = 0
    terminated: NDArray[np.bool_]  # (T + 1,)
    truncated: NDArray[np.bool_]  # (T + 1,)
    extras: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return every array under its key, the extras too."""
        return {key: getattr(self, key) for key in KEYS} | dict(self.extras)


@dataclass(frozen=True)
class Clips:
    """B windows of T frames. Frames past an episode's end are zero and have `mask` False."""

    frames: Tensor  # (B, T, h, w, 3) uint8
    actions: Tensor  # (B, T) int64, NO_ACTION on frame 0 of an episode
    rewards: Tensor  # (B, T) float32
    terminated: Tensor  # (B, T) bool
    mask: Tensor  # (B, T) bool

    def to(self, device: torch.device | str) -> Clips:
        """Return the same clips with every tensor on `device`."""
        return Clips(*(getattr(self, item.name).to(device, non_blocking=True) for item in fields(self)))


def check_episode(episode: Episode, source: str) -> None:
    """Raise InputError, naming `source`, unless shapes, dtypes and the time-line of `episode` are right."""

    def want(holds: bool, message: str) -> None:
        if not holds:
            raise InputError(f"{source}: {message}")

    image = episode.image
    want(
        image.dtype == np.uint8 and image.ndim == 4 and image.shape[3] == 3,
        f"'image' must be uint8 (T + 1, h, w, 3), got {image.dtype} {image.shape}",
    )
    frames = len(image)
    want(frames >= 2, f"an episode needs at least 2 frames, got {frames}")
    for key, dtype in (("action", np.int64), ("reward", np.float32), ("terminated", np.bool_), ("truncated", np.bool_)):
        array = getattr(episode, key)
        want(
            array.dtype == dtype and array.shape == (frames,),
            f"'{key}' must be {np.dtype(dtype)} ({frames},), one entry per frame, got {array.dtype} {array.shape}",
        )
    want(
        int(episode.action[0]) == NO_ACTION,
        f"action[0] must be {NO_ACTION}, since action[t] is the action that led to image[t], got {episode.action[0]}",
    )
    want(int(episode.action[1:].min()) >= 0, "action[1:] must be 0 or more")
    want(float(episode.reward[0]) == 0.0, f"reward[0] must be 0: nothing was done yet, got {episode.reward[0]}")
    want(bool(np.isfinite(episode.reward).all()), "'reward' must be finite")
    ends = np.flatnonzero(episode.terminated[:-1] | episode.truncated[:-1])
    want(
        len(ends) == 0,
        f"only the last frame may be terminated or truncated, but frame {ends[:1]} of {frames} is: write one file per "
        "episode",
    )
