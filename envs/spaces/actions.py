"""Action spaces of Gymnasium and what models, files and policies have of them (`worldmodel.actions`), both ways."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
from gymnasium import spaces

from lssvwm.envs.policy import Actions
from lssvwm.worldmodel.actions import NO_ACTION, ActionPart, ActionSpec, Number
from lssvwm.worldmodel.common.errors import InputError, one_line


def spec_of(space: spaces.Space[Any], name: str) -> ActionSpec:
    """The actions of `space`: Discrete, Box, MultiDiscrete, MultiBinary, or a flat Dict of these.

    Raises InputError, naming the environment `name`, for other spaces, boxes without finite bounds or of whole numbers,
    and choices that do not begin at 0.
    """
    entries: Mapping[str, spaces.Space[Any]] = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    if "" in entries and isinstance(space, spaces.Dict):
        raise InputError(f"{name} has a part of its actions under no name, '': rename it")
    return ActionSpec(tuple(_part(part, key, name) for key, part in entries.items()))


@functools.singledispatch
def _part(space: spaces.Space[Any], key: str, name: str) -> ActionPart:
    raise InputError(
        f"{_where(key, name)} the action space {one_line(space, None)}: Discrete, Box, MultiDiscrete, MultiBinary and "
        "a Dict of these are supported, wrap it to one of them"
    )


@_part.register
def _discrete(space: spaces.Discrete, key: str, name: str) -> ActionPart:
    _from_zero(space.start, key, name)
    return ActionPart("discrete", choices=(int(space.n),), dtype=_number(space), key=key)


@_part.register
def _box(space: spaces.Box, key: str, name: str) -> ActionPart:
    low, high = space.low.ravel(), space.high.ravel()
    if space.dtype is None or space.dtype.kind != "f" or not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise InputError(
            f"{_where(key, name)} actions in {one_line(space, None)}: wrap it so that they are floating and have "
            "finite bounds, for example with gymnasium.wrappers.TransformAction"
        )
    bounds = (tuple(map(float, low)), tuple(map(float, high)))
    return ActionPart("box", space.shape, (), *bounds, _number(space), key)


@_part.register
def _multi_discrete(space: spaces.MultiDiscrete, key: str, name: str) -> ActionPart:
    _from_zero(space.start, key, name)
    return ActionPart("multi-discrete", space.shape, tuple(map(int, space.nvec.ravel())), dtype=_number(space), key=key)


@_part.register
def _multi_binary(space: spaces.MultiBinary, key: str, name: str) -> ActionPart:
    return ActionPart("multi-binary", space.shape, (2,) * int(np.prod(space.shape)), dtype=_number(space), key=key)


def space_of(actions: ActionSpec) -> spaces.Space[Any]:
    """The space that `actions` are of."""
    entries = OrderedDict((part.key, _SPACES[part.kind](part)) for part in actions.parts)  # or they would be sorted
    return spaces.Dict(entries) if actions.named else next(iter(entries.values()))


_SPACES: Mapping[str, Any] = {
    "discrete": lambda part: spaces.Discrete(part.choices[0], dtype=np.dtype(part.dtype).type),
    "box": lambda part: spaces.Box(
        np.array(part.low, part.dtype).reshape(part.shape),
        np.array(part.high, part.dtype).reshape(part.shape),
        dtype=np.dtype(part.dtype).type,
    ),
    "multi-discrete": lambda part: spaces.MultiDiscrete(
        np.array(part.choices).reshape(part.shape), dtype=np.dtype(part.dtype).type
    ),
    "multi-binary": lambda part: spaces.MultiBinary(part.shape if len(part.shape) > 1 else part.shape[0]),
}


def shaped(actions: ActionSpec, vectors: Any) -> Any:
    """Actions as an environment takes them: one, from () or (A,), or those of a vector environment, from (N, ...).

    A number of 64 bits that rounding to 32 has led out of its bounds is put back on them.
    """
    if actions.count:
        return vectors
    lead, begin, entries = vectors.shape[:-1], 0, {}
    for part in actions.parts:
        values = np.asarray(vectors[..., begin : begin + part.size]).astype(part.dtype)
        if part.dtype == "float64":
            values = np.clip(values, part.low, part.high)
        values = values.reshape((*lead, *part.shape))
        entries[part.key] = values[()] if not values.ndim else values  # a single choice is a number, not an array
        begin += part.size
    return entries if actions.named else next(iter(entries.values()))


def flat(actions: ActionSpec, given: Any) -> Actions:
    """Inverse of `shaped`, for actions of N rows."""
    if actions.count:
        return np.asarray(given, np.int64)
    entries = given if actions.named else {"": given}
    columns = [np.asarray(entries[part.key], np.float32) for part in actions.parts]
    return np.concatenate([column.reshape(len(column), -1) for column in columns], 1)


def no_action(actions: ActionSpec) -> Any:
    """What led to the first frame of an episode."""
    return np.int64(NO_ACTION) if actions.count else np.full(actions.size, np.nan, np.float32)


def as_recorded(actions: ActionSpec, chosen: Any, rows: int) -> Actions:
    """What a policy chose for `rows` rows, checked. Raises InputError for another shape or kind."""
    found = np.asarray(chosen)
    shape, kinds = ((rows,), "iu") if actions.count else ((rows, actions.size), "fiu")
    if found.shape != shape or found.dtype.kind not in kinds:
        raise InputError(f"the policy chose {found.dtype} {found.shape} for {rows} rows of {actions}: want {shape}")
    return found.astype(np.int64) if actions.count else found.astype(np.float32)


def _number(space: spaces.Space[Any]) -> Number:
    found = str(np.dtype(space.dtype))
    assert found in get_args(Number), found
    return found  # type: ignore[return-value]


def _from_zero(start: Any, key: str, name: str) -> None:
    if np.any(start):
        raise InputError(
            f"{_where(key, name)} actions that begin at {one_line(start, None)}: wrap it so that they begin at 0"
        )


def _where(key: str, name: str) -> str:
    return f"{name} has under '{key}'" if key else f"{name} has"
