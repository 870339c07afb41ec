"""Some of the layouts that a procedurally made world draws from, so that others can be kept for evaluation."""

from __future__ import annotations

import sys
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from lssvwm.worldmodel.common.errors import InputError

_PATIENCE = 1000
"""Seeds of which none brings a layout that is new, before it is said that there are no more."""


class Layouts(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Every episode has one of the layouts `first .. first + count - 1`, drawn from the seed of `reset`.

    What a layout is, and so what is held out by other numbers, depends on the world:

        MiniGrid, BabyAI   the whole grid, the agent's place and heading, and the mission: number k is the k-th that
                           differs from all before it, over the seeds 0, 1, 2, ...
        Memory Maze        the walls, of `maze_seed` k; starts and balls follow from the seed as ever
        others             the episode's seed, k, and whatever follows from that

    Raises InputError at `reset` where a MiniGrid world has fewer layouts.
    """

    def __init__(self, env: gym.Env[Any, Any], first: int, count: int) -> None:
        RecordConstructorArgs.__init__(self, first=first, count=count)
        super().__init__(env)
        self._first, self._count = first, count
        self._source = np.random.default_rng()
        self._seeds: list[int] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin in a layout that follows from `seed`, or from the draws before."""
        if seed is not None:
            self._source = np.random.default_rng(seed)
        number = self._first + int(self._source.integers(self._count))
        if hasattr(self.env.unwrapped, "maze_seed"):
            of_maze = {**(options or {}), "maze_seed": number}
            return self.env.reset(seed=int(self._source.integers(2**31)), options=of_maze)
        if not is_grid(self.env):
            return self.env.reset(seed=number, options=options)
        if not self._seeds:
            self._seeds = _seeds(self.env.unwrapped, self._first + self._count)
        return self.env.reset(seed=self._seeds[number], options=options)


def is_grid(env: gym.Env[Any, Any]) -> bool:
    """Whether `env` is a world of MiniGrid."""
    minigrid = sys.modules.get("minigrid.minigrid_env")
    return minigrid is not None and isinstance(env.unwrapped, minigrid.MiniGridEnv)


def layout_of(env: gym.Env[Any, Any]) -> bytes:
    """What distinguishes the state that a world of MiniGrid is in from others; it has to have been reset."""
    world: Any = env.unwrapped
    x, y = world.agent_pos
    grid: bytes = world.grid.encode().tobytes()
    return grid + f" {x} {y} {world.agent_dir} {world.mission}".encode()


def _seeds(world: gym.Env[Any, Any], wanted: int) -> list[int]:
    """The first seed of each of the first `wanted` layouts."""
    found: dict[bytes, int] = {}
    seed = 0
    while len(found) < wanted:
        if seed > _PATIENCE + max(found.values(), default=0):
            raise InputError(
                f"{type(world).__name__} has {len(found)} layouts in {seed} seeds, layouts ask for {wanted}"
            )
        world.reset(seed=seed)
        found.setdefault(layout_of(world), seed)
        seed += 1
    return list(found.values())
