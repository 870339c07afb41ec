"""MineRL's dictionaries of observations and actions as Gymnasium spaces, and the values in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from lssvwm.envs.minecraft.minerl.protocol import Entry
from lssvwm.worldmodel.common.errors import InputError

INVENTORY = "inventory"
_ITEM = f"{INVENTORY}."


class Extras:
    """The observations besides the frame.

    `items`: the names of the entries of `inventory`, which is one array for all of them. `choices`: of the entries
    whose value is one of several names, these names in the order of the numbers. `spaces`: by name.
    """

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self.items = tuple(sorted(name.removeprefix(_ITEM) for name in entries if name.startswith(_ITEM)))
        self._single = {name: entry for name, entry in sorted(entries.items()) if not name.startswith(_ITEM)}
        self.choices = {name: entry.choices for name, entry in self._single.items() if entry.kind == "choice"}
        self.spaces: dict[str, spaces.Space[Any]] = {name: _space(entry) for name, entry in self._single.items()}
        if self.items:
            # One number for each item would be a thousand spaces in 1.0.x.
            most = max(entry.high for name, entry in entries.items() if name.startswith(_ITEM))
            self.spaces[INVENTORY] = spaces.Box(0, _integer(most), (len(self.items),), np.int64)

    def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What the worker sent, in these spaces. Raises KeyError for what it left out."""
        result = {name: _value(name, entry, values[name]) for name, entry in self._single.items()}
        if self.items:
            result[INVENTORY] = np.array([values[_ITEM + item] for item in self.items], np.int64)
        return result


def action_space(entries: Mapping[str, Entry]) -> spaces.Dict:
    """The full dictionary of actions: buttons and choices Discrete, camera (2,) float32 degrees."""
    return spaces.Dict({name: _space(entry) for name, entry in sorted(entries.items())})


def read_action(action: Any, entries: Mapping[str, Entry]) -> dict[str, Any]:
    """`action` as the worker takes it: whole numbers, lists of numbers, and choices by name.

    Choices may be given by number or name; what is left out is not done. Raises InputError for a key or a value that
    is not of the environment.
    """
    if not isinstance(action, Mapping):
        raise InputError(f"the action is {action!r}: give a dictionary with keys of {', '.join(sorted(entries))}")
    unknown = sorted(map(str, set(action) - set(entries)))
    if unknown:
        raise InputError(f"the action has {unknown}, this environment knows {', '.join(sorted(entries))}")
    return {name: _checked(name, entries[name], value) for name, value in action.items()}


def _checked(name: str, entry: Entry, value: Any) -> Any:
    if entry.kind == "choice":
        if isinstance(value, str) and value in entry.choices:
            return value
        number = np.asarray(value)
        if number.dtype.kind in "iu" and number.size == 1 and 0 <= number.item() < len(entry.choices):
            return entry.choices[number.item()]
        raise InputError(f"action '{name}' is {value!r}: choose one of {', '.join(entry.choices)}, or its number")
    array = np.asarray(value)
    fits = array.shape == entry.shape or (array.size == 1 and not entry.shape)
    if not fits or array.dtype.kind not in ("biu" if entry.integer else "iuf"):
        wanted = "a whole number" if entry.integer else f"numbers of shape {entry.shape}"
        raise InputError(f"action '{name}' is {value!r}: {wanted} is needed")
    if not ((array >= entry.low) & (array <= entry.high)).all():
        raise InputError(f"action '{name}' is {value!r}: it must be within {entry.low:g}..{entry.high:g}")
    if entry.integer and not entry.shape:
        return int(array.item())
    return array.astype(np.float64).tolist()


def _value(name: str, entry: Entry, value: Any) -> Any:
    if entry.kind == "choice":
        if value not in entry.choices:
            raise KeyError(f"'{name}' is {value!r}, which is not one of {entry.choices}")
        return np.int64(entry.choices.index(value))
    return np.array(value, np.int64 if entry.integer else np.float32)


def _space(entry: Entry) -> spaces.Space[Any]:
    if entry.kind == "choice":
        return spaces.Discrete(len(entry.choices))
    if entry.integer and not entry.shape and entry.low == 0 and entry.high == 1:
        return spaces.Discrete(2)
    if entry.integer:
        return spaces.Box(_integer(entry.low), _integer(entry.high), entry.shape, np.int64)
    return spaces.Box(entry.low, entry.high, entry.shape, np.float32)


def _integer(bound: float) -> int:
    limits = np.iinfo(np.int64)
    return int(min(max(bound, float(limits.min)), 2.0**62))
