"""Policies that learn nothing: random and scripted ones to record with, and an oracle as the upper anchor."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lssvwm.agents.policies.minetest import NEED_EXTRAS, SCRIPTED
from lssvwm.agents.policies.minigrid import MemoryOracle
from lssvwm.envs.policy import Actions, FrameArray, IntArray, Policy, Remembering
from lssvwm.envs.spaces.masks import masks_of
from lssvwm.worldmodel.actions import ActionSpec
from lssvwm.worldmodel.common.errors import InputError

_FORWARD, _LEFT, _RIGHT, _FORWARD_LEFT, _FORWARD_RIGHT = 1, 2, 3, 4, 5
_MAZE_ACTIONS = 6
_SKY = np.array([73.0, 110.0, 146.0])  # RGB a little below the upper edge, the same in every maze


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
    """`policy`, but each action is one of `other` instead with probability `share`, independently in every step."""

    def __init__(self, policy: Policy, other: Policy, share: float) -> None:
        if not 0 <= share <= 1:
            raise InputError(f"explore={share}: give a share of the actions from 0 to 1")
        self.policy = policy
        self._policies, self._share = (policy, other), share
        self._randoms: dict[int, np.random.Generator] = {}

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
        done: Actions = np.where(explores.reshape(-1, *[1] * (chosen.ndim - 1)), others, chosen)
        if isinstance(self._policies[0], Remembering):
            self._policies[0].took(done)
        return done


class ScriptedMazePolicy:
    """Explores the Memory Maze from its frames alone: ahead where there is sky, turning where a wall hides it.

    Uniformly random actions stay within a few cells; this sees several times more of the maze, which is what makes
    recordings worth learning from. It knows nothing of balls and gets its rewards by accident.
    """

    def __init__(self, num_actions: int = _MAZE_ACTIONS) -> None:
        _require_maze_actions("scripted", num_actions)
        self._randoms: dict[int, np.random.Generator] = {}
        self._turns: dict[int, tuple[int, int]] = {}  # the turning action, and for how many more steps at least

    def reset(self, rows: IntArray, seeds: IntArray) -> None:
        """Start new episodes in `rows` from `seeds`."""
        for row, seed in zip(rows.tolist(), seeds.tolist(), strict=True):
            self._randoms[row] = np.random.default_rng(seed)
            self._turns[row] = (_LEFT, 0)

    def act(self, frames: FrameArray, info: Mapping[str, Any]) -> IntArray:
        """The next action of each of the N rows."""
        return np.array([self._next(row, frame) for row, frame in enumerate(frames)], np.int64)

    def _next(self, row: int, frame: FrameArray) -> int:
        random = self._randoms[row]
        turn, steps = self._turns[row]
        blocked = _wall_ahead(frame)
        if steps == 0 and random.random() < (0.15 if blocked else 0.08):
            # A step turns by 18 degrees. Also when the way is free: to look around, and off a corner that holds it.
            turn, steps = int(random.choice([_LEFT, _RIGHT])), int(random.integers(2, 7))
        self._turns[row] = (turn, max(steps - 1, 0))
        return turn if blocked or steps else _FORWARD


class MazeOracle:
    """Walks the shortest path to the wanted ball of the Memory Maze, seeing the map: an upper anchor, not a rival.

    Needs `agent_pos`, `agent_dir`, `target_pos` and `maze_layout` of every row in `info` (`extra_obs=True`).
    """

    def __init__(self, num_actions: int = _MAZE_ACTIONS) -> None:
        _require_maze_actions("oracle", num_actions)

    def reset(self, rows: IntArray, seeds: IntArray) -> None:
        """Nothing to do: it has no memory and no randomness."""

    def act(self, frames: FrameArray, info: Mapping[str, Any]) -> IntArray:
        """One step along the shortest path in each of the N rows.

        Raises InputError when `info` has not the map of every row.
        """
        keys = ("agent_pos", "agent_dir", "target_pos", "maze_layout")
        for key in keys:
            if key not in info or not np.all(info[f"_{key}"]):
                raise InputError(
                    f"the oracle needs '{key}' of every row in info: make the environment with extra_obs=True"
                )
        return np.array([_walk(*(info[key][row] for key in keys)) for row in range(len(frames))], np.int64)


_POLICIES: dict[str, Callable[[int], Policy]] = {
    "random": RandomPolicy,
    "scripted": ScriptedMazePolicy,
    "oracle": MazeOracle,
}
_MEMORY_WORLD = "MiniGrid-Memory"
_MEMORY_POLICIES: dict[str, Callable[[int], Policy]] = {
    "scripted": functools.partial(MemoryOracle, epsilon=0.1, wrong=0.5),
    "oracle": MemoryOracle,
}


def make_policy(name: str, actions: int | ActionSpec, env: str = "") -> Policy:
    """The policy `name` for the environment id `env` and its actions, or the number of them.

    "random" plays any environment, "scripted" and "oracle" the Memory Maze with its 6 actions, or the memory worlds of
    MiniGrid (`MiniGrid-Memory...`) with the actions 0, 1, 2. There both see the map (`extra_obs=True`); the scripted
    one errs on purpose, see `MemoryOracle`. "scripted" plays each of the Minetest worlds as well, with the world's own
    actions, see `agents.policies.minetest`.

    Raises InputError for another name, or where the actions are not those.
    """
    if name not in _POLICIES:
        raise InputError(f"there is no policy '{name}': choose one of {', '.join(_POLICIES)}")
    if name == "random":
        return RandomPolicy(actions)
    return (_POLICIES | _policies_of(env))[name](ActionSpec.of(actions).count)


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


def _require_maze_actions(name: str, num_actions: int) -> None:
    if num_actions != _MAZE_ACTIONS:
        raise InputError(
            f"the policy '{name}' plays the {_MAZE_ACTIONS} actions of the Memory Maze, this environment has "
            f"{num_actions}: choose 'random', or leave EnvConfig.actions at None"
        )


def _wall_ahead(frame: FrameArray) -> bool:
    """Whether a wall nearer than about 0.8 cells hides the sky straight ahead."""
    height, width, _ = frame.shape
    patch = frame[height // 16 : height // 8, width * 7 // 16 : width * 9 // 16]
    return bool(np.abs(patch.mean((0, 1)) - _SKY).max() > 8.0)


def _walk(
    position: NDArray[np.float64],
    direction: NDArray[np.float64],
    target: NDArray[np.float64],
    layout: NDArray[np.uint8],
) -> int:
    path = shortest_path(layout, _cell(position), _cell(target))
    # Aiming at the second next cell cuts corners into walls, aiming at a cell just reached turns on the spot.
    ahead = [np.array(cell) + 0.5 for cell in path[1:]]
    if len(ahead) > 1 and np.linalg.norm(ahead[0] - position) < 0.25:
        del ahead[0]
    wanted = (ahead[0] if ahead else target) - position
    cross = direction[0] * wanted[1] - direction[1] * wanted[0]
    angle = float(np.arctan2(cross, direction @ wanted))  # to the left is positive
    if abs(angle) < 0.2:
        return _FORWARD
    if abs(angle) < 0.9:
        return _FORWARD_LEFT if angle > 0 else _FORWARD_RIGHT
    return _LEFT if angle > 0 else _RIGHT


def shortest_path(layout: NDArray[np.uint8], start: tuple[int, int], goal: tuple[int, int]) -> list[tuple[int, int]]:
    """Cells (x, y) from `start` to `goal`, both included, moving along rows and columns of free cells.

    `layout` (rows, columns) is indexed [y, x]; nonzero is free. Empty when there is no way.
    """
    came_from: dict[tuple[int, int], tuple[int, int]] = {goal: goal}
    waiting = deque([goal])
    while waiting and start not in came_from:
        x, y = waiting.popleft()
        for cell in ((x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)):
            inside = 0 <= cell[0] < layout.shape[1] and 0 <= cell[1] < layout.shape[0]
            if inside and cell not in came_from and layout[cell[1], cell[0]]:
                came_from[cell] = (x, y)
                waiting.append(cell)
    if start not in came_from:
        return []
    path = [start]
    while path[-1] != goal:
        path.append(came_from[path[-1]])
    return path


def _cell(position: NDArray[np.float64]) -> tuple[int, int]:
    return int(position[0]), int(position[1])
