"""What callers hand over at every step and reset, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.errors import InputError


def check_actions(actions: Any, rows: int, count: int, device: torch.device) -> Tensor:
    """Actions 0..count-1 of `rows` rows, int64 on `device`, in storage of their own."""
    chosen = torch.as_tensor(actions)
    whole = not (chosen.is_floating_point() or chosen.is_complex() or chosen.dtype == torch.bool)
    if chosen.shape != (rows,) or not whole:
        raise InputError(f"actions must be {rows} whole numbers, got {chosen.dtype} {tuple(chosen.shape)}")
    if bool(((chosen < 0) | (chosen >= count)).any()):
        raise InputError(f"actions {chosen.tolist()} are outside the action space Discrete({count})")
    return chosen.to(device, torch.int64, copy=True)


def check_mask(name: str, mask: Any, rows: int, *, some: bool = False) -> NDArray[np.bool_]:
    """`mask`, bool (rows,), as an array; None is every row. With `some`, one of them must be True."""
    if mask is None:
        return np.ones(rows, bool)
    try:
        checked = np.array(mask.cpu().numpy() if isinstance(mask, Tensor) else mask)
    except ValueError:  # lists of different lengths
        checked = np.array(None)
    if checked.shape != (rows,) or checked.dtype != np.bool_ or (some and not checked.any()):
        got = " ".join(repr(mask).split())
        raise InputError(f"{name} must be bool ({rows},){' with at least one True' * some}, got {got:.200}")
    return checked


def check_seeds(seed: int | Sequence[int | None] | None, rows: int) -> list[int | None]:
    """One seed per row, None for a row that goes on with its own random numbers."""
    if seed is None:
        return [None] * rows
    seeds = [int(seed) + row for row in range(rows)] if isinstance(seed, int | np.integer) else list(seed)
    if len(seeds) != rows:
        raise InputError(f"{len(seeds)} seeds for {rows} rows: give one per row, or a single number")
    if any(s is not None and not 0 <= s < 2**63 for s in seeds):
        raise InputError(f"seeds {seeds}: give numbers from 0 to below 2 ** 63")
    return [None if s is None else int(s) for s in seeds]
