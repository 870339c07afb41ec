"""What callers hand over at every step and reset, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lssvwm.worldmodel.actions import ActionPart, ActionSpec
from lssvwm.worldmodel.common.errors import InputError, one_line


def check_actions(actions: Any, rows: int, space: ActionSpec, device: torch.device) -> Tensor:
    """Actions of `rows` rows as `space` has them, as the model wants them, on `device`, in storage of their own.

    That is (rows,) int64 where an action is one of n, else (rows, A) float32.
    """
    if space.count:
        return _numbers(actions, rows, space.count, device)
    keys = [part.key for part in space.parts]
    if space.named and not (isinstance(actions, Mapping) and set(actions) == set(keys)):
        got = sorted(actions) if isinstance(actions, Mapping) else type(actions).__name__
        raise InputError(f"actions must be a dictionary with the keys {sorted(keys)}, got {got}")
    entries = actions if space.named else {"": actions}
    vectors = torch.cat([_part(entries[part.key], rows, part, device) for part in space.parts], 1)
    low, high = (vectors.new_tensor(bound) for bound in (space.low, space.high))
    if not bool(((vectors >= low) & (vectors <= high)).all()):
        raise InputError(f"actions {vectors.tolist()} are outside the action space: {space}")
    return vectors


def _part(actions: Any, rows: int, part: ActionPart, device: torch.device) -> Tensor:
    name = f"'{part.key}' of actions" if part.key else "actions"
    chosen = _tensor(actions, name)
    if chosen.shape != (rows, *part.shape) or chosen.is_complex() or (part.choices and chosen.is_floating_point()):
        kind = "whole numbers" if part.choices else "numbers"
        raise InputError(
            f"{name} must be {kind} of shape {(rows, *part.shape)}, got {chosen.dtype} {tuple(chosen.shape)}"
        )
    return chosen.to(device, torch.float32).reshape(rows, -1)


def _numbers(actions: Any, rows: int, count: int, device: torch.device) -> Tensor:
    chosen = _tensor(actions, "actions")
    whole = not (chosen.is_floating_point() or chosen.is_complex() or chosen.dtype == torch.bool)
    if chosen.shape != (rows,) or not whole:
        raise InputError(f"actions must be {rows} whole numbers, got {chosen.dtype} {tuple(chosen.shape)}")
    numbers = chosen.to(device, torch.int64, copy=True)  # torch compares no unsigned ones; too large, they are negative
    if bool(((numbers < 0) | (numbers >= count)).any()):
        raise InputError(f"actions {chosen.tolist()} are outside the action space Discrete({count})")
    return numbers


def _tensor(given: Any, name: str) -> Tensor:
    try:
        return torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:  # text, objects, lists of different lengths
        raise InputError(f"{name} must be numbers, got {one_line(repr(given))}") from error


def check_mask(name: str, mask: Any, rows: int, *, some: bool = False) -> NDArray[np.bool_]:
    """`mask`, bool (rows,), as an array; None is every row. With `some`, one of them must be True."""
    if mask is None:
        return np.ones(rows, bool)
    try:
        checked = np.array(mask.cpu().numpy() if isinstance(mask, Tensor) else mask)
    except ValueError:  # lists of different lengths
        checked = np.array(None)
    if checked.shape != (rows,) or checked.dtype != np.bool_ or (some and not checked.any()):
        got = one_line(repr(mask))
        raise InputError(f"{name} must be bool ({rows},){' with at least one True' * some}, got {got}")
    return checked


def check_seeds(seed: int | Sequence[int | None] | None, rows: int) -> list[int | None]:
    """One seed per row, None for a row that goes on with its own random numbers."""
    if seed is None:
        return [None] * rows
    if isinstance(seed, int | np.integer) and not isinstance(seed, bool):
        seeds: list[Any] = [int(seed) + row for row in range(rows)]
    else:
        seeds = list(seed) if isinstance(seed, Sequence | np.ndarray) and not isinstance(seed, str | bytes) else [seed]
    if any(isinstance(s, bool) or not isinstance(s, int | np.integer | None) for s in seeds):
        raise InputError(f"seeds {seed!r:.80}: give a whole number, or one per row, each a whole number or None")
    if len(seeds) != rows:
        raise InputError(f"{len(seeds)} seeds for {rows} rows: give one per row, or a single number")
    if any(s is not None and not 0 <= s < 2**63 for s in seeds):
        raise InputError(f"seeds {seeds}: give numbers from 0 to below 2 ** 63")
    return [None if s is None else int(s) for s in seeds]
