"""Intervals against textbook values, and how often they cover."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.reporting.statistics import (
    Interval,
    by_unit,
    combined_interval,
    mean_interval,
    rate_interval,
    student_band,
    student_quantile,
    within,
)

NAN = math.nan


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.7062), (2, 4.3027), (4, 2.7764), (9, 2.2622), (30, 2.0423), (1000, 1.9623)]
)
def test_quantiles_of_students_t(degrees: int, quantile: float) -> None:
    assert student_quantile(0.975, degrees) == pytest.approx(quantile, abs=1e-4)


def test_quantiles_reach_from_cauchy_to_normal() -> None:
    assert student_quantile(0.95, 1) == pytest.approx(math.tan(math.pi * 0.45))
    assert student_quantile(0.95, 2) == pytest.approx(0.9 / math.sqrt(2 * 0.95 * 0.05))
    assert student_quantile(0.975, 200_001) == pytest.approx(1.95997, abs=1e-4)


def test_mean_of_two_by_hand() -> None:
    found = mean_interval(np.array([1.0, 3.0]))
    assert (found.mean, found.count) == (2.0, 2)
    assert found.high - found.mean == pytest.approx(12.7062, abs=1e-4)  # deviation sqrt(2), over sqrt(2)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)


def test_columns_leave_out_what_is_not_known() -> None:
    found = student_band(np.array([[1.0, NAN, NAN], [3.0, 5.0, NAN], [NAN, 7.0, 4.0], [NAN, NAN, NAN]]))
    assert found.count.tolist() == [2, 2, 1]
    assert found.mean.tolist() == [2.0, 6.0, 4.0]
    np.testing.assert_allclose(found.high - found.mean, [12.7062, 12.7062, NAN], atol=1e-4)
    nothing = mean_interval(np.array([NAN]))
    assert nothing.count == 0
    assert math.isnan(nothing.mean)


def test_the_mean_is_covered_as_often_as_is_said() -> None:
    generator = np.random.default_rng(0)
    band = student_band(generator.normal(5.0, 2.0, (4, 4000)))
    assert np.mean((band.low <= 5) & (band.high >= 5)) == pytest.approx(0.95, abs=0.012)


def test_clips_of_an_episode_count_once() -> None:
    values, episodes = np.array([[1.0, NAN], [3.0, 4.0], [10.0, 20.0]]), np.array([7, 7, 2])
    assert by_unit(values, episodes).tolist() == [[10.0, 20.0], [2.0, 4.0]]


def test_rates_by_wilson() -> None:
    found = rate_interval(8, 10)  # Agresti & Coull (1998) give (.490, .943)
    assert (found.low, found.high) == (pytest.approx(0.490, abs=1e-3), pytest.approx(0.943, abs=1e-3))
    none, all_ = rate_interval(0, 10), rate_interval(10, 10)
    assert (none.low, all_.high) == (0.0, 1.0)
    assert none.high == pytest.approx(1 - all_.low) == pytest.approx(0.2775, abs=1e-4)
    assert found.low < rate_interval(8.5, 10).low < rate_interval(9, 10).low


def test_what_has_no_interval_is_refused() -> None:
    for asked in (lambda: rate_interval(1, 0), lambda: rate_interval(3, 2), lambda: student_quantile(0.975, 0)):
        with pytest.raises(InputError):
            asked()


def test_a_difference_by_welch() -> None:
    """Against scipy.stats.ttest_ind(..., equal_var=False).confidence_interval()."""
    first, second = [3.0, 5.0, 4.0, 9.0, 2.0], [1.0, 1.5, 0.5]
    found = combined_interval([first, second], [1, -1])
    assert (found.mean, found.count) == (pytest.approx(3.6), 8)
    assert (found.low, found.high) == (pytest.approx(0.2817, abs=5e-3), pytest.approx(6.9183, abs=5e-3))
    assert combined_interval([first, second[:1]], [1, -1]) == Interval(pytest.approx(3.6), *[pytest.approx(3.6)] * 2, 6)
    assert combined_interval([[1.0] * 3, [0.0] * 4], [1, -1]) == Interval(1.0, 1.0, 1.0, 7)


def test_one_sample_has_students_interval_and_strata_their_own() -> None:
    values = np.array([1.0, 4.0, 2.0, 7.0])
    one, alone = mean_interval(values), within([values])
    assert (one.low, one.mean, one.high, one.count) == pytest.approx((alone.low, alone.mean, alone.high, alone.count))
    apart = within([[0.0, 1.0] * 10, [10.0, 11.0] * 10])
    assert apart.high - apart.low < 0.4  # within the strata; as one sample it is more than 3 wide
    assert within([[0.0], [10.0]]).high - within([[0.0], [10.0]]).low > 100  # of strata of one value, as one sample
    with pytest.raises(InputError, match="value 1 is nan"):
        within([[1.0, math.nan]])
    with pytest.raises(InputError, match="no lists"):
        within([])


def test_differences_and_strata_are_covered_as_often_as_is_said() -> None:
    generator, hits = np.random.default_rng(0), np.zeros(2)
    for _ in range(1000):
        a, b = generator.normal(2.0, 3.0, 6), generator.normal(1.0, 1.0, 12)
        difference, both = combined_interval([a, b], [1, -1]), within([a, b])
        hits += difference.low <= 1 <= difference.high, both.low <= 4 / 3 <= both.high
    assert ((hits / 1000 >= 0.935) & (hits / 1000 <= 0.975)).all()
