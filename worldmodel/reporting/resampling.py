"""How sure a figure is that has no formula: resampled intervals, and correlations with theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.reporting.statistics import UPPER, FloatArray, Interval, checked

Statistic = Callable[[FloatArray], FloatArray]
"""From values (..., n) to what they come to (...)."""

BLOCK = 1_000_000  # indices drawn at once: eight megabytes, however many episodes there are


@dataclass(frozen=True)
class Correlation:
    """A coefficient in [-1, 1] over `count` pairs, and its interval."""

    value: float
    low: float
    high: float
    count: int


def mean(values: FloatArray) -> FloatArray:
    """The mean over the last axis: (..., n) to (...)."""
    found: FloatArray = values.mean(axis=-1)
    return found


def iqm(values: FloatArray) -> FloatArray:
    """Interquartile mean over the last axis, (..., n) to (...): without a quarter of the values at either end.

    Of each end floor(n / 4) values are left out, as rliable does (Agarwal et al., 2021, "Deep RL at the Edge of the
    Statistical Precipice", section 4.3); of fewer than four values none, and it is their mean.
    """
    count = values.shape[-1]
    cut = count // 4
    middle: FloatArray = np.sort(values, axis=-1)[..., cut : count - cut].mean(axis=-1)
    return middle


def stratified_interval(
    strata: Sequence[Sequence[float]],
    statistic: Statistic = mean,
    *,
    seed: int = 0,
    level: float = 0.95,
    resamples: int = 10_000,
) -> Interval:
    """A statistic of the values of all strata together, with its stratified percentile bootstrap.

    Every resample draws from each stratum as many values as that has, so no stratum is ever missing (Agarwal et al.,
    2021, section 4.1). What the strata are decides what the interval is about: the episodes of each of several runs,
    how well just these policies play; the runs' scores in one stratum, how well the method will do the next time.

    The same values, in the same order, and seed give the same interval. With fewer than about twenty values it is too
    narrow: means have `statistics.combined_interval` instead. `count` is that of all values. No values, values that are
    not finite, a `level` outside (0, 1) and fewer than one resample are an `InputError`.
    """
    samples = [checked(values) for values in strata]
    if not samples:
        raise InputError("an interval needs a list of at least one value, got no lists: play an episode")
    if not 0 < level < 1:
        raise InputError(f"level is {level}: use a share between 0 and 1, such as 0.95")
    if resamples < 1:
        raise InputError(f"resamples is {resamples}: use at least 1, better 10000")
    pooled = np.concatenate(samples)
    generator = np.random.default_rng(seed)
    rows = max(1, BLOCK // len(pooled))
    drawn = np.concatenate(
        [
            statistic(np.concatenate([s[generator.integers(len(s), size=(count, len(s)))] for s in samples], axis=1))
            for done in range(0, resamples, rows)
            for count in [min(rows, resamples - done)]
        ]
    )
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(pooled)), float(low), float(high), len(pooled))


def improvement(scores: Sequence[float], others: Sequence[float], *, seed: int = 0) -> Interval:
    """How probable it is that a run of one method scores above a run of another, with its stratified bootstrap.

    `scores` (n,) and `others` (m,) hold one value for each run; equal ones count half (Mann and Whitney 1947; Agarwal
    et al. 2021, section 4.3). Runs are resampled, within each method: the runs are what varies with the seed.
    """
    first = len(scores)

    def probability(values: FloatArray) -> FloatArray:
        x, y = values[..., :first, None], values[..., None, first:]  # strata keep their places
        found: FloatArray = ((x > y) + 0.5 * (x == y)).mean(axis=(-1, -2))
        return found

    return stratified_interval([scores, others], probability, seed=seed)


def pearson(x: Sequence[float], y: Sequence[float]) -> Correlation | None:
    """How straight the line through pairs is, with Fisher's interval; None for fewer than 3 pairs or without spread.

    Of 3 pairs the interval is [-1, 1]; a coefficient of exactly 1 has one without width, however few pairs there are.
    Sequences of different lengths are an `InputError`.
    """
    return _correlation(_paired(x, y), lambda r: 1.0)


def spearman(x: Sequence[float], y: Sequence[float]) -> Correlation | None:
    """Whether one rises with the other: Pearson's coefficient of the ranks, equal values sharing their mean rank.

    The interval widens Fisher's by 1 + r^2 / 2 in the variance (Bonett & Wright, 2000). None and errors as `pearson`.
    """
    pairs = _paired(x, y)
    return _correlation(np.stack([ranks(row) for row in pairs]), lambda r: 1.0 + r * r / 2)


def _paired(x: Sequence[float], y: Sequence[float]) -> FloatArray:
    if len(x) != len(y):
        raise InputError(f"a correlation needs pairs, got {len(x)} and {len(y)} values")
    return np.stack([checked(x), checked(y)]) if len(x) else np.zeros((2, 0))


def ranks(values: FloatArray) -> FloatArray:
    """Ranks from 1 of all values of an array, equal ones sharing the mean of theirs."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    found: FloatArray = (np.cumsum(counts) - (counts - 1) / 2)[which]
    return found.reshape(values.shape)


def _correlation(pairs: FloatArray, spread: Callable[[float], float]) -> Correlation | None:
    count = pairs.shape[1]
    if count < 3 or np.any(np.ptp(pairs, axis=1) == 0):
        return None
    x, y = pairs - pairs.mean(axis=1, keepdims=True)
    r = float(np.clip((x @ y) / np.sqrt((x @ x) * (y @ y)), -1, 1))
    if count == 3:
        return Correlation(r, -1.0, 1.0, count)
    if abs(r) > 1 - 1e-12:
        return Correlation(r, r, r, count)
    half = NormalDist().inv_cdf(UPPER) * np.sqrt(spread(r) / (count - 3))
    low, high = np.tanh(np.arctanh(r) + np.array([-half, half]))
    return Correlation(r, float(low), float(high), count)
