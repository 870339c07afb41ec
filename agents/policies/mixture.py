"""Recording by several policies, each playing whole episodes, so that the world is seen to go well and not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lssvwm.agents.policies.baselines import check_plays, make_policy, needs_map
from lssvwm.agents.running.environment import probe
from lssvwm.envs.factory import EnvConfig
from lssvwm.envs.policy import Actions, FrameArray, IntArray, Policy, Remembering, policy_name
from lssvwm.worldmodel.common.errors import InputError

GOLDEN = (math.sqrt(5) - 1) / 2


class Part(NamedTuple):
    """A policy by name, and its share of the episodes."""

    name: str
    share: float


def named_collector(told: str, config: EnvConfig, option: str) -> Policy:
    """The policy that `told` (see `parts_of`) names, to play the world of `config`; `option` is what messages call it.

    Raises InputError where it needs a map that `config` does not show.
    """
    parts = parts_of(told, option)
    for name, _ in parts:
        check_plays(name, config.id)
        if needs_map(name, config.id) and not config.extra_obs:
            raise InputError(f"{option} {name} plays {config.id} by more than its frames: add --extra-obs")
    policies = [make_policy(name, probe(config).actions, config.id) for name, _ in parts]
    return policies[0] if len(parts) == 1 else Mixture(policies, [share for _, share in parts])


def parts_of(collector: str, option: str = "--collector") -> tuple[Part, ...]:
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
                f"{option} {collector}: give one policy, or several with their shares: scripted:0.5,random:0.5"
            )
    total = sum(part.share for part in parts)
    return tuple(Part(name, share / total) for name, share in parts)


class Mixture:
    """Each episode is played by one of `policies`, in the given `shares` of the episodes, which sum to 1.

    Which one follows from the seed of the episode, in steps by the golden ratio around a circle (Weyl 1916): of
    episodes with consecutive seeds even a few are shared as wanted. All policies are shown all rows.
    """

    def __init__(self, policies: Sequence[Policy], shares: Sequence[float]) -> None:
        self._policies, self._shares, self._until = tuple(policies), tuple(shares), np.cumsum(shares)[:-1]
        self._player: dict[int, int] = {}

    def __str__(self) -> str:
        """As recordings have it."""
        parts = zip(self._policies, self._shares, strict=True)
        return f"Mixture({', '.join(f'{policy_name(policy)}:{share:.3g}' for policy, share in parts)})"

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
        """Actions (N,) or (N, A) were done, instead of those that it chose last."""
        for policy in self._policies:
            if isinstance(policy, Remembering):
                policy.took(actions)
