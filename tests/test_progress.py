"""Bars: what a listener is told of them, shown or not."""

from __future__ import annotations

import time

import pytest

from lssvwm.worldmodel.common.progress import Bar, Place, counted, listening


@pytest.mark.parametrize("show", [False, True])
def test_a_listener_is_told_of_steps_whether_a_bar_is_shown_or_not(
    show: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[Place] = []
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with listening(told.append), Bar("policy", 10, "frame", initial=4, units=960, show=show) as bar:
        for _ in range(2):
            clock[0] += 0.5
            bar.update()
    assert told == [Place("policy", 5, 10, "step", 2.0), Place("policy", 6, 10, "step", 2.0)]
    assert ("5.76k/9.60k" in capsys.readouterr().err) == show


def test_nobody_is_told_of_what_comes_after_or_before_an_entry_is_done() -> None:
    told: list[Place] = []
    with listening(told.append):
        seen = [(entry, len(told)) for entry in counted(range(3), "heads", "step", show=False)]
    list(counted("ab", "heads", "step", show=False))
    assert seen == [(0, 0), (1, 1), (2, 2)]
    assert [place.done for place in told] == [1, 2, 3]
