"""Policies that learn nothing: random and scripted ones to record with, and an oracle as the upper anchor."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lssvwm.agents.policies.memory_maze import MazeOracle, ScriptedMazePolicy, SeekingMazePolicy
from lssvwm.agents.policies.minetest import NEED_EXTRAS, SCRIPTED
from lssvwm.agents.policies.minigrid import MemoryOracle
from lssvwm.envs.policy import Actions, FrameArray, IntArray, Policy, Remembering, policy_name
from lssvwm.envs.spaces.masks import masks_of
from lssvwm.worldmodel.actions import ActionSpec
from lssvwm.worldmodel.common.errors import InputError


class RandomPolicy:
    """Every allowed action equally likely, independently in every step; a number of them, or what they are."""

    def __init__(self, actions: int | ActionSpec) -> None:
        self._actions = ActionSpec.of(actions)
        self._randoms: dict[int, np.random.Generator] = {}

    def reset(self, rows: IntArray, seeds: IntArray) -> None:
        """Start new episodes in `rows` from `seeds`."""
        for row, seed in zip(rows.tolist(), seeds.tolist(), strict=True):
            self._randoms[row] = np.random.default_rng(seed)

    def act(self, frames: FrameArray, info: Mapping[str, Any]) -> Actions:
        """An action for each of the N rows, (N,) or (N, A)."""
        actions, randoms = self._actions, [self._randoms[row] for row in range(len(frames))]
        if actions.count:
            allowed = masks_of(info, len(frames), actions.count)
            if allowed is None:
                return np.array([random.integers(actions.count) for random in randoms], np.int64)
            offered = [np.flatnonzero(row) for row in allowed]
            return np.array([own[random.integers(len(own))] for own, random in zip(offered, randoms, strict=True)])
        low, high, choices = (np.array(part) for part in (actions.low, actions.high, actions.choices))
        drawn = np.stack([random.random(actions.size) for random in randoms])
        # Rounding to 32 bits must not lead out of the bounds.
        box = np.clip((low + (high - low) * drawn).astype(np.float32), low, high)
        return np.where(choices > 0, np.floor(choices * drawn), box).astype(np.float32)


class Exploring:
    """`policy`, but each action is one of `other` instead with probability `share`, independently in every step.

    Recordings keep what `policy` chose beside what was done (DART, Laskey et al. 2017): so that those who clone it see
    how it goes on after errors, and do not learn the errors.
    """

    def __init__(self, policy: Policy, other: Policy, share: float) -> None:
        if not 0 <= share <= 1:
            raise InputError(f"explore={share}: give a share of the actions from 0 to 1")
        self.policy = policy
        self._policies, self._share = (policy, other), share
        self._randoms: dict[int, np.random.Generator] = {}

    def __str__(self) -> str:
        """As recordings have it."""
        policy, other = map(policy_name, self._policies)
        return f"Exploring({policy}, {other}:{self._share:g})"

    def reset(self, rows: IntArray, seeds: IntArray) -> None:
        """Start new episodes in `rows` from `seeds`."""
        for policy in self._policies:
            policy.reset(rows, seeds)
        for row, seed in zip(rows.tolist(), seeds.tolist(), strict=True):
            self._randoms[row] = np.random.default_rng((seed, 1))  # not what `other` draws from

    def act(self, frames: FrameArray, info: Mapping[str, Any]) -> Actions:
        """The next action of each of the N rows."""
        chosen, others = (policy.act(frames, info) for policy in self._policies)
        explores = np.array([self._randoms[row].random() < self._share for row in range(len(frames))])
        self._chosen = chosen
        done: Actions = np.where(explores.reshape(-1, *[1] * (chosen.ndim - 1)), others, chosen)
        if isinstance(self._policies[0], Remembering):
            self._policies[0].took(done)
        return done

    def intended(self) -> Actions:
        """What `policy` chose in the last `act`."""
        return self._chosen


_POLICIES: dict[str, Callable[[int], Policy]] = {
    "random": RandomPolicy,
    "scripted": ScriptedMazePolicy,
    "seeker": SeekingMazePolicy,
    "oracle": MazeOracle,
}
_MAZE, _MEMORY_WORLD = "MemoryMaze", "MiniGrid-Memory"
_MEMORY_POLICIES: dict[str, Callable[[int], Policy]] = {
    "scripted": functools.partial(MemoryOracle, epsilon=0.1, wrong=0.5),
    "oracle": MemoryOracle,
}


def make_policy(name: str, actions: int | ActionSpec, env: str = "") -> Policy:
    """The policy `name` for the environment id `env` and its actions, or the number of them.

    "random" plays any environment, "scripted", "seeker" and "oracle" the Memory Maze with its 6 actions, "scripted" and
    "oracle" the memory worlds of MiniGrid (`MiniGrid-Memory...`) with the actions 0, 1, 2. There both see the map
    (`extra_obs=True`); the scripted one errs on purpose, see `MemoryOracle`. "scripted" plays each of the Minetest
    worlds as well, with the world's own actions, see `agents.policies.minetest`.

    Raises InputError for another name, for another world, or where the actions are not those.
    """
    if name == "random":
        return RandomPolicy(actions)
    check_plays(name, env)
    return (_POLICIES | _policies_of(env))[name](ActionSpec.of(actions).count)


def check_plays(name: str, env: str) -> None:
    """Raise InputError for a policy that there is not, and for one that is not made for the environment id `env`.

    Those of the Memory Maze play ids that contain "MemoryMaze", and where no id is known.
    """
    if name not in _POLICIES:
        raise InputError(f"there is no policy '{name}': choose one of {', '.join(_POLICIES)}")
    own = _policies_of(env)
    if env and name not in ("random", *own) and _MAZE not in env:
        raise InputError(
            f"the policy '{name}' does not play {env}: choose {' or '.join(['random', *own])} (mazes have "
            "'MemoryMaze' in their id)"
        )


def needs_map(name: str, env: str) -> bool:
    """Whether the policy `name` plays the environment id `env` by what only `extra_obs=True` shows."""
    if name == "scripted" and _without_module(env) in SCRIPTED:
        return _without_module(env) in NEED_EXTRAS
    return name == "oracle" or name in _policies_of(env)


def _policies_of(env: str) -> dict[str, Callable[[int], Policy]]:
    if _without_module(env).startswith(_MEMORY_WORLD):
        return _MEMORY_POLICIES
    return {"scripted": SCRIPTED[_without_module(env)]} if _without_module(env) in SCRIPTED else {}


def _without_module(env: str) -> str:
    return env.rpartition(":")[2]
