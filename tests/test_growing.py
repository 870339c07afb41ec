"""The report of a run that goes on: what it says and shows by when, and that the run does not notice."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from tqdm import tqdm

from lssvwm.agents.report import growing
from lssvwm.agents.report.growing import Growing
from lssvwm.agents.report.now import now, to_come
from lssvwm.agents.running.loop import Loop
from lssvwm.agents.running.settings import LoopSettings, TrainingOptions
from lssvwm.worldmodel.common.progress import Bar, Place
from test_algorithms import SMALL
from test_loop import without_clocks

SETTINGS = replace(
    SMALL,
    rounds=2,
    dreams=5,  # so many until the first point of its curves
    heads=replace(SMALL.heads, calibration=2),
    training=TrainingOptions(batch=2, length=8, fit_frames=32, save_seconds=0.0),
    dreamer=replace(SMALL.dreamer, save_seconds=0.0),
)
IN_REAL = replace(SMALL, algo="ppo", place="real")


@dataclass(frozen=True)
class Seen:
    """A page as it was after an attempt to write it, and what of the run it was about."""

    stage: str
    place: Place | None
    page: str


def generators() -> tuple[Any, ...]:
    name, key, *more = np.random.get_state()  # noqa: NPY002  # what Stable-Baselines3 draws from
    return torch.get_rng_state().tolist(), name, np.asarray(key).tolist(), more, random.getstate()


@contextmanager
def always_written() -> Iterator[list[Seen]]:
    """Pages are written whenever the work moves; none may draw from the generators that all share."""
    seen: list[Seen] = []
    attempt = Growing.attempt

    def watched(self: Growing, write: Callable[[], object]) -> None:
        before = generators()
        attempt(self, write)
        assert generators() == before
        page = self.folder / "index.html"
        seen.append(Seen(self.stage, self.place, page.read_text() if page.exists() else ""))

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Growing, "attempt", watched)
        for name, value in (("FIRST", 0.0), ("PAUSE", 0.0), ("SHARE", 1e9)):
            monkeypatch.setattr(growing, name, value)
        yield seen


def learn(out: Path, settings: LoopSettings = SETTINGS) -> str:
    return Loop(out, settings, progress=False).run_to_report("the test").read_text()


@dataclass(frozen=True)
class Grown:
    """A run, its pages on the way, and its final one."""

    out: Path
    pages: list[Seen]
    final: str
    loaded: int  # how often a page has made a world model


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Grown:
    out = tmp_path_factory.mktemp("grown") / "run"
    with always_written() as pages, patch.object(growing, "load_checkpoint", wraps=growing.load_checkpoint) as load:
        final = learn(out)
    return Grown(out, pages, final, load.call_count)


def test_every_stage_is_said_from_its_beginning(grown: Grown) -> None:
    names = Loop(grown.out, SETTINGS, progress=False).stage_names()
    assert list(dict.fromkeys(each.stage for each in grown.pages)) == names
    words = [
        *("recording real episodes, round 1", "learning the world, round 1", "learning to act, round 1"),
        *("judging random play", "judging what was learned, round 1"),
        *("recording real episodes, round 2", "learning the world, round 2", "learning to act, round 2"),
        "judging what was learned, round 2",
    ]
    for at, name in enumerate(names):
        first = next(each for each in grown.pages if each.stage == name)
        assert first.place is None
        assert f"<h2>Stage {at + 1} of 9: {words[at]}</h2>" in first.page
        done = re.search(r"<p>Done: (.*)\.</p><p>Written", first.page)
        assert ("" if done is None else re.sub(r" \([\dhmins ]+\)", "", done[1])) == ", ".join(words[:at])


def test_within_a_stage_it_says_where_the_work_stands(grown: Grown) -> None:
    within = [each for each in grown.pages if each.stage == "0-world-model" and each.place]
    assert [each.place.done for each in within if each.place and each.place.what == "world model"] == [1, 2, 3]
    assert re.search(r"<p>world model: step 2 of 3, [\d.]+ step/s, about \d+ s left of this\.</p>", within[1].page)
    assert "<progress max=1 value=0.6667>" in within[1].page
    assert {"world model", "frames for the heads", "heads"} == {each.place.what for each in within if each.place}


def test_it_shows_what_there_is(grown: Grown) -> None:
    def shown(each: Seen) -> list[str]:
        return re.findall(r"<figure class=clip><h3>(.*?)</h3>", each.page)

    real, both = ["recorded: a real episode"], ["recorded: real and dreamt"]
    first, *rest = grown.pages
    assert shown(first) == []
    assert all(shown(each) for each in rest if each.stage != "0-collect")
    collect = [shown(each) for each in rest if each.stage == "0-collect"]
    assert len(collect) == 4
    assert collect[-1] == real
    assert collect == sorted(collect)  # episodes are written by a thread, so the first pages may come before them
    steps = [each for each in rest if each.stage == "0-world-model" and each.place and each.place.what == "world model"]
    assert [shown(each) for each in steps] == [real, both, both]  # a page comes before the checkpoint of its step
    assert [shown(each) for each in rest if each.stage == "0-policy"] == [both] * 6
    assert {*map(tuple, map(shown, (each for each in rest if each.stage[0] == "1")))} == {
        ("trained in dreams: real and dreamt",)
    }
    videos = [re.findall(r'src="data:video/mp4;base64,(.*?)"', each.page) for each in steps]
    assert videos[1] != videos[2]
    assert "imagined return" in next(each for each in rest if each.stage == "random").page
    assert "Real return, random" in next(each for each in rest if each.stage == "0-evaluation").page


def test_only_the_final_page_stands_still(grown: Grown) -> None:
    assert all("location.reload()" in each.page and "This run goes on" in each.page for each in grown.pages)
    for said in ("<script", "http-equiv", "This run", "--resume", "<progress"):
        assert said not in grown.final
    assert grown.final.count("data:video/mp4") == 2
    assert not list((grown.out / "report").glob(".*"))


def test_the_run_is_the_same_as_without(grown: Grown, tmp_path: Path) -> None:
    stages = Loop(tmp_path / "run", SETTINGS, progress=False).run()
    found = json.loads((grown.out / "report" / "results.json").read_text())["stages"]
    assert list(found) == list(stages)
    assert without_clocks(found) == without_clocks(stages)
    weights = Path("world_model") / "model.safetensors"
    assert (grown.out / weights).read_bytes() == (tmp_path / "run" / weights).read_bytes()
    policies = [torch.load(out / "policy" / "policy.pt", weights_only=True) for out in (grown.out, tmp_path / "run")]
    for ours, theirs in zip(*(policy["agent"].values() for policy in policies), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", ["real", "given world model"])
def test_it_grows_wherever_a_policy_learns(
    kind: str, grown: Grown, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = replace(SMALL, algo="clone", world_model=grown.out / "world_model")
    with always_written() as pages:
        learn(tmp_path / "run", IN_REAL if kind == "real" else given)
    assert list(dict.fromkeys(each.stage for each in pages)) == ["0-policy", "random", "0-evaluation"]
    assert ("recorded: real and dreamt" in pages[0].page) == (kind == "given world model")
    assert capsys.readouterr().err == ""


def test_where_the_page_is_is_said_once_and_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def learn_policy(round_: int) -> dict[str, Any]:
        said.append("learning")
        return {}

    loop = Loop(tmp_path / "run", IN_REAL, progress=False)
    monkeypatch.setattr(tqdm, "write", said.append)
    monkeypatch.setattr(loop, "learn_policy", learn_policy)
    monkeypatch.setattr(loop, "judge", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loop.run_to_report("the test")
    assert said == [f"report, growing while this runs: {tmp_path / 'run' / 'report' / 'index.html'}", "learning"]


def test_a_page_that_cannot_be_written_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("no space\nleft")

    monkeypatch.setattr(growing, "report_of", full)
    assert "Real return, random" in learn(tmp_path / "run", IN_REAL)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["the report so far was not written, the run goes on: OSError: no space left"] * 3
    monkeypatch.setattr("lssvwm.agents.report.run.report_of", full)
    with pytest.raises(OSError, match="no space"):
        learn(tmp_path / "run", IN_REAL)


def test_interrupted_it_says_so_and_resumed_it_goes_on(grown: Grown, tmp_path: Path) -> None:
    out = tmp_path / "run"
    page = out / "report" / "index.html"

    def interrupted(*_: object) -> None:
        with Bar("policy", 10, "step", show=False) as bar:
            bar.update(3)
            assert "This run goes on" in page.read_text()
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Loop, "learn_policy", interrupted)
        with pytest.raises(KeyboardInterrupt):
            learn(out)
    for said in ("This run has stopped", "learning to act, round 1", "step 3 of 10", "real and dreamt"):
        assert said in page.read_text()
    assert "<script" not in page.read_text()
    with always_written() as pages:
        final = learn(out)
    assert pages[0].stage == "0-policy"
    assert "Done: recording real episodes, round 1" in pages[0].page
    assert "recorded: real and dreamt" in pages[0].page
    assert "<script" not in final
    results = [json.loads((each / "report" / "results.json").read_text()) for each in (out, grown.out)]
    for key in ("real_return", "imagined_return", "dream_drift"):
        assert results[0][key] == results[1][key]
    with always_written() as pages:
        assert learn(out).count("data:video/mp4") == 2
    assert not pages


def test_pages_come_soon_and_then_seldom(grown: Grown, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, cost, written = [0.0], [0.1], []

    def write(self: Growing) -> None:
        clock[0] += cost[0]
        written.append(round(clock[0]))

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(Growing, "write", write)
    report = Growing(Loop(grown.out, SETTINGS, progress=False).subject("the test"))
    report.begin("0-collect")

    def work(until: float) -> list[int]:
        while clock[0] < until:
            clock[0] += 0.5
            report.told(Place("work", 1, 2, "step", 1.0))
        return written

    assert work(260)[:6] == [0, 11, 31, 72, 132, 193]
    cost[0] = 6.0
    written.clear()
    assert (np.diff(work(4000)[1:]) >= 300).all()
    assert len(written) > 10


def test_what_is_left_is_told_in_words() -> None:
    seconds = {"0-policy": 125.4, "0-collect": 7384.0}

    def lines(place: Place) -> list[str]:
        said = now("0-policy", ["0-collect", "0-policy"], rounds=1, seconds=seconds, done=["0-collect"], place=place)
        assert said.stage == "Stage 2 of 2: learning to act"
        return list(said.lines)

    said = lines(Place("policy", 30, 200, "step", 0.25))
    assert said[0] == "policy: step 30 of 200, 0.25 step/s, about 11 min 20 s left of this."
    assert said[1] == "About 11 min 20 s left in all."
    assert said[2:4] == ["In this stage for 2 min 5 s.", "Done: recording real episodes (2 h 3 min)."]
    assert lines(Place("policy", 0, 200, "step", 0.0))[0].endswith("about unknown left of this.")
    assert lines(Place("policy", 200, 200, "step", 1.0))[0] == "policy: step 200 of 200, 1.00 step/s, done."


def test_how_long_the_run_will_take() -> None:
    stages = ["0-collect", "0-policy", "random", "0-evaluation", "1-collect", "1-policy", "1-evaluation"]

    def said(stage: str, seconds: Mapping[str, float], place: Place | None = None) -> str:
        return to_come(stage, stages, seconds=seconds, done=stages[: stages.index(stage)], place=place)

    half = Place("work", 50, 100, "step", 5.0)
    judging = "judging random play, judging what was learned"
    assert said("0-collect", {}) == ""
    assert said("0-collect", {}, half) == f"About 20 s left in all, and the time for learning to act, {judging}."
    assert said("0-policy", {"0-collect": 30}, half) == f"About 50 s left in all, and the time for {judging}."
    first = {"0-collect": 30, "0-policy": 100, "random": 7, "0-evaluation": 20}
    assert said("1-collect", {**first, "1-collect": 12}) == "About 2 min 18 s left in all."
    slower = {**first, "1-collect": 12, "1-policy": 99}
    assert said("1-policy", slower, half) == "About 30 s left in all."
    assert said("1-evaluation", {**slower, "1-evaluation": 25}) == "About 0 s left in all."


def test_the_model_of_the_page_is_made_once(grown: Grown) -> None:
    """And its weights are read when there are new ones, or the videos would not change."""
    assert grown.loaded == 1
