"""Gymnasium's vector environment as a `VecEnv` of Stable-Baselines3; `agents.adapters` is the way in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from lssvwm.agents.adapters.needs import layers
from lssvwm.envs.spaces.masks import masks_of
from lssvwm.worldmodel.common.errors import InputError

_MASKS = "action_masks"
"""Under which sb3-contrib asks for masks."""


class GymnasiumVecEnv(VecEnv):  # type: ignore[misc]
    """Rows of one batched environment; what is asked of one row is answered for all, since they are one object."""

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        self.envs = envs  # before VecEnv's own __init__, which asks for the render mode
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)
        self.metadata = dict(envs.metadata)
        self._actions: Any = None
        self._info: Mapping[str, Any] = {}

    def reset(self) -> Any:
        """Observations of new episodes in all rows; seeds come from `seed()`, options from `set_options()`."""
        seeds = None if all(seed is None for seed in self._seeds) else list(self._seeds)
        options = self._options[0]
        if any(other != options for other in self._options):
            raise InputError("rows of one batched environment share their options: give set_options one dictionary")
        observations, info = self.envs.reset(seed=seeds, options=options or None)  # type: ignore[arg-type]
        self._info = info
        self._reset_seeds()
        self._reset_options()
        self.reset_infos: list[dict[str, Any]] = [_of_row(info, row) for row in range(self.num_envs)]
        return observations

    def step_async(self, actions: Any) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, Any, Any, list[dict[str, Any]]]:
        """Observations, float32 rewards, dones and one info per row, of the step or of the episode that it ended."""
        observations, rewards, terminated, truncated, info = self.envs.step(self._actions)
        self._info = info  # of rows that ended, that of the episode that has begun
        dones = terminated | truncated
        infos: list[dict[str, Any]] = [
            {"TimeLimit.truncated": False} | ({} if done else _of_row(info, row)) for row, done in enumerate(dones)
        ]
        for row in np.flatnonzero(dones).tolist():
            # What stands beside `final_info` was said of the episode that has just begun.
            self.reset_infos[row] = _of_row(info, row)
            infos[row].update(_of_row(info["final_info"], row))
            infos[row]["terminal_observation"] = info["final_obs"][row]
            infos[row]["TimeLimit.truncated"] = bool(truncated[row] and not terminated[row])
        # Stable-Baselines3 adds bootstrapped values to the rewards in place.
        return observations, np.array(rewards, np.float32), dones, infos

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions may follow the observations, (N, n), for sb3-contrib's MaskablePPO: all where nothing forbids.

        Raises InputError as `envs.spaces.masks.masks_of` does. Only of Discrete actions masks are known: of others,
        rows do not have the method.
        """
        count = int(self.action_space.n)
        allowed = masks_of(self._info, self.num_envs, count)
        return np.ones((self.num_envs, count), np.bool_) if allowed is None else allowed

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()

    def get_images(self) -> Sequence[Any]:
        """The current frame of every row."""
        frames = self.envs.render()
        return [None] * self.num_envs if frames is None else list(frames)

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of the environments, once per row."""
        found = self.action_masks if self._masked(attr_name) else getattr(self.envs.unwrapped, attr_name)
        return [found for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of the environments, which is that of all rows."""
        self._all_rows(indices, f"set {attr_name}")
        setattr(self.envs.unwrapped, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call a method of the environments once; every row gets the answer, of `action_masks` its own."""
        if self._masked(method_name):
            masks = self.action_masks()
            return [masks[row] for row in self._get_indices(indices)]
        self._all_rows(indices, f"call {method_name}()")
        answer = getattr(self.envs.unwrapped, method_name)(*args, **kwargs)
        return [answer] * self.num_envs

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Whether all rows together are wrapped; no row has wrappers of its own."""
        found = any(isinstance(layer, wrapper_class) for layer in layers(self.envs))
        return [found for _ in self._get_indices(indices)]

    def _masked(self, name: str) -> bool:
        return name == _MASKS and isinstance(self.action_space, spaces.Discrete)

    def _all_rows(self, indices: Any, wish: str) -> None:
        rows = set(self._get_indices(indices))
        if rows != set(range(self.num_envs)):
            raise InputError(
                f"cannot {wish} in rows {sorted(rows)} alone: all {self.num_envs} rows are one batched environment"
            )


def _of_row(info: Mapping[str, Any], row: int) -> dict[str, Any]:
    """The entries of a vector environment's info that row `row` has, without those of the episode before."""
    kept = [key for key in info if key not in ("final_obs", "final_info") and f"_{key}" in info]
    return {key: _entry(info[key], row) for key in kept if info[f"_{key}"][row]}


def _entry(values: Any, row: int) -> Any:
    if not isinstance(values, Mapping):
        return values[row]
    return {key: _entry(part, row) for key, part in values.items() if not key.startswith("_")}
