"""Whole runs of the scripts, stopped in every stage: what is recorded stays, and the end is the same."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lssvwm.agents.report import read_curves
from lssvwm.agents.report.run import SHOWN
from lssvwm.envs.recording.recorder import SEED_KEY
from lssvwm.worldmodel.checkpoint import load_checkpoint
from lssvwm.worldmodel.common.stepping import HEARD
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.evaluation import dream_along
from runs import TINY_LOOP, finish, kill, stop

EPISODES, WORLD_STEPS, DREAMS = 30, 120, 60
OPTIONS = (
    *TINY_LOOP,
    *("--collect-episodes", str(EPISODES), "--world-steps", str(WORLD_STEPS), "--dreams", str(DREAMS)),
    *("--eval-episodes", "10"),
)
CLOCKS = {"seconds", "steps_per_second", "skipped"}


def agent(out: Path, *more: str) -> tuple[str, ...]:
    return ("train_agent.py", *OPTIONS, "--out", str(out), *more)


def results(out: Path) -> dict[str, Any]:
    """The figures of the report that have to be the same, however often the run was stopped."""
    found = json.loads((out / "report" / "results.json").read_text())
    keys = ("env", "versions", "settings", "real_return", "imagined_return", "dream_drift", "stages")
    return {key: without_clocks(found[key]) for key in keys}


def without_clocks(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: without_clocks(entry) for key, entry in value.items() if key not in CLOCKS}
    return value


def episodes(out: Path) -> dict[int, list[bytes]]:
    """Everything recorded, by seed; every seed once."""
    store = EpisodeStore(out / "episodes")
    read = [store.read(name) for name in store.names]
    by_seed = {int(e.extras[SEED_KEY]): [getattr(e, k).tobytes() for k in ("image", "action", "reward")] for e in read}
    assert len(by_seed) == len(read)
    return by_seed


def recorded(out: Path) -> int:
    return len(list((out / "episodes").glob("*.episode")))


def reached(out: Path, name: str) -> bool:
    return (out / "stages" / f"{name}.json").exists()


def step(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["step"])


def kill_in_world_model(out: Path, *more: str, round_: int = 0) -> None:
    state = out / "world_model" / "training.pt"
    before = round_ * WORLD_STEPS
    kill(*agent(out, "--resume", *more), when=lambda: state.exists() and step(state) > before)
    assert before < step(state) < before + WORLD_STEPS
    assert reached(out, f"{round_}-collect")
    assert not reached(out, f"{round_}-world-model")


def kill_in_policy(out: Path, *more: str, round_: int = 0) -> None:
    state = out / "policy" / "policy.pt"
    before = round_ * DREAMS
    kill(*agent(out, "--resume", *more), when=lambda: state.exists() and step(state) > before)
    assert before < step(state) < before + DREAMS
    assert reached(out, f"{round_}-world-model")
    assert not reached(out, f"{round_}-policy")


def kill_in_collect(out: Path, *more: str, round_: int = 0) -> None:
    before = round_ * EPISODES
    kill(*agent(out, "--resume", *more), when=lambda: recorded(out) > before + 2)
    assert before < recorded(out) < before + EPISODES
    assert not reached(out, f"{round_}-collect")


def kill_after(out: Path, done: str, then: str, *more: str) -> None:
    kill(*agent(out, "--resume", *more), when=lambda: reached(out, done))
    assert not reached(out, then)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    finish(*agent(out))
    return out


def test_a_run_leaves_a_report_with_all_figures(whole: Path) -> None:
    found = json.loads((whole / "report" / "results.json").read_text())
    assert list(found["stages"]) == ["0-collect", "0-world-model", "0-policy", "random", "0-evaluation"]
    assert found["stages"]["0-collect"]["episodes"] == EPISODES
    assert found["stages"]["0-world-model"]["steps"] == WORLD_STEPS
    assert found["stages"]["0-world-model"]["loss"] > 0
    assert found["stages"]["0-policy"]["batches"] == DREAMS
    for name in ("random", "0-evaluation"):
        judged = found["stages"][name]
        assert len(judged["seeds"]) == len(judged["returns"]) == len(judged["lengths"]) == 10
        assert not set(judged["seeds"]) & set(episodes(whole))
    assert len(found["stages"]["0-evaluation"]["imagined_returns"]) == 10
    assert found["settings"]["seed"] == 0
    assert found["settings"]["model"]["dim"] == 32
    assert found["versions"]["lssvwm"] == "0.1.0"
    assert found["command"].startswith("python train_agent.py --preset smoke")
    page = (whole / "report" / "index.html").read_text()
    assert " distinct starts, " in page
    assert page.count("data:video/mp4") == 2
    assert len(page) < 5e6


def test_killed_in_every_kind_of_training_it_ends_the_same(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    kill_in_collect(out)
    kept = {path.name: path.read_bytes() for path in (out / "episodes").glob("*.episode")}
    kill_in_world_model(out)
    assert all((out / "episodes" / name).read_bytes() == data for name, data in kept.items())
    kill_in_policy(out)
    finish(*agent(out, "--resume"))
    assert episodes(out) == episodes(whole)
    assert results(out) == results(whole)
    for part in ("world_model", "policy", "evaluation"):
        check_curves(out / "tensorboard" / part, whole / "tensorboard" / part)
    assert (out / "commands.txt").read_text().count("train_agent.py") == 4


def check_curves(folder: Path, whole: Path) -> None:
    """Steps never go back, and the last values are those of the run that nothing stopped."""
    events, wanted = EventAccumulator(str(folder)), read_curves(whole)
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(wanted)
    for tag, curve in wanted.items():
        steps = [event.step for event in events.Scalars(tag)]
        assert all(np.diff(steps) > 0), f"{tag}: {steps}"
        assert (steps[-1], events.Scalars(tag)[-1].value) == (curve.steps[-1], curve.values[-1])


@pytest.mark.slow
def test_killed_in_every_stage_of_two_rounds_it_ends_the_same(tmp_path: Path) -> None:
    out, straight = tmp_path / "run", tmp_path / "straight"
    two = ("--rounds", "2")
    finish(*agent(straight, *two))
    kill_in_collect(out, *two)
    kill_after(out, "0-collect", "0-world-model", *two)
    kill_in_world_model(out, *two)
    kill_after(out, "0-world-model", "0-policy", *two)
    kill_in_policy(out, *two)
    kill_after(out, "0-policy", "random", *two)
    kill_after(out, "random", "0-evaluation", *two)
    kill_in_collect(out, *two, round_=1)
    kill_in_world_model(out, *two, round_=1)
    kill_in_policy(out, *two, round_=1)
    kill_after(out, "1-policy", "1-evaluation", *two)
    kill(*agent(out, "--resume", *two), when=lambda: (out / "report" / "random.mp4").exists())
    assert "This run goes on" in (out / "report" / "index.html").read_text()
    finish(*agent(out, "--resume", *two))
    assert episodes(out) == episodes(straight)
    assert len(episodes(out)) == 2 * EPISODES
    assert results(out) == results(straight)
    for part in ("world_model", "policy", "evaluation"):
        check_curves(out / "tensorboard" / part, straight / "tensorboard" / part)


def test_interrupted_it_saves_and_says_so_at_once(tmp_path: Path) -> None:
    out = tmp_path / "run"
    state, policy = out / "world_model" / "training.pt", out / "policy" / "policy.pt"
    stopped = stop(*agent(out), when=lambda: state.exists(), number=signal.SIGTERM)
    growing = f"report, growing while this runs: {out / 'report' / 'index.html'}\n"
    assert (stopped.returncode, stopped.stdout) == (130, growing)
    saved = "interrupted; everything so far is saved: add --resume to continue"
    assert stopped.stderr == f"{HEARD.decode()}{saved}\n"
    at = step(state)
    assert 0 < at < WORLD_STEPS
    assert load_checkpoint(out / "world_model").step == at
    # The settings are those of the run, they need not be given again.
    again = ("train_agent.py", "--out", str(out), "--resume", "--no-progress")
    stopped = stop(*again, when=lambda: policy.exists(), number=signal.SIGINT)
    assert (stopped.returncode, stopped.stdout) == (130, growing)
    assert "This run has stopped" in (out / "report" / "index.html").read_text()
    assert stopped.stderr == f"{HEARD.decode()}{saved}\n"
    assert 0 < step(policy) < DREAMS
    finish(*again)
    assert (step(state), step(policy)) == (WORLD_STEPS, DREAMS)
    assert "This run" not in (out / "report" / "index.html").read_text()


def test_the_shortest_and_the_longest_episode_are_shown(whole: Path) -> None:
    store, model = EpisodeStore(whole / "episodes"), load_checkpoint(whole / "world_model").model
    episode = store.read(store.names[int(store.lengths.argmax())])
    shortest = dream_along(model, episode.beginning(2), context=8, steps=1)
    assert (shortest.context, len(shortest.frames), len(shortest.psnr)) == (1, 2, 1)
    assert np.array_equal(shortest.frames[0], episode.image[0])
    assert len(episode.beginning(5).image) == len(episode.beginning(5).reward) == 5
    assert len(episode.beginning(SHOWN).image) == len(episode.image) == 61
