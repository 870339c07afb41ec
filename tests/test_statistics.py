from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.reporting import resampling
from lssvwm.worldmodel.reporting.resampling import Correlation, improvement, iqm, pearson, spearman, stratified_interval
from lssvwm.worldmodel.reporting.statistics import Interval, separated, within


def bootstrap_interval(values: Sequence[float], **options: Any) -> Interval:
    """Of one stratum."""
    return stratified_interval([values], **options)


def test_interval_of_two_values_is_known_by_hand() -> None:
    # The mean of two draws from {0, 1} is 0, 1/2 or 1 with probability 1/4, 1/2 and 1/4.
    assert bootstrap_interval([0, 1]) == Interval(0.5, 0.0, 1.0, 2)
    assert bootstrap_interval([0, 1], level=0.4) == Interval(0.5, 0.5, 0.5, 2)


def test_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    generator = np.random.default_rng(7)
    covered = 0
    for _ in range(400):
        interval = bootstrap_interval(generator.exponential(2.0, size=80).tolist(), resamples=400)
        covered += interval.low <= 2.0 <= interval.high
    assert 0.90 <= covered / 400 <= 0.98


def test_interval_narrows_with_the_root_of_the_count() -> None:
    generator = np.random.default_rng(1)
    few, many = (bootstrap_interval(generator.normal(size=count).tolist()) for count in (100, 10_000))
    assert 8 < (few.high - few.low) / (many.high - many.low) < 12


def test_a_wider_level_is_a_wider_interval() -> None:
    values = np.random.default_rng(1).normal(size=50).tolist()
    narrow, wide = bootstrap_interval(values, level=0.5), bootstrap_interval(values, level=0.99)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_same_seed_same_interval_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(2).normal(size=30).tolist()
    whole = bootstrap_interval(values, seed=5, resamples=1001)
    assert whole == bootstrap_interval(values, seed=5, resamples=1001)
    assert whole != bootstrap_interval(values, seed=6, resamples=1001)
    monkeypatch.setattr(resampling, "BLOCK", 900)
    assert whole == bootstrap_interval(values, seed=5, resamples=1001)


def test_separated_means_above_without_overlap() -> None:
    low, high = Interval(0.3, 0.2, 0.4, 100), Interval(0.6, 0.5, 0.7, 100)
    assert separated(high, low)
    assert not separated(low, high)
    assert not separated(Interval(0.5, 0.4, 0.6, 100), low)
    assert not separated(within([[1.0]]), low)
    assert not separated(high, within([[0.0]]))


