"""Worlds at a lower rate: the agent acts at every n-th frame, and sees no others."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs

from worldmodel.errors import InputError


class EveryNth(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Repeats each action for `every` steps, or until the episode ends: rewards are summed, the last step is told.

    Time limits go on counting the environment's own steps; `render_fps` is `every` times lower.
    """

    def __init__(self, env: gym.Env[Any, Any], every: int) -> None:
        RecordConstructorArgs.__init__(self, every=every)
        super().__init__(env)
        if every < 1:
            raise InputError(f"every={every}: repeat actions 1 or more times")
        self.every = every
        if fps := env.metadata.get("render_fps"):
            self.metadata = {**env.metadata, "render_fps": fps / every}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As of the environment, after `every` steps."""
        total = 0.0
        for _ in range(self.every):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info
