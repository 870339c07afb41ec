"""Gymnasium's two vector environments, with partial resets that touch nothing but the rows that are reset."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

from lssvwm.envs.policy import FrameArray, IntArray

FrameVectorEnv = VectorEnv[FrameArray, IntArray, NDArray[Any]]
"""N environments: observations (N, h, w, 3) uint8, actions (N,)."""


Create = Callable[[], gym.Env[Any, Any]]


class _WholeInfo(FrameVectorEnv):
    """Partial resets that leave the caller's options alone and keep the `info` of the rows that are not reset."""

    _last_info: dict[str, Any] | None = None

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[FrameArray, dict[str, Any]]:
        mask = None if options is None else options.get("reset_mask")
        if options is not None and mask is not None:
            mask = np.asarray(mask, np.bool_)
            options = {**options, "reset_mask": mask}
        frames, info = super().reset(seed=seed, options=None if options is None else dict(options))
        if mask is not None and self._last_info is not None:
            info = _overlay(self._last_info, info, ~mask)
        self._last_info = _own(info)
        return frames, info

    def step(self, actions: IntArray) -> tuple[FrameArray, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        result = super().step(actions)
        self._last_info = _own(result[-1])
        return result


def _own(info: Mapping[str, Any]) -> dict[str, Any]:
    """A copy that stays as it is, whatever the caller writes into arrays of `info`."""
    return {key: value.copy() if isinstance(value, np.ndarray) else value for key, value in info.items()}


if TYPE_CHECKING:
    _Sync = SyncVectorEnv[FrameArray, IntArray]
    _Async = AsyncVectorEnv[FrameArray, IntArray]
else:  # they take no parameters in Gymnasium 1.2
    _Sync, _Async = SyncVectorEnv, AsyncVectorEnv


class LocalRows(_WholeInfo, _Sync):
    """All rows in this process, one after the other."""

    def __init__(self, create: Create, num_envs: int) -> None:
        super().__init__([create] * num_envs, autoreset_mode=AutoresetMode.DISABLED)


class ProcessRows(_WholeInfo, _Async):
    """Each row in a process of its own, frames in shared memory. Ctrl-C interrupts the parent only."""

    def __init__(self, create: Create, num_envs: int) -> None:
        super().__init__(
            in_workers(create, num_envs),
            shared_memory=True,
            autoreset_mode=AutoresetMode.DISABLED,
            # A forked copy of a process that has rendered with OpenGL waits forever for render threads it lacks.
            context="forkserver",
        )


def in_workers(create: Create, num_envs: int) -> list[Create]:
    """What each of `num_envs` worker processes is to call; Ctrl-C then interrupts the process that called this only."""
    return [functools.partial(_create_row, os.getpid(), create)] * num_envs


def _create_row(parent: int, create: Create) -> gym.Env[Any, Any]:
    # The parent makes one too, to see the spaces. The terminal sends Ctrl-C to workers as well, but only the parent
    # can stop all of them in order.
    if os.getpid() != parent:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return create()


def _overlay(before: Mapping[str, Any], after: Mapping[str, Any], kept: NDArray[np.bool_]) -> dict[str, Any]:
    """`after`, with the entries that the `kept` rows had in `before`; nested dictionaries stay those of `after`."""
    result = dict(after)
    for key, values in before.items():
        if not isinstance(values, np.ndarray) or f"_{key}" not in before:
            continue
        rows = before[f"_{key}"] & kept
        now = np.asarray(after[key]) if key in after else np.zeros_like(values)
        result[key] = now.astype(np.promote_types(now.dtype, values.dtype))  # either may need the wider one
        result[key][rows] = values[rows]
        result[f"_{key}"] = after[f"_{key}"] | rows if key in after else rows
    return result
