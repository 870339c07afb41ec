"""How sure a mean or a rate is: one implementation of intervals for everything that is judged."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from worldmodel.errors import InputError

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean of `count` values and the interval `low` to `high` around it, in the unit of the values.

    Where another statistic than the mean was asked for, `mean` is that one.
    """

    mean: float
    low: float
    high: float
    count: int

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


def student_band(values: FloatArray, *, level: float = 0.95) -> Band:
    """Mean and Student's t interval over the first axis: independent `values` (n, ...) to bands (...).

    NaNs are left out, column by column. One value has a mean and no interval (NaN), none has neither. What the values
    are decides what the interval is about: runs, how well the method does with another seed; episodes, how well just
    these weights do on others. Values that depend on each other, as the clips of one episode, are averaged before
    (`by_unit`).
    """
    _check_level(level)
    exists = ~np.isnan(values)
    count = exists.sum(0)
    total = np.where(exists, values, 0.0).sum(0)
    mean = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
    square = np.where(exists, np.square(values - mean), 0.0).sum(0)
    deviation = np.sqrt(np.divide(square, count - 1, out=np.full(count.shape, np.nan), where=count > 1))
    quantile = {n: student_quantile((1 + level) / 2, n - 1) if n > 1 else math.nan for n in np.unique(count).tolist()}
    half = np.vectorize(quantile.get, otypes=[float])(count) * deviation / np.sqrt(np.maximum(count, 1))
    return Band(mean, mean - half, mean + half, count)


def mean_interval(values: FloatArray, *, level: float = 0.95) -> Interval:
    """`student_band` of independent values (n,), NaNs left out."""
    band = student_band(values, level=level)
    return Interval(float(band.mean), float(band.low), float(band.high), int(band.count))


def mean_difference(values: FloatArray, others: FloatArray, *, level: float = 0.95) -> Interval:
    """Mean of `values` (n,) minus that of `others` (m,), independent of each other, with Welch's interval (1947).

    `count` is that of the fewer; of a single value on either side there is no interval (NaN).
    """
    _check_level(level)
    a, b = mean_interval(values, level=level), mean_interval(others, level=level)
    difference, count = a.mean - b.mean, min(a.count, b.count)
    if count < 2:
        return Interval(difference, math.nan, math.nan, count)
    parts = [float(np.nanvar(each, ddof=1)) / one.count for each, one in ((values, a), (others, b))]
    if not sum(parts):
        return Interval(difference, difference, difference, count)
    shares = [part**2 / (one.count - 1) for part, one in zip(parts, (a, b), strict=True)]
    degrees = sum(parts) ** 2 / sum(shares)  # Welch-Satterthwaite
    whole = math.floor(degrees)
    # Between whole degrees the quantile is nearly straight in their inverse.
    at = (1 / whole - 1 / degrees) * whole * (whole + 1)
    below, above = (student_quantile((1 + level) / 2, each) for each in (whole, whole + 1))
    half = (below + at * (above - below)) * math.sqrt(sum(parts))
    return Interval(difference, difference - half, difference + half, count)


def rate_interval(hits: float, count: int, *, level: float = 0.95) -> Interval:
    """Share of `hits` among `count` independent trials with Wilson's score interval (1927), which stays within 0..1.

    `hits` may be a sum of shares: of several attempts in each of `count` episodes, which depend on each other. An
    InputError unless 0 <= hits <= count and there is a trial.
    """
    _check_level(level)
    if count < 1 or not 0 <= hits <= count:
        raise InputError(f"{hits} of {count}: a rate needs a trial, and no more hits than trials")
    z, share = NormalDist().inv_cdf((1 + level) / 2), hits / count
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


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise InputError(f"level is {level}: use a share between 0 and 1, such as 0.95")
