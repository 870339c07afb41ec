"""How sure a mean over episodes is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from worldmodel.errors import InputError

BLOCK = 1_000_000  # indices drawn at once: eight megabytes, however many episodes there are


@dataclass(frozen=True)
class Interval:
    """A mean of `count` values and the interval `low` to `high` around it, in the unit of the values."""

    mean: float
    low: float
    high: float
    count: int

    def to_dict(self) -> dict[str, float | int]:
        """The four fields as plain numbers, ready for JSON."""
        return asdict(self)


def bootstrap_interval(
    values: Sequence[float], *, seed: int = 0, level: float = 0.95, resamples: int = 10_000
) -> Interval:
    """Percentile bootstrap of the mean of independent `values` (Efron & Tibshirani, 1993, chapter 13).

    The same values, in the same order, and seed give the same interval. It is a little too narrow for fewer than about
    twenty values, and has no width at all when every value is the same. No values, values that are not finite, a
    `level` outside (0, 1) and fewer than one resample are an `InputError`.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or not len(sample):
        raise InputError(f"an interval needs a list of at least one value, got shape {sample.shape}: play an episode")
    if not np.isfinite(sample).all():
        at = int(np.flatnonzero(~np.isfinite(sample))[0])
        raise InputError(f"value {at} is {sample[at]}: an interval needs finite values")
    if not 0 < level < 1:
        raise InputError(f"level is {level}: use a share between 0 and 1, such as 0.95")
    if resamples < 1:
        raise InputError(f"resamples is {resamples}: use at least 1, better 10000")
    generator = np.random.default_rng(seed)
    rows = max(1, BLOCK // len(sample))
    means = np.concatenate(
        [
            sample[generator.integers(len(sample), size=(min(rows, resamples - done), len(sample)))].mean(axis=1)
            for done in range(0, resamples, rows)
        ]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(sample.mean()), float(low), float(high), len(sample))


def separated(a: Interval, b: Interval) -> bool:
    """Whether `a` lies above `b` with no overlap. One value has no spread: it is separated from nothing."""
    return a.count > 1 and b.count > 1 and a.low > b.high
