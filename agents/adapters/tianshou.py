"""A dream as a `BaseVectorEnv` of Tianshou 2; `agents.adapters` is the way in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from tianshou.env import BaseVectorEnv

from lssvwm.worldmodel.common.errors import InputError


class TianshouEnv(BaseVectorEnv):  # type: ignore[misc]
    """Rows by number. There are no workers, so Tianshou's own `__init__`, which makes them, is not called."""

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        self.envs = envs
        self.env_num = envs.num_envs
        self.is_async = self.is_closed = False
        self.workers: list[Any] = []
        self.waiting_id: list[int] = []
        self.ready_id = list(range(envs.num_envs))
        self._seeds: list[int | None] = [None] * envs.num_envs

    def reset(
        self, env_id: int | list[int] | NDArray[np.int64] | None = None, **kwargs: Any
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Observations of new episodes in the rows `env_id`, in their order; `seed=s` gives row i the seed s + i."""
        self._assert_is_not_closed()
        if "seed" in kwargs:
            self.seed(kwargs["seed"])
        rows, mask = self._rows(env_id)
        seeds: Any = [seed if reset else None for seed, reset in zip(self._seeds, mask, strict=True)]
        options = None if mask.all() else {"reset_mask": mask}  # a reset of all rows may stagger them
        observations, _ = self.envs.reset(seed=seeds, options=options)
        self._seeds = [None if reset else seed for seed, reset in zip(self._seeds, mask, strict=True)]
        return _of_rows(observations, rows), np.array([{"env_id": row} for row in rows.tolist()])

    def step(
        self, action: Any, id: int | list[int] | NDArray[np.int64] | None = None
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Step the rows `id` alone; everything is given in their order."""
        self._assert_is_not_closed()
        rows, mask = self._rows(id)
        chosen = np.asarray(action)
        space = self.envs.single_action_space
        if isinstance(space, spaces.Dict):
            raise InputError(f"Tianshou knows no dictionaries of actions, these environments have {space}: wrap them")
        if chosen.shape != (*rows.shape, *(space.shape or ())):
            raise InputError(f"actions of shape {chosen.shape} for the rows {rows.tolist()}: give one for each")
        actions = np.repeat(chosen[:1], self.env_num, 0)  # those of the other rows only have to be valid
        actions[rows] = chosen
        observations, rewards, terminated, truncated, _ = self.envs.step(actions, mask=mask)  # type: ignore[call-arg]
        infos = np.array([{"env_id": row} for row in rows.tolist()])
        return _of_rows(observations, rows), rewards[rows], terminated[rows], truncated[rows], infos

    def seed(self, seed: int | list[int] | None = None) -> list[list[int] | None]:
        """Seeds for the next reset of each row: `seed + i`, or those of a list."""
        self._assert_is_not_closed()
        given = [seed + row for row in range(self.env_num)] if isinstance(seed, int) else seed
        self._seeds = [None] * self.env_num if given is None else [int(one) for one in given]
        return [None if one is None else [one] for one in self._seeds]

    def get_env_attr(self, key: str, id: int | list[int] | NDArray[np.int64] | None = None) -> list[Any]:
        """An attribute once per row: the spaces of a single row, all else of the whole environment."""
        self._assert_is_not_closed()
        single = f"single_{key}" if key in ("observation_space", "action_space") else key
        return [getattr(self.envs, single)] * len(self._rows(id)[0])

    def set_env_attr(self, key: str, value: Any, id: int | list[int] | NDArray[np.int64] | None = None) -> None:
        """Not for single rows, which are one environment: raises InputError."""
        raise InputError(f"cannot set {key} of rows: they are one batched environment, set it there")

    def render(self, **kwargs: Any) -> list[Any]:
        """The current frame of every row."""
        self._assert_is_not_closed()
        frames = self.envs.render()
        return [None] * self.env_num if frames is None else list(frames)

    def close(self) -> None:
        """Close the environments."""
        self._assert_is_not_closed()
        self.envs.close()
        self.is_closed = True

    def _rows(self, rows: int | list[int] | NDArray[np.int64] | None) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        chosen = np.arange(self.env_num) if rows is None else np.atleast_1d(np.asarray(rows, np.int64))
        mask = np.zeros(self.env_num, bool)
        mask[chosen] = True
        return chosen, mask


def _of_rows(observations: Any, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Tianshou wants one array: of frames or features, or of one dictionary per row."""
    if not isinstance(observations, Mapping):
        return np.asarray(observations[rows])
    return np.array([{key: values[row] for key, values in observations.items()} for row in rows.tolist()], object)
