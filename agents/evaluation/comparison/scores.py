"""What the episodes of several runs of a method come to: scores with intervals, gaps, and what predicts what."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from lssvwm.agents.evaluation.comparison.anchors import Anchor, Normalised, normalised
from lssvwm.agents.evaluation.judging import Result
from lssvwm.worldmodel.reporting.resampling import improvement, iqm, pearson, spearman, stratified_interval
from lssvwm.worldmodel.reporting.statistics import Interval, difference_within, mean_interval, rate_interval, within


@dataclass(frozen=True)
class Score:
    """One method. Intervals over episodes keep its runs as they are: they are the strata.

    `over_runs` instead takes the mean of each run as one value, with Student's interval: how well the method will do
    with another seed. It is None for a single run, which says nothing about that.
    """

    name: str
    results: tuple[Result, ...]
    mean: Interval
    iqm: Interval
    success: Interval | None
    length: float
    over_runs: Interval | None
    success_over_runs: Interval | None
    normalised: Normalised | None
    imagined: Interval | None
    gap: Interval | None
    """Imagined minus real mean return."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        parts = ("mean", "iqm", "success", "over_runs", "success_over_runs", "normalised", "imagined", "gap")
        found = {part: None if (value := getattr(self, part)) is None else asdict(value) for part in parts}
        runs = {
            result.contestant.name: {
                **result.evaluation.to_dict(),
                "iqm": result.evaluation.iqm.to_dict(),
                "imagined_returns": None if result.imagined is None else list(result.imagined),
            }
            for result in self.results
        }
        return {**found, "length": self.length, "runs": runs}


def score(name: str, results: Sequence[Result], anchors: Sequence[Anchor], *, success: bool) -> Score:
    """The score of a method from the results of its runs; `success` is whether the environment knows such a thing."""
    returns = [result.evaluation.returns for result in results]
    successes = [result.evaluation.successes for result in results]
    imagined = [result.imagined for result in results if result.imagined is not None]
    whole = within(returns)
    over, success_over = (
        None if len(results) < 2 else mean_interval(np.array([np.mean(run) for run in runs]))
        for runs in (returns, successes)
    )
    return Score(
        name=name,
        results=tuple(results),
        mean=whole,
        iqm=stratified_interval(returns, iqm),
        success=rate_interval(sum(map(sum, successes)), sum(map(len, successes))) if success else None,
        length=float(np.mean([length for result in results for length in result.evaluation.lengths])),
        over_runs=over,
        success_over_runs=shares(success_over) if success and success_over else None,
        normalised=normalised(over or whole, anchors),
        imagined=within(imagined) if imagined else None,
        gap=difference_within(imagined, returns) if len(imagined) == len(returns) else None,
    )


def improvements(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """How probable it is that a run of one method earns more than a run of another, for JSON: all pairs with runs."""
    means = {s.name: [float(np.mean(r.evaluation.returns)) for r in s.results] for s in scores if len(s.results) > 1}
    return [
        {"of": one, "over": other, **improvement(means[one], means[other]).to_dict()}
        for one, other in itertools.permutations(means, 2)
    ]


def shares(interval: Interval) -> Interval:
    """Of a rate: no lower than 0 and no higher than 1. Where there is none (NaN), there stays none."""
    low, high = np.clip([interval.low, interval.high], 0, 1).tolist()
    return replace(interval, low=low, high=high)


def correlation(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Pearson and Spearman of (imagined, real) mean returns over checkpoints, with their number, for JSON.

    Of fewer than three checkpoints, and of those that all have the same return, a `note` says why there is none.
    """
    found: dict[str, Any] = {"count": len(pairs), "pearson": None, "spearman": None}
    if len(pairs) < 3:
        return {**found, "note": "not enough checkpoints"}
    imagined, real = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    straight, rising = pearson(imagined, real), spearman(imagined, real)
    if straight is None or rising is None:
        return {**found, "note": "the returns do not differ"}
    return {**found, "pearson": asdict(straight), "spearman": asdict(rising)}
