"""Environments as RLlib makes them; `agents.adapters` is the way in. RLlib itself is not needed to write this down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers.vector import TransformObservation
from numpy.typing import NDArray

from lssvwm.agents.adapters.needs import check, count_of, told_masks
from lssvwm.envs.spaces.masks import MASK_KEY
from lssvwm.worldmodel.common.errors import InputError


def creator(make: Callable[[int], VectorEnv[Any, Any, Any]], masks: bool) -> Callable[..., VectorEnv[Any, Any, Any]]:
    """`make(num_envs)`, checked, for the configuration that RLlib hands over; see `agents.adapters.for_rllib`."""

    def create(config: Mapping[str, Any]) -> VectorEnv[Any, Any, Any]:
        if "num_envs" not in config:
            raise InputError("RLlib asks for a single environment: set gym_env_vectorize_mode='vector_entry_point'")
        envs = make(int(config["num_envs"]))
        check(envs, "RLlib", AutoresetMode.NEXT_STEP, "numpy")
        return Masked(floats(envs)) if masks else floats(envs)

    return create


def floats(envs: VectorEnv[Any, Any, Any]) -> VectorEnv[Any, Any, Any]:
    """The environments with frames as float32 from 0 to 1, which RLlib's convolutions want; features as they are."""
    space = envs.single_observation_space
    if not isinstance(space, spaces.Box):
        raise InputError(f"RLlib's networks want one array, these environments observe {space}: set observation=")
    if space.dtype != np.uint8:
        return envs
    unit = spaces.Box(0.0, 1.0, space.shape, np.float32)
    return TransformObservation(envs, _unit, single_observation_space=unit)


def _unit(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    return frames.astype(np.float32) / np.float32(255)


class Masked(VectorWrapper[Any, Any, Any, Any]):
    """Observations {"action_mask": (N, n) float32, "observations": ...}, as RLlib's examples of masking have them."""

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(envs)
        self._count = count_of(envs)
        mask = spaces.Box(0.0, 1.0, (self._count,), np.float32)
        self.single_observation_space = spaces.Dict({MASK_KEY: mask, "observations": envs.single_observation_space})
        self.observation_space = batch_space(self.single_observation_space, envs.num_envs)

    def reset(self, **asked: Any) -> tuple[Any, dict[str, Any]]:
        """As the environments' own."""
        observations, info = self.env.reset(**asked)
        return self._told(observations, info, False), info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """As the environments' own. Beside the end of an episode everything is allowed: that action is ignored."""
        observations, rewards, terminated, truncated, info = self.env.step(actions)
        return self._told(observations, info, terminated | truncated), rewards, terminated, truncated, info

    def _told(self, observations: Any, info: dict[str, Any], ended: Any) -> dict[str, Any]:
        allowed = told_masks(info, self.num_envs, self._count, ended)
        return {MASK_KEY: allowed.astype(np.float32), "observations": observations}
