"""Crafter (Hafner 2021, https://arxiv.org/abs/2109.06780) for Gymnasium: the package speaks the old gym."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from lssvwm.envs.policy import FrameArray
from lssvwm.worldmodel.common.errors import InputError, require


class Crafter(gym.Env[Any, np.int64]):
    """Survive in a land seen from above, 9 x 7 cells around the player: eat, drink, sleep, fight, build and mine.

    Reward 1 for the first time in an episode that each of 22 achievements is made, and 0.1 for each point of health won
    or lost. Observation: (size, size, 3) uint8. With `extra_obs` a dictionary:

        image         (size, size, 3) uint8
        agent_pos     (2,) float64   x, y of the player's cell
        inventory     (16,) int64    how many of each of `crafter.constants.items`: health, food, drink, ...
        achievements  (22,) int64    how often each of `crafter.constants.achievements` was made
        cells         (area, area) uint8   the whole land, in the package's codes of materials and creatures

    Actions: 17, `crafter.constants.actions`. The episode is terminated when the player dies; the registered id is
    truncated after 10,000 steps. The land and all that happens in it follow from the seed and the actions.

    Raises MissingExtraError when the package `crafter` is not installed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012 (gymnasium declares it so)

    def __init__(
        self, *, extra_obs: bool = False, size: int = 64, area: int = 64, render_mode: str | None = None
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise InputError(f"Crafter has no render mode '{render_mode}': choose rgb_array or None")
        if size < 9:
            raise InputError(f"Crafter has size {size}: give the side of the frame in pixels, 9 or more")
        if area < 16:
            raise InputError(f"Crafter has area {area}: give the side of the land in cells, 16 or more")
        crafter = require("crafter", "worlds", "Crafter")
        self._world: Any = crafter.Env(area=(area, area), size=(size, size), length=0, seed=0)
        balance = self._world._balance_chunk
        # Creatures lie in sets, whose order changes from process to process.
        self._world._balance_chunk = lambda chunk, creatures: balance(
            chunk, sorted(creatures, key=lambda creature: tuple(creature.pos))
        )
        names = crafter.constants
        self._extra_obs, self.render_mode = extra_obs, render_mode
        self._frame: FrameArray | None = None
        self._over = True
        self._count = len(names.actions)
        self.action_space = spaces.Discrete(self._count)
        image = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.observation_space: spaces.Space[Any] = image
        if extra_obs:
            many = np.iinfo(np.int64).max
            self.observation_space = spaces.Dict(
                {
                    "image": image,
                    "agent_pos": spaces.Box(0, area, (2,), np.float64),
                    "inventory": spaces.Box(0, 9, (len(names.items),), np.int64),
                    "achievements": spaces.Box(0, many, (len(names.achievements),), np.int64),
                    "cells": spaces.Box(0, 255, (area, area), np.uint8),
                }
            )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin in a new land. No options, no info."""
        super().reset(seed=seed)
        self._world._seed, self._world._episode = int(self.np_random.integers(2**31)), 0
        frame = self._world.reset()
        self._over = False
        return self._observation(frame), {}

    def step(self, action: np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Do one thing."""
        if self._over:
            raise gym.error.ResetNeeded("this episode is over or never began: call reset() before step()")
        if not self.action_space.contains(action):
            raise gym.error.InvalidAction(f"Crafter has actions 0..{self._count - 1}, got {action}")
        frame, reward, over, _ = self._world.step(int(action))
        self._over = bool(over)
        return self._observation(frame), float(reward), self._over, False, {}

    def render(self) -> FrameArray | None:
        """The current frame (size, size, 3), or None without a render mode."""
        if self.render_mode is None:
            return None
        if self._frame is None:
            raise gym.error.ResetNeeded("there is no frame to render yet: call reset() first")
        return self._frame.copy()

    def _observation(self, frame: FrameArray) -> Any:
        self._frame = frame
        if not self._extra_obs:
            return frame.copy()
        player = self._world._player
        return {
            "image": frame.copy(),
            "agent_pos": np.array(player.pos, np.float64),
            "inventory": np.array(list(player.inventory.values()), np.int64),
            "achievements": np.array(list(player.achievements.values()), np.int64),
            "cells": np.array(self._world._sem_view(), np.uint8),
        }
