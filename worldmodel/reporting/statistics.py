"""How sure a mean or a rate is: one implementation of intervals (95 %) for everything that is judged."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from lssvwm.worldmodel.common.errors import InputError

FloatArray = NDArray[np.float64]
UPPER = 0.975
"""Share below the upper end of an interval of 95 %."""


@dataclass(frozen=True)
class Interval:
    """A mean of `count` values and the interval `low` to `high` around it, in the unit of the values.

    Where another statistic than the mean was asked for, `mean` is that one.
    """

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.2f} ({self.low:.2f} to {self.high:.2f})"

    def to_dict(self) -> dict[str, float | int]:
        """The four fields as plain numbers, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Band:
    """Means and the intervals around them, all of one shape, and how many values each is of."""

    mean: FloatArray
    low: FloatArray
    high: FloatArray
    count: NDArray[np.int64]


def student_band(values: FloatArray) -> Band:
    """Mean and Student's t interval over the first axis: independent `values` (n, ...) to bands (...).

    NaNs are left out, column by column. One value has a mean and no interval (NaN), none has neither. What the values
    are decides what the interval is about: runs, how well the method does with another seed; episodes, how well just
    these weights do on others. Values that depend on each other, as the clips of one episode, are averaged before
    (`by_unit`).
    """
    exists = ~np.isnan(values)
    count = exists.sum(0)
    total = np.where(exists, values, 0.0).sum(0)
    mean = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
    square = np.where(exists, np.square(values - mean), 0.0).sum(0)
    deviation = np.sqrt(np.divide(square, count - 1, out=np.full(count.shape, np.nan), where=count > 1))
    quantile = {n: student_quantile(UPPER, n - 1) if n > 1 else math.nan for n in np.unique(count).tolist()}
    half = np.vectorize(quantile.get, otypes=[float])(count) * deviation / np.sqrt(np.maximum(count, 1))
    return Band(mean, mean - half, mean + half, count)


def mean_interval(values: FloatArray) -> Interval:
    """`student_band` of independent values (n,), NaNs left out."""
    band = student_band(values)
    return Interval(float(band.mean), float(band.low), float(band.high), int(band.count))


def combined_interval(samples: Sequence[Sequence[float] | FloatArray], weights: Sequence[float]) -> Interval:
    """The sum of the means of independent samples, each times its weight, with Welch's interval (1947).

    One sample of weight 1 has Student's interval; two of weights 1 and -1 give a difference of means; several, each
    weighted by its share of all values, the mean of all with its interval within these strata (`within`). `count` is
    that of all values. Where a sample is a single value nothing is known of its spread, and the interval has no width.
    Samples that are empty or not finite are an InputError.
    """
    known = [checked(each) for each in samples]
    mean = sum(weight * float(each.mean()) for each, weight in zip(known, weights, strict=True))
    count = sum(map(len, known))
    if min(map(len, known)) < 2:
        return Interval(mean, mean, mean, count)
    parts = [weight**2 * float(each.var(ddof=1)) / len(each) for each, weight in zip(known, weights, strict=True)]
    if not sum(parts):
        return Interval(mean, mean, mean, count)
    degrees = sum(parts) ** 2 / sum(part**2 / (len(each) - 1) for part, each in zip(parts, known, strict=True))
    whole = math.floor(degrees + 1e-9)
    # In the inverse of the degrees the quantile bends upwards a little, so a chord is on the safe side.
    at = (1 / whole - 1 / degrees) * whole * (whole + 1)
    below, above = (student_quantile(UPPER, each) for each in (whole, whole + 1))
    half = (below + at * (above - below)) * math.sqrt(sum(parts))
    return Interval(mean, mean - half, mean + half, count)


def within(strata: Sequence[Sequence[float] | FloatArray]) -> Interval:
    """The mean of all values with its interval within the strata: how well just these do, as the runs of a method.

    Where a stratum is a single value they count as one sample.
    """
    known = _strata(strata)
    return combined_interval(known, _shares(known))


def difference_within(
    strata: Sequence[Sequence[float] | FloatArray], others: Sequence[Sequence[float] | FloatArray]
) -> Interval:
    """The mean of all values of `strata` minus that of `others`, with its interval within them, as `within`."""
    first, second = _strata(strata), _strata(others)
    return combined_interval([*first, *second], [*_shares(first), *(-share for share in _shares(second))])


def _strata(strata: Sequence[Sequence[float] | FloatArray]) -> list[FloatArray]:
    known = [checked(each) for each in strata]
    if not known:
        raise InputError("an interval needs a list of at least one value, got no lists: play an episode")
    return known if min(map(len, known)) > 1 else [np.concatenate(known)]


def _shares(samples: Sequence[FloatArray]) -> list[float]:
    total = sum(map(len, samples))
    return [len(each) / total for each in samples]


def separated(a: Interval, b: Interval) -> bool:
    """Whether `a` lies above `b` with no overlap. One value has no spread: it is separated from nothing."""
    return a.count > 1 and b.count > 1 and a.low > b.high


def checked(values: Sequence[float] | FloatArray) -> FloatArray:
    """Values (n,) with n of at least 1, all finite; anything else is an `InputError`."""
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or not len(sample):
        raise InputError(f"an interval needs a list of at least one value, got shape {sample.shape}: play an episode")
    if not np.isfinite(sample).all():
        at = int(np.flatnonzero(~np.isfinite(sample))[0])
        raise InputError(f"value {at} is {sample[at]}: an interval needs finite values")
    return sample


def rate_interval(hits: float, count: int) -> Interval:
    """Share of `hits` among `count` independent trials with Wilson's score interval (1927), which stays within 0..1.

    `hits` may be a sum of shares: of several attempts in each of `count` episodes, which depend on each other. An
    InputError unless 0 <= hits <= count and there is a trial.
    """
    if count < 1 or not 0 <= hits <= count:
        raise InputError(f"{hits} of {count}: a rate needs a trial, and no more hits than trials")
    z, share = NormalDist().inv_cdf(UPPER), hits / count
    scale = 1 + z * z / count
    middle = (share + z * z / (2 * count)) / scale
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / scale
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return Interval(share, 0.0 if hits == 0 else low, 1.0 if hits == count else high, count)


def by_unit(values: FloatArray, units: NDArray[np.int64]) -> FloatArray:
    """Means of the values of each unit, NaNs left out: values (n, ...), units (n,) -> (different units, ...)."""
    if len(values) != len(units):
        raise ValueError(f"{len(values)} values of {len(units)} units: give the unit of each")
    return np.stack([student_band(values[units == unit]).mean for unit in np.unique(units)])


@functools.cache
def student_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t with `degrees` of freedom, at least 1, for a probability above one half."""
    if degrees < 1 or not 0.5 < probability < 1:
        raise InputError(
            f"quantile {probability} of Student's t with {degrees} degrees of freedom: use 2 values or more"
        )
    low, high = 0.0, math.pi / 2  # of the angle atan(t / sqrt(degrees)), in which the distribution is a finite sum
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < 2 * probability - 1 else (low, middle)
    return math.tan(low) * math.sqrt(degrees)


def _within(angle: float, degrees: int) -> float:
    """Probability that |t| is below sqrt(degrees) * tan(angle) (Abramowitz & Stegun, 26.7.3 and 26.7.4)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for k in range(1 + odd, degrees, 2):
        total += term
        term *= cosine * cosine * k / (k + 1)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
