"""Which actions are allowed: `info["action_mask"]` of worlds with `Discrete` actions, beside each frame they follow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lssvwm.worldmodel.common.errors import InputError

MASK_KEY = "action_mask"
"""In `info`, (n,): 1 for each action that may follow the frame; as an extra of episodes, (T + 1, n) int8."""


def mask_of(info: Mapping[str, Any], count: int, name: str, *, ended: bool = False) -> NDArray[np.int8] | None:
    """The mask (count,) that the environment `name` gave, None where it gave none.

    Raises InputError for one of another shape, with other values than 0 and 1, or that allows nothing unless the
    episode `ended`.
    """
    return None if MASK_KEY not in info else _checked(info[MASK_KEY], count, f"{name} gave", ended=ended)


def masks_of(info: Mapping[str, Any], rows: int, count: int, ended: Any = False) -> NDArray[np.bool_] | None:
    """Which of `count` actions are allowed in each row of a vector environment, (rows, count); None without masks.

    Where a row has none, as where it has `ended` (rows,), everything is. Raises InputError as `mask_of` does.
    """
    if MASK_KEY not in info:
        return None
    allowed = np.ones((rows, count), np.bool_)
    for row in np.flatnonzero(np.asarray(info.get(f"_{MASK_KEY}", np.ones(rows, np.bool_))) & ~np.asarray(ended)):
        allowed[row] = _checked(info[MASK_KEY][row], count, f"row {row} has")
    return allowed


def _checked(given: Any, count: int, subject: str, *, ended: bool = False) -> NDArray[np.int8]:
    mask = np.asarray(given)
    if mask.shape != (count,) or mask.dtype.kind not in "biuf":
        raise InputError(
            f'{subject} info["{MASK_KEY}"] {mask.dtype} {mask.shape}: want one number for each of {count} actions'
        )
    if not np.isin(mask, (0, 1)).all():
        raise InputError(f'{subject} info["{MASK_KEY}"] {mask.tolist()}: want 1 for what is allowed, 0 for what is not')
    if not (mask.any() or ended):
        raise InputError(f'{subject} info["{MASK_KEY}"] that allows none of {count} actions: end the episode there')
    return mask.astype(np.int8)
