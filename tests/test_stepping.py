"""Work in steps: what is looked at when, and how often it is saved."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lssvwm.worldmodel.common.stepping import SAVE, STOP, Figures, mean_of, run_steps, settled


class Count:
    """Counts to wherever it is told; a step takes `pace` seconds of `clock`, saving `cost` of them."""

    alone, pace = True, 1.0

    def __init__(self, clock: list[float], cost: float = 0.0) -> None:
        self.clock, self.cost = clock, cost
        self.step, self.whole, self.saves = 0, True, 0
        self.recent: list[dict[str, float]] = []

    def prepare(self) -> None:
        pass

    def train_step(self) -> Figures:
        self.step += 1
        self.clock[0] += self.pace
        return {"there": torch.full((), float(self.step)), "here": 2.0 * self.step}

    def agree(self, number: int) -> int:
        return number

    def save(self) -> None:
        assert [record["here"] for record in self.recent[-3:]] == [2.0 * s for s in range(1, self.step + 1)][-3:]
        self.clock[0] += self.cost
        self.saves += 1


class Looks(TorchDispatchMode):
    """Counts how often numbers are fetched from where they were computed."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func._overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.stack)
        return func(*args, **(kwargs or {}))


def run(work: Count, until: int, save_seconds: float, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    monkeypatch.setattr(time, "monotonic", lambda: work.clock[0])
    options: dict[str, Any] = {"name": "count", "unit": "step", "units": 1, "shown": (), "every": 20}
    return run_steps(work, until, save_seconds=save_seconds, writer=None, progress=False, **options)


def test_figures_stay_where_they_are_until_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at a device waits for all its work: one for 20 steps, and one at the end."""
    work, looks = Count([0.0]), Looks()
    with looks:
        means = run(work, 130, 1e9, monkeypatch)
    assert 0 < looks.count <= 7
    assert all(type(value) is float for record in work.recent for value in record.values())
    assert [record["there"] for record in work.recent] == list(range(31, 131))
    assert means == {"there": 80.5, "here": 161.0}


def test_figures_of_several_kinds() -> None:
    records = [{"a": torch.tensor(1.5), "b": torch.tensor(2, dtype=torch.int64), "c": 3.0}, {"a": torch.tensor(2.5)}]
    assert settled(records) == [{"a": 1.5, "b": 2.0, "c": 3.0}, {"a": 2.5}]
    assert mean_of(settled(records)) == {"a": 2.0, "b": 2.0, "c": 3.0}
    assert mean_of([]) == {}


@pytest.mark.parametrize(
    ("save_seconds", "cost", "saves"),
    [(60.0, 0.0, 16), (60.0, 1.5, 16), (60.0, 12.0, 3), (0.0, 12.0, 1000), (1e9, 0.0, 0)],
)
def test_saving_takes_a_small_share_of_the_time(
    save_seconds: float, cost: float, saves: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand seconds of steps: a checkpoint every minute, or every 400 seconds where one takes 12."""
    work = Count([0.0], cost)
    run(work, 1000, save_seconds, monkeypatch)
    assert work.saves == saves + 1  # and one at the end


class OneOfTwo(Count):
    """Is asked together with another process, which says `other`, and notes when; told to stop before step `stop`."""

    alone, pace, other, stop = False, 1 / 64, 0, -1

    def __init__(self, clock: list[float]) -> None:
        super().__init__(clock)
        self.asked: list[int] = []

    def train_step(self) -> Figures:
        if self.step == self.stop:
            signal.raise_signal(signal.SIGTERM)
        return super().train_step()

    def agree(self, number: int) -> int:
        self.asked.append(self.step)
        return max(number, self.other)


def test_processes_ask_each_other_twice_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    work = OneOfTwo([0.0])
    run(work, 210, 0.9, monkeypatch)
    assert work.asked == [0, *range(1, 210, 32), 210]
    assert work.saves == 3 + 1, "every second time: 0.9 seconds are over"
    work = OneOfTwo([0.0])
    run(work, 10, 0.0, monkeypatch)
    assert work.asked == [*range(11), 10], "they save after every step"


def test_the_slowest_says_when_they_ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    work = OneOfTwo([0.0])
    work.other = SAVE - 20
    run(work, 60, 1e9, monkeypatch)
    assert work.asked == [0, 1, 21, 41, 60]


@pytest.mark.parametrize("here", [True, False])
def test_an_interruption_of_any_of_them_is_one_of_all(here: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    work = OneOfTwo([0.0])
    work.stop, work.other = (60, 0) if here else (-1, STOP)
    with pytest.raises(KeyboardInterrupt):
        run(work, 200, 1e9, monkeypatch)
    assert work.asked == ([0, 1, 33, 65, 65] if here else [0, 0])
    assert work.saves == 1