def test_interval_goes_through_json() -> None:
    interval = bootstrap_interval(np.float32([0.1, 0.5, 0.7]).tolist())
    assert Interval(**json.loads(json.dumps(interval.to_dict()))) == interval


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "play an episode"),
        ([[1.0, 2.0]], {}, r"shape \(1, 2\)"),
        ([1.0, float("nan")], {}, "value 1 is nan"),
        ([1.0, 2.0], {"level": 95}, "such as 0.95"),
        ([1.0, 2.0], {"resamples": 0}, "at least 1"),
    ],
)
def test_bad_input_is_named(values: list[float], options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        bootstrap_interval(values, **options)  # type: ignore[arg-type]


def test_interquartile_mean_leaves_out_a_quarter_at_either_end() -> None:
    assert iqm(np.array([100.0, 1, 0, 3, 2])) == 2.0  # floor(5 / 4) = 1 from each end
    assert iqm(np.array([9.0, -9, 1, 2, 3, 4, 50, -50])) == 2.5  # 2 from each end
    assert iqm(np.array([0.0, 1, 8])) == 3.0  # too few: their mean
    assert iqm(np.array([[0.0, 1, 2, 30], [5, 5, 6, 9]])).tolist() == [1.5, 5.5]


def test_stratified_intervals_are_known_by_hand() -> None:
    # Two draws from {0, 1} beside two from {10, 10}. Sums of the first are 0, 1, 2 with probability 1/4, 1/2, 1/4, so
    # means of all four are 5, 5.25, 5.5; their middle two are 0 and 10 or 1 and 10: 5 with probability 1/4, else 5.5.
    strata = [[0.0, 1.0], [10.0, 10.0]]
    assert stratified_interval(strata) == Interval(5.25, 5.0, 5.5, 4)
    assert stratified_interval(strata, level=0.4) == Interval(5.25, 5.25, 5.25, 4)
    assert stratified_interval(strata, iqm) == Interval(5.5, 5.0, 5.5, 4)
    assert stratified_interval(strata, iqm, level=0.4) == Interval(5.5, 5.5, 5.5, 4)
    # Drawn from one stratum, all four could be the same.
    assert stratified_interval([[0.0, 1.0, 10.0, 10.0]]).high > 9


def test_strata_without_values_are_named() -> None:
    with pytest.raises(InputError, match="no lists"):
        stratified_interval([])
    with pytest.raises(InputError, match="play an episode"):
        stratified_interval([[1.0], []])


def test_correlations_are_known_by_hand() -> None:
    x, y = [1.0, 2, 3, 4], [1.0, 3, 2, 4]
    # r = 4 / 5; atanh(r) = 1.09861, and with four pairs Fisher's deviation is 1: 1.09861 -+ 1.95996.
    straight, rising = pearson(x, y), spearman(x, y)
    assert straight is not None
    assert rising is not None
    assert (straight.value, straight.count) == (pytest.approx(0.8), 4)
    assert (straight.low, straight.high) == pytest.approx((-0.69700, 0.99560), abs=1e-4)
    # Spearman's is wider by the root of 1 + 0.64 / 2: 1.09861 -+ 2.25184.
    assert rising.value == pytest.approx(0.8)
    assert (rising.low, rising.high) == pytest.approx((-0.81883, 0.99754), abs=1e-4)
    assert spearman(x, [1.0, 100, 2, 1000]) == rising
    assert pearson(x, [-value for value in y]) == Correlation(
        pytest.approx(-0.8), pytest.approx(-straight.high), pytest.approx(-straight.low), 4
    )


def test_equal_values_share_their_rank() -> None:
    # Ranks 1.5, 1.5, 3 and 1, 2, 3: deviations -0.5, -0.5, 1 and -1, 0, 1, so 1.5 / sqrt(1.5 * 2).
    found = spearman([7.0, 7.0, 9.0], [0.0, 1.0, 5.0])
    assert found == Correlation(pytest.approx(3**0.5 / 2), -1.0, 1.0, 3)


def test_a_correlation_needs_three_pairs_that_differ() -> None:
    for correlation in (pearson, spearman):
        assert correlation([], []) is None
        assert correlation([1.0, 2], [1.0, 2]) is None
        assert correlation([1.0, 1, 1], [1.0, 2, 3]) is None
        assert correlation([1.0, 2, 3, 4], [2.0, 4, 6, 8]) == Correlation(
            pytest.approx(1.0), pytest.approx(1.0), pytest.approx(1.0), 4
        )
        with pytest.raises(InputError, match="got 2 and 1 values"):
            correlation([1.0, 2], [1.0])


def test_fishers_interval_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(5)
    covered = 0
    for _ in range(400):
        x = generator.normal(size=12)
        found = pearson(x.tolist(), (0.6 * x + 0.8 * generator.normal(size=12)).tolist())
        assert found is not None
        covered += found.low <= 0.6 <= found.high
    assert 0.92 <= covered / 400 <= 0.98


def test_the_probability_of_improvement_is_known_by_hand() -> None:
    found = improvement([1.0, 3.0], [2.0, 1.0])  # pairs: 1 < 2, 1 = 1, 3 > 2, 3 > 1
    assert (found.mean, found.count) == (0.625, 4)
    assert (found.low, found.high) == (0.0, 1.0)  # of runs 1, 1 against 2, 2, and 3, 3 against any
    assert improvement([5.0, 6.0, 7.0], [1.0, 2.0, 3.0]) == Interval(1.0, 1.0, 1.0, 6)
    swapped = improvement([2.0, 1.0], [1.0, 3.0])
    assert swapped.mean == pytest.approx(1 - found.mean)
