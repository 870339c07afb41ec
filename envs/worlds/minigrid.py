"""MiniGrid as it is seen: the agent's view in colors, and on request where it stands and what lies around it."""

from __future__ import annotations

import importlib
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from lssvwm.envs.keys import MINIGRID, to_gymnasium

TILE = 8
"""Pixels of a cell's side."""


class MiniGridFrames(gym.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """The partial view as pixels, 8 to a cell: MiniGrid's own `image` holds codes of objects, not colors.

    With `extra_obs`, under the names that Memory Maze uses where it has the same:

        agent_pos  (2,) float64   x, y of the agent's cell
        agent_dir  (2,) float64   unit vector of its heading
        cells      (w, h) uint8   MiniGrid's code of the object in every cell of the whole grid
    """

    def __init__(self, env: gym.Env[Any, Any], extra_obs: bool = False) -> None:
        RecordConstructorArgs.__init__(self, extra_obs=extra_obs)
        wrappers = importlib.import_module("minigrid.wrappers")
        super().__init__(wrappers.RGBImgPartialObsWrapper(env, tile_size=TILE))
        self._extra_obs = extra_obs
        if extra_obs:
            assert isinstance(self.env.observation_space, spaces.Dict)
            width, height = self.unwrapped.width, self.unwrapped.height  # type: ignore[attr-defined]
            self.observation_space = spaces.Dict(
                {
                    **self.env.observation_space.spaces,
                    "agent_pos": spaces.Box(0, max(width, height), (2,), np.float64),
                    "agent_dir": spaces.Box(-1, 1, (2,), np.float64),
                    "cells": spaces.Box(0, 255, (width, height), np.uint8),
                }
            )

    def observation(self, observation: Any) -> Any:
        """Add what was asked for."""
        if not self._extra_obs:
            return observation
        world: Any = self.unwrapped
        extras = {
            "agent_pos": np.array(world.agent_pos, np.float64),
            "agent_dir": np.array(world.dir_vec, np.float64),
            "cells": world.grid.encode()[..., 0],
        }
        return {**observation, **extras}

    def get_keys_to_action(self) -> dict[tuple[int, ...], int]:
        """Which keys are which action, for `gymnasium.utils.play`."""
        return to_gymnasium(MINIGRID)
