"""A player of MiniGrid's memory worlds that sees the map: an upper anchor, and a collector where reward is rare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lssvwm.envs.policy import FrameArray, IntArray
from lssvwm.worldmodel.common.errors import InputError

_LEFT, _RIGHT, _FORWARD = 0, 1, 2
_THINGS = (5, 6)  # MiniGrid's codes of key and ball
_AHEAD, _BESIDE = 6, 3  # cells that the agent's view of 7 x 7 reaches
_KEYS = ("agent_pos", "agent_dir", "cells")


class MemoryOracle:
    """Looks at the cue first, then walks down the hallway to the thing that matches it.

    It could go there at once, since it sees the map. But its episodes are to learn from, and only in those in which
    the cue was in view does what follows depend on the frames. As a collector it errs on purpose, since a world model
    has to see failure as well: with probability `epsilon` an action is any of `num_actions`, and with probability
    `wrong` an episode heads for the thing that does not match.

    Needs `agent_pos`, `agent_dir` and `cells` of every row in `info` (`extra_obs=True`). Actions are MiniGrid's, of
    which it uses the first three: turn left, turn right, forward.
    """

    def __init__(self, num_actions: int, epsilon: float = 0.0, wrong: float = 0.0) -> None:
        if num_actions <= _FORWARD:
            raise InputError(
                f"the memory oracle turns left, turns right and walks by actions 0, 1 and 2, this environment has "
                f"{num_actions}: begin EnvConfig.actions with 0 1 2, or leave it at None"
            )
        for name, value in (("epsilon", epsilon), ("wrong", wrong)):
            if not 0 <= value <= 1:
                raise InputError(f"{name}={value} is a probability: give a number from 0 to 1")
        self._num_actions, self._epsilon, self._wrong = num_actions, epsilon, wrong
        self._randoms: dict[int, np.random.Generator] = {}
        self._knows: dict[int, bool] = {}  # whether the cue has been in view
        self._errs: dict[int, bool] = {}  # whether it heads for the wrong thing

    def __str__(self) -> str:
        """As recordings have it."""
        return f"MemoryOracle(epsilon={self._epsilon:g}, wrong={self._wrong:g})"

    def reset(self, rows: IntArray, seeds: IntArray) -> None:
        """Start new episodes in `rows` from `seeds`, which matter to a collector alone."""
        for row, seed in zip(rows.tolist(), seeds.tolist(), strict=True):
            self._randoms[row] = np.random.default_rng(seed)
            self._knows[row] = False
            self._errs[row] = bool(self._randoms[row].random() < self._wrong)

    def act(self, frames: FrameArray, info: Mapping[str, Any]) -> IntArray:
        """The next action of each of the N rows.

        Raises InputError when `info` has not the map of every row, or it is not that of a memory world.
        """
        for key in _KEYS:
            if key not in info or not np.all(info[f"_{key}"]):
                raise InputError(
                    f"the memory oracle needs '{key}' of every row in info: make a MiniGrid environment with "
                    "extra_obs=True"
                )
        return np.array([self._next(row, *(info[key][row] for key in _KEYS)) for row in range(len(frames))], np.int64)

    def _next(self, row: int, position: NDArray[Any], heading: NDArray[Any], cells: NDArray[np.uint8]) -> int:
        things = np.argwhere(np.isin(cells, _THINGS))  # x, y; the smallest x first
        if len(things) != 3:
            raise InputError(
                f"the memory oracle plays MiniGrid-Memory worlds, with one cue and two things to choose from; this map "
                f"shows {len(things)} keys and balls: choose another policy"
            )
        cue, *choices = things
        self._knows[row] |= in_view(cue, position, heading)
        random = self._randoms[row]
        if random.random() < self._epsilon:
            return int(random.integers(self._num_actions))
        goal = cue
        if self._knows[row]:
            matches = [bool(cells[tuple(choice)] == cells[tuple(cue)]) for choice in choices]
            goal = choices[matches.index(not self._errs[row])]
        return _turn_or_walk(heading, _way(position, goal, hallway=int(cue[1]) + 1))


def in_view(cell: NDArray[Any], position: NDArray[Any], heading: NDArray[Any]) -> bool:
    """Whether `cell` lies within the agent's view; all (2,): x, y, with y downwards. Walls are not looked at."""
    away = cell - position
    ahead, beside = away @ heading, away @ _clockwise(heading)
    return bool(0 <= ahead <= _AHEAD and abs(beside) <= _BESIDE)


def _way(position: NDArray[Any], goal: NDArray[Any], *, hallway: int) -> NDArray[Any]:
    """Unit vector of the next step towards `goal`: from one column to another only along the hallway's row."""
    if position[0] == goal[0]:
        return np.array([0.0, np.sign(goal[1] - position[1])])
    if position[1] != hallway:
        return np.array([0.0, np.sign(hallway - position[1])])
    return np.array([np.sign(goal[0] - position[0]), 0.0])


def _turn_or_walk(heading: NDArray[Any], way: NDArray[Any]) -> int:
    if (heading == way).all():
        return _FORWARD
    return _RIGHT if (_clockwise(heading) == way).all() else _LEFT


def _clockwise(heading: NDArray[Any]) -> NDArray[Any]:
    """The heading after a turn to the right."""
    return np.array([-heading[1], heading[0]])
