"""Nested arrays and tensors: walk, copy, compare, and find shared memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector.utils import iterate


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every array, tensor or plain value in `value`, with its path such as `['image']` or `[2]`."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from leaves(part, f"{path}[{key!r}]")
    elif isinstance(value, tuple | list) or (isinstance(value, np.ndarray) and value.dtype == object):
        for index, part in enumerate(value):
            yield from leaves(part, f"{path}[{index}]")
    elif value is not None:
        yield path, value


def arrays(value: Any) -> list[tuple[str, Any]]:
    """The leaves that own memory, and the object arrays that hold them."""
    found = [(path, leaf) for path, leaf in leaves(value) if isinstance(leaf, np.ndarray | torch.Tensor)]
    return [(path, leaf) for path, leaf in found if leaf.size != 0] if found else []


def frozen(value: Any) -> Any:
    """A copy that nobody else holds, with tensors as numpy arrays."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy().copy()
    if isinstance(value, Mapping):
        return {key: frozen(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return tuple(frozen(part) for part in value)
    if isinstance(value, np.ndarray):
        if value.dtype != object:
            return value.copy()
        result = np.full(value.shape, None, dtype=object)
        for index in np.ndindex(value.shape):
            result[index] = frozen(value[index])
        return result
    return value


def difference(one: Any, two: Any, tolerance: float = 0.0, path: str = "") -> str | None:
    """Where two frozen values differ, in words; None where they are the same.

    tolerance: 0 asks for the same bits. Else floats may differ by so much, relative or absolute, and uint8 by 1.
    """
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        if one.keys() != two.keys():
            return f"{path or 'it'} has the keys {sorted(map(str, one))} and {sorted(map(str, two))}"
        parts: Any = [(key, one[key], two[key]) for key in one]
    elif isinstance(one, np.ndarray) and isinstance(two, np.ndarray) and one.dtype != object and two.dtype != object:
        return _array_difference(one, two, tolerance, path)
    elif isinstance(one, tuple | np.ndarray) and isinstance(two, tuple | np.ndarray):
        if len(one) != len(two):
            return f"{path or 'it'} has {len(one)} and {len(two)} parts"
        parts = zip(range(len(one)), one, two, strict=True)
    elif isinstance(one, int | float | np.number | np.bool_) and isinstance(two, int | float | np.number | np.bool_):
        return _array_difference(np.asarray(one), np.asarray(two), tolerance, path)
    else:
        return None if type(one) is type(two) and one == two else f"{path or 'it'} is {one!r} and {two!r}"
    found = (difference(first, second, tolerance, f"{path}[{key!r}]") for key, first, second in parts)
    return next((text for text in found if text is not None), None)


def _array_difference(one: Any, two: Any, tolerance: float, path: str) -> str | None:
    name = f"{path} " if path else ""
    if one.shape != two.shape or (one.dtype != two.dtype and not tolerance):
        return f"{name}is {one.dtype} {one.shape} and {two.dtype} {two.shape}"
    inexact = np.issubdtype(one.dtype, np.inexact)
    if not tolerance or not (inexact or one.dtype == np.uint8):
        equal = (one == two) | ((one != one) & (two != two))
    elif inexact:
        equal = np.isclose(one, two, rtol=tolerance, atol=tolerance, equal_nan=True)
    else:
        equal = np.abs(one.astype(np.int16) - two.astype(np.int16)) <= 1
    if np.all(equal):
        return None
    if one.ndim == 0:
        return f"{name}is {one} and {two}"
    index = tuple(int(i) for i in np.argwhere(~np.asarray(equal))[0])
    return f"{name}is {one[index]} and {two[index]} at {list(index)}"


def overlap(one: Any, two: Any) -> bool:
    """Whether two leaves share memory. Tensors do when they share their storage."""
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        return one.untyped_storage().data_ptr() == two.untyped_storage().data_ptr()
    if isinstance(one, np.ndarray) and isinstance(two, np.ndarray):
        return np.shares_memory(one, two)
    return False


def scribble(value: Any) -> None:
    """Overwrite every array in `value` that can be written to."""
    for _, leaf in arrays(value):
        if isinstance(leaf, torch.Tensor):
            with torch.no_grad():
                leaf.copy_(~leaf if leaf.dtype == torch.bool else leaf * 0 + 1)
        elif leaf.flags.writeable and np.issubdtype(leaf.dtype, np.bool_):
            leaf[...] = ~leaf
        elif leaf.flags.writeable and np.issubdtype(leaf.dtype, np.number):
            leaf[...] = 1


def rows_of(space: gym.Space[Any], observation: Any) -> list[Any]:
    """The frozen observations of single rows."""
    return [frozen(row) for row in iterate(space, frozen(observation))]
