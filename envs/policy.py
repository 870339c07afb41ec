"""What an environment asks of a policy. `envs` plays any policy and knows none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
"""Discrete actions, row numbers or seeds, one per row."""

Actions = NDArray[np.int64] | NDArray[np.float32]
"""Of N rows: (N,) int64 where an action is one of n, else (N, A) float32."""

FrameArray = NDArray[np.uint8]
"""Frames of N rows: (N, h, w, 3), 0..255, RGB."""


class Policy(Protocol):
    """Chooses one action for each of N rows that play at once."""

    def reset(self, rows: IntArray, seeds: IntArray) -> None:
        """Start new episodes in `rows` (k,), all other rows go on.

        All randomness of an episode comes from its entry of `seeds` (k,), so what a row does depends neither on its
        row number nor on how many rows play at once.
        """
        ...

    def act(self, frames: FrameArray, info: Mapping[str, Any]) -> Actions:
        """The next action of every row: (N,) int64 where it is one of n, else (N, A) float32 (`worldmodel.actions`).

        `frames` (N, h, w, 3) are the current ones. `info` is what the vector environment gave with them: arrays over
        rows, each with its mask `_key` of the rows that have it. Environments of `envs.make_vec` keep the entries of
        all rows when only some are reset.
        """
        ...


@runtime_checkable
class Disturbed(Policy, Protocol):
    """A policy that does not always do what it means to. Recordings keep both, and what it meant is cloned."""

    def intended(self) -> Actions:
        """What it meant to do in the last `act`, (N,) or (N, A)."""
        ...


@runtime_checkable
class Remembering(Policy, Protocol):
    """A policy whose next actions depend on what was done, which it has to be told where it did not choose it."""

    def took(self, actions: Actions) -> None:
        """Actions (N,) or (N, A) were done, instead of those that it chose last."""
        ...


def policy_name(policy: object) -> str:
    """What recordings call a policy: what it says of itself (`__str__`), else its class."""
    return type(policy).__name__ if type(policy).__str__ is object.__str__ else str(policy)
