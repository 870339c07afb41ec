"""What the Minetest tasks pay for, when they end, and what they tell besides the frame. `mod/tasks.lua` builds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from lssvwm.worldmodel.common.errors import InputError

State = Mapping[str, Any]
"""The mod's state after a step: `pos`, `inventory`, `task` and more; see `Tick.state` of the engine."""

LOGS_TO_CHOP = 64
"""Treechop ends with so many logs, as MineRL's does."""

CELL = 4
"""Side in nodes of the columns that Explore pays for."""

STAGES = (
    ("log", "default:tree"),
    ("planks", "default:wood"),
    ("sticks", "default:stick"),
    ("wooden_pickaxe", "default:pick_wood"),
    ("cobblestone", "default:cobble"),
    ("stone_pickaxe", "default:pick_stone"),
)
"""Stages of Craft in their order: name, and the item that has to be in the inventory."""

_PLANK, _STICK, _COBBLE = "default:wood", "default:stick", "default:cobble"
RECIPES: Mapping[str, tuple[str, ...]] = {
    "planks": ("default:tree", *[""] * 8),
    "sticks": (_PLANK, *[""] * 8),
    "wooden_pickaxe": (_PLANK, _PLANK, _PLANK, "", _STICK, "", "", _STICK, ""),
    "stone_pickaxe": (_COBBLE, _COBBLE, _COBBLE, "", _STICK, "", "", _STICK, ""),
}
"""What lies in the 3 x 3 grid, row by row, for each craft. What comes out is the game's to say: 4 planks, 4 sticks."""


class Outcome(NamedTuple):
    """What a step brought."""

    reward: float
    terminated: bool


class Task(Protocol):
    """Keeps the account of one episode after the other."""

    @property
    def extras(self) -> Mapping[str, spaces.Space[Any]]:
        """Spaces of what `observe` tells."""
        ...

    def begin(self, state: State) -> None:
        """A new episode begins in `state`."""
        ...

    def advance(self, state: State) -> Outcome:
        """A step has led to `state`."""
        ...

    def observe(self, state: State) -> dict[str, NDArray[Any] | int]:
        """The extras in `state`."""
        ...


def place_space() -> spaces.Box:
    """A position x, y, z in nodes; y is up, the map reaches about 31,000 nodes from its middle."""
    return spaces.Box(-40_000.0, 40_000.0, (3,), np.float64)


def _target_spaces() -> dict[str, spaces.Space[Any]]:
    return {"target_pos": place_space(), "target_near": spaces.Discrete(2)}


def _target(node: Mapping[str, float] | None) -> dict[str, NDArray[Any] | int]:
    position = (0.0, 0.0, 0.0) if node is None else (node["x"], node["y"], node["z"])
    return {"target_pos": np.array(position, np.float64), "target_near": int(node is not None)}


class Treechop:
    """Reward 1 for each log dug, wherever it stood; ends with `LOGS_TO_CHOP`.

    Extras: `target_pos` (3,), the middle of the log nearest to the eyes, and `target_near`, 0 where there is none
    within 12 nodes, and then `target_pos` is 0.
    """

    extras = _target_spaces()

    def begin(self, state: State) -> None:
        """Nothing is dug."""
        self._logs = int(state["task"]["logs"])

    def advance(self, state: State) -> Outcome:
        """Pays for the logs dug since the last step."""
        before, self._logs = self._logs, int(state["task"]["logs"])
        return Outcome(float(self._logs - before), self._logs >= LOGS_TO_CHOP)

    def observe(self, state: State) -> dict[str, NDArray[Any] | int]:
        """The nearest log."""
        return _target(state["task"].get("log"))


class Explore:
    """Reward 1 for each column of `CELL` x `CELL` nodes entered for the first time; the first one pays nothing.

    Extras: `visited`, how many columns were entered, the first one included. It never ends.
    """

    extras = {"visited": spaces.Discrete(1_000_000)}  # noqa: RUF012 (the Protocol has it as a property)

    def begin(self, state: State) -> None:
        """Only the column of the start is known."""
        self._cells = {_cell(state)}

    def advance(self, state: State) -> Outcome:
        """Pays where the column is new."""
        before = len(self._cells)
        self._cells.add(_cell(state))
        return Outcome(float(len(self._cells) - before), False)

    def observe(self, state: State) -> dict[str, NDArray[Any] | int]:
        """How much was seen."""
        return {"visited": len(self._cells)}


class Unpaid:
    """No reward and no end: worlds to record and to remember. No extras."""

    extras: Mapping[str, spaces.Space[Any]] = {}

    def begin(self, state: State) -> None:
        """Nothing to keep."""

    def advance(self, state: State) -> Outcome:
        """Never pays, never ends."""
        return Outcome(0.0, False)

    def observe(self, state: State) -> dict[str, NDArray[Any] | int]:
        """Nothing."""
        return {}


class Craft:
    """Reward 1 for each of `STAGES` when its item is in the inventory, in that order only; the last one ends it.

    Extras: `stage`, how many are done, and `target_pos`, `target_near` as of `Treechop` for the node to dig next: stone
    once there is a pickaxe, logs before.
    """

    extras = {**_target_spaces(), "stage": spaces.Discrete(len(STAGES) + 1)}  # noqa: RUF012

    def begin(self, state: State) -> None:
        """No stage is done."""
        self._stage = 0

    def advance(self, state: State) -> Outcome:
        """Pays for the stages that are done now."""
        before = self._stage
        while self._stage < len(STAGES) and state["inventory"].get(STAGES[self._stage][1], 0):
            self._stage += 1
        return Outcome(float(self._stage - before), self._stage == len(STAGES))

    def observe(self, state: State) -> dict[str, NDArray[Any] | int]:
        """The stage, and what to dig."""
        digs_stone = "default:pick_wood" in state["inventory"]
        return {**_target(state["task"].get("stone" if digs_stone else "log")), "stage": self._stage}


@dataclass(frozen=True)
class TaskKind:
    """A task by name: its account, its usual action set and the items that the extra `inventory` counts."""

    create: Callable[[], Task]
    actions: str
    items: tuple[str, ...] = ()


_LOGS = tuple(f"default:{name}" for name in ("tree", "pine_tree", "aspen_tree", "jungletree", "acacia_tree"))

TASKS: Mapping[str, TaskKind] = {
    "treechop": TaskKind(Treechop, "treechop", _LOGS),
    "explore": TaskKind(Explore, "teco"),
    "lookaway": TaskKind(Unpaid, "turns"),
    "retrace": TaskKind(Unpaid, "walk"),
    "craft": TaskKind(Craft, "craft", tuple(item for _, item in STAGES)),
}
"""The tasks that `MinetestEnv` knows."""


def find_task(name: str) -> TaskKind:
    """The task `name`. Raises InputError for another name."""
    if name not in TASKS:
        raise InputError(f"Minetest has no task '{name}': choose one of {', '.join(TASKS)}")
    return TASKS[name]


def _cell(state: State) -> tuple[int, int]:
    x, _, z = state["pos"]
    return int(x // CELL), int(z // CELL)
