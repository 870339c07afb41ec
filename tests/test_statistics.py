from __future__ import annotations

import json

import numpy as np
import pytest

from agents import statistics
from agents.statistics import Interval, bootstrap_interval, separated
from worldmodel.errors import InputError


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
    monkeypatch.setattr(statistics, "BLOCK", 900)
    assert whole == bootstrap_interval(values, seed=5, resamples=1001)


def test_separated_means_above_without_overlap() -> None:
    low, high = Interval(0.3, 0.2, 0.4, 100), Interval(0.6, 0.5, 0.7, 100)
    assert separated(high, low)
    assert not separated(low, high)
    assert not separated(Interval(0.5, 0.4, 0.6, 100), low)
    assert not separated(bootstrap_interval([1.0]), low)
    assert not separated(high, bootstrap_interval([0.0]))


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
