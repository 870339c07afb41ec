"""Recording by several policies, each playing whole episodes, so that the world is seen to go well and not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from agents.policies import Remembering
from envs.policy import Actions, FrameArray, IntArray, Policy
from worldmodel.errors import InputError

GOLDEN = (math.sqrt(5) - 1) / 2


class Part(NamedTuple):
    """A policy by name, and its share of the episodes."""

    name: str
    share: float


def parts_of(collector: str) -> tuple[Part, ...]:
    """Read "random", or "scripted:0.5,random:0.5"; shares count relative to their sum.

    Raises InputError for anything else.
    """
    if ":" not in collector and "," not in collector:
        return (Part(collector, 1.0),)
    parts = []
    for told in collector.split(","):
        name, _, share = told.strip().partition(":")
        try:
            parts.append(Part(name, float(share)))
        except ValueError:
            parts.append(Part(name, math.nan))
        if not name or not 0 < parts[-1].share < math.inf:
            raise InputError(
                f"--collector {collector}: give one policy, or several with their shares: scripted:0.5,random:0.5"
            )
    total = sum(part.share for part in parts)
    return tuple(Part(name, share / total) for name, share in parts)


class Mixture:
    """Each episode is played by one of `policies`, in the given `shares` of the episodes, which sum to 1.

    Which one follows from the seed of the episode, in steps by the golden ratio around a circle (Weyl 1916): of
    episodes with consecutive seeds even a few are shared as wanted. All policies are shown all rows.
    """

    def __init__(self, policies: Sequence[Policy], shares: Sequence[float]) -> None:
        self._policies, self._until = tuple(policies), np.cumsum(shares)[:-1]
        self._player: dict[int, int] = {}

    def reset(self, rows: IntArray, seeds: IntArray) -> None:
        """Start new episodes in `rows` from `seeds`."""
        for policy in self._policies:
            policy.reset(rows, seeds)
        for row, seed in zip(rows.tolist(), seeds.tolist(), strict=True):
            self._player[row] = int(np.searchsorted(self._until, seed * GOLDEN % 1, side="right"))

    def act(self, frames: FrameArray, info: Mapping[str, Any]) -> Actions:
        """The next action of each of the N rows."""
        chosen = [policy.act(frames, info) for policy in self._policies]
        done: Actions = np.stack([chosen[self._player[row]][row] for row in range(len(frames))])
        self.took(done)
        return done

    def took(self, actions: Actions) -> None:
        """Actions (N,) were done, instead of those that it chose last."""
        for policy in self._policies:
            if isinstance(policy, Remembering):
                policy.took(actions)
