"""What an action of a world is: one of n, or a vector of numbers that are choices or lie between bounds.

Models, files and policies have an action as one number (int64, `NO_ACTION` for none) where it is one of n, and as a
vector (A,) of float32, NaN for none, in all other cases: choices as their index, arrays flattened, part after part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import numpy as np

from lssvwm.worldmodel.common.errors import InputError, check_fields

NO_ACTION = -1
"""The action of frame 0: nothing led to it. The action of every frame, where none is known."""

Kind = Literal["discrete", "box", "multi-discrete", "multi-binary"]
Number = Literal[
    "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "bool"
]

MOST_NUMBERS = 4096
"""Of an action; a config file that is merely wrong must not fill the memory."""
_EXACT = 2**24
"""Whole numbers that float32 tells apart."""
_LARGEST = 1e38
"""Bounds whose distance is a number of float32 too."""


@dataclass(frozen=True)
class ActionPart:
    """A part of an action that stands on its own, as the spaces of Gymnasium have it."""

    kind: Kind
    shape: tuple[int, ...] = ()
    """Of the array that the environment takes; () is a single number."""
    choices: tuple[int, ...] = ()
    """From how many each number chooses, 0 to n - 1; empty for a box."""
    low: tuple[float, ...] = ()
    """The lowest value of each number of a box; empty with `high` where the bounds are not known."""
    high: tuple[float, ...] = ()
    dtype: Number = "int64"
    key: str = ""
    """Its name in a dictionary; empty where it is the whole action."""

    def __post_init__(self) -> None:
        check_fields(self, "action_parts.")
        given = (self.low, self.high) if self.kind == "box" else (self.choices,)
        other = (self.choices,) if self.kind == "box" else (self.low, self.high)
        if min(self.shape, default=1) < 1 or self.size > MOST_NUMBERS:
            raise InputError(f"an action of shape {self.shape}: give 1 to {MOST_NUMBERS} numbers")
        if any(other) or any(len(values) != self.size for values in given if values or self.kind != "box"):
            raise InputError(f"{self} describes no part of an action: its numbers are {self.size}")
        if len(self.low) != len(self.high) or any(
            not -_LARGEST <= low < high <= _LARGEST or np.float32(low) == np.float32(high)
            for low, high in zip(self.low, self.high, strict=True)
        ):
            raise InputError(
                f"low={self.low}, high={self.high} of an action: give lower bounds below the upper ones, as float32 "
                f"tells them apart, from -{_LARGEST:g} to {_LARGEST:g}"
            )
        if min(self.choices, default=1) < 1:
            raise InputError(f"choices={self.choices} of an action: give at least 1 each")

    @property
    def size(self) -> int:
        """Numbers that it has."""
        return math.prod(self.shape)

    @property
    def bounded(self) -> bool:
        """Whether what its numbers may be is known."""
        return bool(self.choices or self.low)


@dataclass(frozen=True)
class ActionSpec:
    """An action, by its parts. No part: nothing is told of actions."""

    parts: tuple[ActionPart, ...]

    def __post_init__(self) -> None:
        keys = [part.key for part in self.parts]
        if len(set(keys)) < len(keys) or ("" in keys and len(keys) > 1):
            raise InputError(f"an action has the parts {keys}: name each part, with a name of its own")
        if self.size > MOST_NUMBERS:
            raise InputError(f"an action of {self.size} numbers: {MOST_NUMBERS} are the most")
        if self.size and max(self.choices, default=0) > _EXACT:
            raise InputError(f"an action with {max(self.choices)} choices beside others: {_EXACT} are the most")

    @classmethod
    def discrete(cls, count: int) -> Self:
        """One of `count`; 0 for none."""
        return cls((ActionPart("discrete", choices=(count,)),) if count else ())

    @classmethod
    def unbounded(cls, size: int) -> Self:
        """Numbers (A,) of which nobody knows what they may be, as of recordings without an environment."""
        return cls((ActionPart("box", (size,), dtype="float32"),))

    @classmethod
    def box(cls, low: Sequence[float], high: Sequence[float]) -> Self:
        """Numbers (A,) between bounds, float32."""
        return cls((ActionPart("box", (len(low),), (), tuple(low), tuple(high), "float32"),))

    @classmethod
    def of(cls, actions: int | ActionSpec) -> ActionSpec:
        """Read a number as that of discrete actions."""
        return cls.discrete(actions) if isinstance(actions, int) else actions

    @property
    def count(self) -> int:
        """Number of actions where an action is one of so many; else 0."""
        whole = len(self.parts) == 1 and not self.parts[0].key and self.parts[0].kind == "discrete"
        return self.parts[0].choices[0] if whole else 0

    @property
    def size(self) -> int:
        """Numbers of the vector that an action is; 0 where it is one of `count`."""
        return 0 if self.count else sum(part.size for part in self.parts)

    @property
    def named(self) -> bool:
        """Whether the environment takes a dictionary."""
        return any(part.key for part in self.parts)

    @property
    def bounded(self) -> bool:
        """Whether what every number may be is known."""
        return all(part.bounded for part in self.parts)

    @property
    def choices(self) -> tuple[int, ...]:
        """Of each number, from how many it chooses; 0 where it lies between bounds."""
        return tuple(n for part in self.parts for n in part.choices or (0,) * part.size)

    @property
    def low(self) -> tuple[float, ...]:
        """The lowest value of each number; it must be `bounded`."""
        return tuple(low for part in self.parts for low in part.low or (0.0,) * part.size)

    @property
    def high(self) -> tuple[float, ...]:
        """The highest value of each number; it must be `bounded`."""
        return tuple(high for part in self.parts for high in part.high or (n - 1.0 for n in part.choices))

    def __str__(self) -> str:
        """As messages have it."""
        if self.count:
            return f"{self.count} actions"
        return ", ".join(_told(part) for part in self.parts) or "no actions"


class ToldActions(Protocol):
    """What a model's configuration says about actions."""

    @property
    def num_actions(self) -> int:
        """See `WorldModelConfig`."""
        ...

    @property
    def action_size(self) -> int:
        """See `WorldModelConfig`."""
        ...

    @property
    def action_parts(self) -> tuple[ActionPart, ...]:
        """See `WorldModelConfig`."""
        ...


def actions_of(config: ToldActions) -> ActionSpec:
    """The actions that a model is told; a box without bounds where it has learned from numbers alone."""
    if config.action_parts or not config.action_size:
        return ActionSpec(config.action_parts) if config.action_parts else ActionSpec.discrete(config.num_actions)
    return ActionSpec.unbounded(config.action_size)


def told(actions: ActionSpec) -> dict[str, Any]:
    """The fields of a model's configuration that say what its actions are."""
    parts = () if actions.count or not actions.bounded else actions.parts
    return {"num_actions": actions.count, "action_size": actions.size, "action_parts": parts}


def _told(part: ActionPart) -> str:
    name = f"{part.key}: " if part.key else ""
    if part.kind == "box":
        bounds = f"from {_one(part.low)} to {_one(part.high)}" if part.bounded else "without known bounds"
        return f"{name}{part.size} numbers {bounds}"
    return f"{name}{part.size} choices of {_one(part.choices)}"


def _one(values: tuple[float, ...]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else str(list(values))
