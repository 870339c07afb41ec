"""Judging policies: real episodes on a fixed list of seeds."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lssvwm.agents.dreamer.familiarity import by_step
from lssvwm.agents.policies.world_model import WorldModelPolicy
from lssvwm.envs.factory import EnvConfig, maker
from lssvwm.envs.policy import Actions, FrameArray, IntArray, Policy
from lssvwm.envs.recording.playing import play_pool
from lssvwm.envs.recording.pool import open_pool
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.common.progress import Bar
from lssvwm.worldmodel.common.stepping import deferred_interrupts
from lssvwm.worldmodel.episodes import Episode
from lssvwm.worldmodel.reporting.resampling import iqm, stratified_interval
from lssvwm.worldmodel.reporting.statistics import Interval, within


@dataclass(frozen=True)
class Evaluation:
    """Real episodes of one policy, in the order of their seeds. A success is a termination that was rewarded.

    `seconds` is how long each episode took and `ended` when it ended, by the clock, after play began; episodes are
    played side by side. `familiarity` says by steps how far the policy's features lay from those that it was trained on
    (`agents.dreamer.familiarity`; 1: as far as in training). All are empty where they were not kept, and make no
    difference to what is equal.
    """

    name: str
    seeds: tuple[int, ...]
    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    successes: tuple[bool, ...]
    seconds: tuple[float, ...] = field(default=(), compare=False)
    ended: tuple[float, ...] = field(default=(), compare=False)
    familiarity: Mapping[str, float] = field(default_factory=dict, compare=False)

    @property
    def interval(self) -> Interval:
        """Mean return with its 95 % interval over episodes (Student)."""
        return within([self.returns])

    @property
    def iqm(self) -> Interval:
        """Interquartile mean of the returns with its 95 % interval (bootstrap over episodes)."""
        return stratified_interval([self.returns], iqm)

    @property
    def success_rate(self) -> float:
        """Share of episodes that were successes, 0 to 1."""
        return float(np.mean(self.successes))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON, without the clock's."""
        kept: dict[str, Any] = {"name": self.name, **{name: list(getattr(self, name)) for name in _FIGURES}}
        kept |= {"familiarity": dict(self.familiarity)} if self.familiarity else {}
        return {**kept, "return": self.interval.to_dict(), "success_rate": self.success_rate}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Evaluation:
        """Inverse of `to_dict`."""
        figures = {name: tuple(values[name]) for name in _FIGURES}
        return cls(values["name"], **figures, familiarity=values.get("familiarity", {}))


ATTEMPTS = 3
"""How often an episode is begun anew whose environment failed."""
TOGETHER = 64
"""Environments in one process that are played at once."""
_FIGURES = ("seeds", "returns", "lengths", "successes")


@dataclass(frozen=True)
class Judged:
    """An evaluation and one of its episodes, to look at."""

    evaluation: Evaluation
    example: Episode


@dataclass(frozen=True)
class _Played:
    total: float
    steps: int
    success: bool
    seconds: float
    ended: float


class _Timed:
    """A policy that notes when the episode of each seed began."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.began: dict[int, float] = {}

    def reset(self, rows: IntArray, seeds: IntArray) -> None:
        now = time.perf_counter()
        self.began |= dict.fromkeys(seeds.tolist(), now)
        self.policy.reset(rows, seeds)

    def act(self, frames: FrameArray, info: Mapping[str, Any]) -> Actions:
        return self.policy.act(frames, info)


def rows_for(processes: bool, least: int) -> int:
    """Environments to judge in at once: one for each core where each has a process, else 64; `least` at any rate.

    A world model observes many rows in little more time than few, so a learned policy is judged that much faster.
    """
    return max(least, (os.cpu_count() or 1) if processes else TOGETHER)


def evaluate(
    name: str,
    config: EnvConfig,
    policy: Policy,
    *,
    episodes: int,
    seed: int,
    num_envs: int,
    processes: bool = True,
    progress: bool = True,
    keep: Callable[[Episode], None] | None = None,
) -> Judged:
    """Play the seeds `seed .. seed + episodes - 1` in the real environment, up to `num_envs` at once.

    What an episode is depends on its seed alone (and, for networks on some devices, on how a batch of another size is
    rounded), so figures are the same with any number of environments and processes. Nothing is recorded; `keep` is
    given every whole episode in the order in which they end. An interruption takes effect between two steps. An episode
    whose environment failed, died or did not answer is played again, up to three times.

    The example is the longest episode among the first ten seeds: long enough to watch, and not chosen by its outcome.
    Raises InputError for counts below 1 and a negative seed, and for a seed that failed three times.
    """
    if episodes < 1 or num_envs < 1 or seed < 0:
        raise InputError(
            "an evaluation needs episodes and num_envs of 1 or more and a seed of 0 or more, "
            f"got {episodes}, {num_envs} and {seed}"
        )
    wanted = range(seed, seed + episodes)
    timed = _Timed(policy)
    noting: AbstractContextManager[Mapping[int, list[float]]] = nullcontext({})
    if isinstance(policy, WorldModelPolicy):
        noting = policy.noting()
    results: dict[int, _Played] = {}
    failed: dict[int, str] = {}
    example: Episode | None = None
    with (
        deferred_interrupts() as interrupt,
        open_pool(maker(config), min(num_envs, episodes), processes=processes, between=interrupt) as pool,
        noting as noted,
        Bar(f"judged for real, {name}", episodes, "episode", show=progress) as bar,
    ):
        started = time.perf_counter()
        for piece in play_pool(pool, timed, wanted, sys.maxsize, ATTEMPTS, failed, interrupt):
            episode, key, now = piece.episode, piece.seed, time.perf_counter()
            _check_none(failed, config)
            results[key] = _Played(
                total=float(episode.reward.sum()),
                steps=len(episode.image) - 1,
                success=bool(episode.terminated[-1]) and float(episode.reward[-1]) > 0,
                seconds=now - timed.began[key],
                ended=now - started,
            )
            if key < seed + 10 and (example is None or len(episode.image) > len(example.image)):
                example = episode
            if keep is not None:
                keep(episode)
            bar.note({"return": f"{np.mean([r.total for r in results.values()]):.3f}"})
            bar.update()
    _check_none(failed, config)
    assert example is not None
    played = [results[key] for key in wanted]
    evaluation = Evaluation(
        name,
        tuple(wanted),
        returns=tuple(each.total for each in played),
        lengths=tuple(each.steps for each in played),
        successes=tuple(each.success for each in played),
        seconds=tuple(each.seconds for each in played),
        ended=tuple(each.ended for each in played),
        familiarity=by_step([noted.get(key, [])[: results[key].steps] for key in wanted]),
    )
    return Judged(evaluation, example)


def _check_none(failed: Mapping[int, str], config: EnvConfig) -> None:
    for seed, reason in failed.items():
        raise InputError(
            f"{config.id} failed {ATTEMPTS} times in the episode of seed {seed}, and figures without it would not "
            f"compare: {reason}"
        )
