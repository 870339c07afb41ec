"""What happened on one side since the past began, on the project's time-line, to be saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lssvwm.envs.policy import FrameArray
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import NO_ACTION, Clips, Episode

LONGEST = 20_000
"""Frames that are kept, at most."""


class Record:
    """Frames, and the actions and rewards that came with them; the first `given` are those of the recorded past."""

    def __init__(self, past: Clips) -> None:
        self.frames: list[FrameArray] = list(past.frames[0].numpy())
        self.actions: list[int] = past.actions[0].tolist()
        self.rewards: list[float] = past.rewards[0].tolist()
        self.given = len(self.frames)
        self.terminated = self.truncated = False

    def __len__(self) -> int:
        return len(self.frames)

    def add(self, frame: FrameArray, action: int, reward: float, terminated: bool, truncated: bool) -> None:
        """Note one step."""
        self.frames.append(frame)
        self.actions.append(action)
        self.rewards.append(reward)
        self.terminated, self.truncated = terminated, truncated

    @property
    def ended(self) -> bool:
        """Whether it goes no further: the world said so, or `LONGEST` frames are kept."""
        return self.terminated or self.truncated or len(self) >= LONGEST

    @property
    def total(self) -> float:
        """Rewards since the past."""
        return sum(self.rewards[self.given :])

    def cut(self, length: int) -> None:
        """Forget what came after the first `length` frames."""
        for part in (self.frames, self.actions, self.rewards):
            del part[length:]
        self.terminated = self.truncated = False

    def episode(self, extras: Mapping[str, NDArray[Any]]) -> Episode:
        """All of it as an episode; one that did not end was truncated. Raises InputError for a single frame."""
        if len(self) < 2:
            raise InputError("there is one frame only: play a step before saving")
        last = np.arange(len(self)) == len(self) - 1
        return Episode(
            image=np.stack(self.frames),
            action=np.array([NO_ACTION, *self.actions[1:]], np.int64),
            reward=np.array([0.0, *self.rewards[1:]], np.float32),
            terminated=last & self.terminated,
            truncated=last & (not self.terminated),
            extras=dict(extras),
        )
