"""Policies for the Memory Maze that learn nothing: two that go by their frames, and an oracle as the upper anchor."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lssvwm.envs.policy import Actions, FrameArray, IntArray
from lssvwm.worldmodel.common.errors import InputError

_FORWARD, _LEFT, _RIGHT, _FORWARD_LEFT, _FORWARD_RIGHT = 1, 2, 3, 4, 5
_MAZE_ACTIONS = 6
_HELD = 1.5  # of 255: frames that differ by less show the same
_SKY = np.array([73.0, 110.0, 146.0])  # RGB a little below the upper edge, the same in every maze


class ScriptedMazePolicy:
    """Explores the Memory Maze from its frames alone: ahead where there is sky, turning where a wall hides it.

    Uniformly random actions stay within a few cells; this sees several times more of the maze, which is what makes
    recordings worth learning from. It knows nothing of balls and gets its rewards by accident.
    """

    NAME = "scripted"

    def __init__(self, num_actions: int = _MAZE_ACTIONS) -> None:
        _require_maze_actions(self.NAME, num_actions)
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


class SeekingMazePolicy(ScriptedMazePolicy):
    """Goes to the wanted ball of the Memory Maze while it sees it, and explores otherwise: what is earned by no memory.

    By its frames alone, so that a world model may learn from its episodes: who knows where a ball is that was not shown
    yet teaches it that what is done tells what is there (docs/memory.md).
    """

    NAME = "seeker"

    def __init__(self, num_actions: int = _MAZE_ACTIONS) -> None:
        super().__init__(num_actions)
        self._last: dict[int, FrameArray | None] = {}
        self._freeing: dict[int, int] = {}
        self._done: Actions = np.zeros(0, np.int64)

    def reset(self, rows: IntArray, seeds: IntArray) -> None:
        """Start new episodes in `rows` from `seeds`."""
        super().reset(rows, seeds)
        self._last |= dict.fromkeys(rows.tolist())
        self._freeing |= dict.fromkeys(rows.tolist(), 0)

    def act(self, frames: FrameArray, info: Mapping[str, Any]) -> IntArray:
        """The next action of each of the N rows."""
        chosen = super().act(frames, info)
        self._done = chosen
        return chosen

    def took(self, actions: Actions) -> None:
        """Actions (N,) were done, instead of those that it chose last."""
        self._done = actions

    def _next(self, row: int, frame: FrameArray) -> int:
        last, self._last[row] = self._last[row], frame.copy()
        walked = last is not None and self._done[row] == _FORWARD
        if last is not None and walked and np.abs(frame - last.astype(np.float64)).mean() < _HELD:
            # A corner holds it on the straight way.
            self._freeing[row] = steps = int(self._randoms[row].integers(3, 8))
            self._turns[row] = (int(self._randoms[row].choice([_LEFT, _RIGHT])), steps)
        aside = None if self._freeing[row] else wanted_ball(frame)
        self._freeing[row] = max(self._freeing[row] - 1, 0)
        if aside is None:
            return super()._next(row, frame)
        self._turns[row] = (_LEFT, 0)
        return _steered(-aside, 0.6)


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


def _require_maze_actions(name: str, num_actions: int) -> None:
    if num_actions != _MAZE_ACTIONS:
        raise InputError(
            f"the policy '{name}' plays the {_MAZE_ACTIONS} actions of the Memory Maze, this environment has "
            f"{num_actions}: choose 'random', or leave EnvConfig.actions at None"
        )


def wanted_ball(frame: FrameArray) -> float | None:
    """How far aside the wanted ball is seen in a frame (h, w, 3): -1 at the left edge to 1 at the right; None: nowhere.

    What has the hue of the border below the horizon, where nothing of that hue stands above: that is a wall.
    """
    edge = max(1, len(frame) // 32)
    wanted = frame[0, frame.shape[1] // 2].astype(np.float64)
    view = frame[edge:-edge, edge:-edge].astype(np.float64)
    total, height = view.sum(-1), len(view)
    apart = np.abs(view / np.maximum(total, 1.0)[..., None] - wanted / wanted.sum()).sum(-1)
    alike = (apart < 0.08) & (total > 0.64 * wanted.sum())
    wall = alike[height // 5 : height * 2 // 5].any(0)
    columns = (alike[height // 2 - 2 :] & ~wall).sum(0)
    if columns.sum() < max(2, frame.size // 3000):
        return None
    return float(columns @ np.linspace(-1.0, 1.0, len(columns)) / columns.sum())


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
    return _steered(angle, 0.9)


def _steered(left: float, walking: float) -> int:
    """The action towards what lies so far to the left; up to `walking` it walks on while it turns."""
    if abs(left) < 0.2:
        return _FORWARD
    if abs(left) < walking:
        return _FORWARD_LEFT if left > 0 else _FORWARD_RIGHT
    return _LEFT if left > 0 else _RIGHT


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
