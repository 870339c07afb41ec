"""Recording goes on whatever single environments do, and nothing that was recorded is lost or doubled."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import lssvwm.envs.recording.pool
from lssvwm.agents.evaluation.real import Evaluation, evaluate
from lssvwm.agents.policies.baselines import Exploring
from lssvwm.agents.running.loop import Loop
from lssvwm.agents.running.run import Run
from lssvwm.agents.running.settings import WorldSettings
from lssvwm.envs.factory import EnvConfig
from lssvwm.envs.recording.playing import _merged
from lssvwm.envs.recording.provenance import LIST
from lssvwm.envs.recording.recorder import RecordSummary, record
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.common.progress import Bar
from lssvwm.worldmodel.episodes import Episode, EpisodeStore
from test_recording import ROOT, Uniform, assert_same, by_seed


def faulty(**options: Any) -> EnvConfig:
    return EnvConfig("faulty:Faulty-v0", options=json.dumps(options))


def recorded(root: Path, config: EnvConfig, **options: Any) -> tuple[RecordSummary, dict[int, Episode]]:
    store = EpisodeStore(root, create=True)
    how = {"episodes": 4, "num_envs": 2, "seed": 0, "progress": False} | options
    summary = record(config, store, Uniform(5), **how)
    return summary, by_seed([store.read(name) for name in store.names])


@pytest.mark.parametrize("fault", ["raise", "kill", "hang", "nan", "shape", "error"])
def test_a_failing_process_is_replaced_and_its_episode_played_again(
    tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole, expected = recorded(tmp_path / "a", faulty())
    marker = tmp_path / "once"
    marker.touch()
    reasons = {
        "raise": "RuntimeError: out of marbles",
        "kill": "its process was killed by SIGKILL",
        "hang": "no answer within 5 seconds",
        "nan": "the environment gave the reward nan",
        "error": "lost its engine",
        "shape": r"shows uint8 (4, 8, 3) where its space says uint8 (8, 8, 3)",
    }
    with caplog.at_level(logging.WARNING):
        summary, found = recorded(
            tmp_path / "b", faulty(fault=fault, seeds=[1], once=str(marker)), timeout=5 if fault == "hang" else 60
        )
    assert not marker.exists()
    assert "seed 1 failed (1 of 3): " in caplog.text
    assert reasons[fault] in caplog.text
    assert (summary.returns, summary.failed, sorted(found)) == (whole.returns, (), [0, 1, 2, 3])
    for seed, episode in found.items():
        for key in ("image", "action", "reward", "terminated"):
            assert np.array_equal(getattr(episode, key), getattr(expected[seed], key))


def judged(config: EnvConfig, processes: bool) -> Evaluation:
    policy = Uniform(5)
    how: dict[str, Any] = {"episodes": 4, "num_envs": 2, "seed": 0, "processes": processes, "progress": False}
    return evaluate("it", config, policy, **how).evaluation


@pytest.mark.parametrize(
    ("fault", "processes"), [("raise", False), ("error", False), ("kill", True)], ids=["raise", "error", "kill"]
)
def test_an_evaluation_survives_what_happens_to_its_environments(tmp_path: Path, fault: str, processes: bool) -> None:
    whole = judged(faulty(), processes)
    (marker := tmp_path / "once").touch()
    assert judged(faulty(fault=fault, seeds=[1], once=str(marker)), processes) == whole
    assert not marker.exists()
    with pytest.raises(InputError, match=r"Faulty-v0 failed 3 times in the episode of seed 2, and figures without it"):
        judged(faulty(fault=fault, seeds=[2]), processes)


def test_a_process_that_hangs_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is waited for no longer than a thousand seconds, but its seed is played by another long before."""
    whole, expected = recorded(tmp_path / "a", faulty())
    monkeypatch.setattr(lssvwm.envs.recording.pool, "PATIENCE", 0.5)
    (marker := tmp_path / "once").touch()
    summary, found = recorded(tmp_path / "b", faulty(fault="hang", seeds=[1], once=str(marker)), timeout=1000)
    assert "seed 1 failed (1 of 3): no answer long after the others" in caplog.text
    assert (summary.returns, summary.failed, sorted(found)) == (whole.returns, (), [0, 1, 2, 3])
    for seed, episode in found.items():
        assert np.array_equal(episode.image, expected[seed].image)


def test_a_process_that_was_only_slow_plays_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole, _ = recorded(tmp_path / "a", faulty(), episodes=12)
    monkeypatch.setattr(lssvwm.envs.recording.pool, "PATIENCE", 0.1)
    monkeypatch.setattr(lssvwm.envs.recording.pool, "SLOWER", 0.0)
    config = faulty(fault="slow", seeds=[1, 3, 5], reset_seconds=0.2)
    summary, _ = recorded(tmp_path / "b", config, episodes=12, attempts=100)
    assert "seed 1 failed (1 of 100): no answer long after the others" in caplog.text
    assert (summary.returns, summary.failed) == (whole.returns, ())


@pytest.mark.parametrize("processes", [True, False])
def test_a_seed_that_always_fails_is_skipped(tmp_path: Path, processes: bool, caplog: pytest.LogCaptureFixture) -> None:
    config = faulty(fault="raise", seeds=[2])
    summary, found = recorded(tmp_path, config, processes=processes, attempts=2)
    assert (summary.failed, sorted(found), summary.episodes, len(summary.returns)) == ((2,), [0, 1, 3], 3, 3)
    assert caplog.text.count("seed 2 failed") == 2
    with pytest.raises(InputError, match="failed with every seed, 1 times each; 0: RuntimeError: out of marbles"):
        recorded(tmp_path / "b", faulty(fault="raise", seeds=[0, 1]), processes=processes, attempts=1, episodes=2)


def test_a_single_seed_cannot_kill_the_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("lssvwm.envs.recording.pool.LocalPool", None)  # it would kill the tests
    config = faulty(fault="kill", seeds=[1])
    for _ in range(2):  # the second call has one seed to play
        summary, _ = recorded(tmp_path, config, attempts=1, episodes=2)
        assert (summary.failed, summary.episodes) == ((1,), 1)
    assert caplog.text.count("1 seeds failed and are skipped; 1: its process was killed by SIGKILL") == 2


@pytest.mark.parametrize("processes", [True, False])
def test_where_an_environment_failed_is_logged_once(
    tmp_path: Path, processes: bool, caplog: pytest.LogCaptureFixture
) -> None:
    recorded(tmp_path, faulty(fault="raise", seeds=[1]), processes=processes, attempts=2, episodes=2)
    assert caplog.text.count('raise RuntimeError("out of marbles")') == 1
    assert caplog.text.count("seed 1 failed") == 2


def test_workers_close_their_environment_when_they_are_ended(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    pool = lssvwm.envs.recording.pool.ProcessPool(
        lssvwm.envs.factory.maker(faulty(reset_seconds=1000, closed=str(closed))), 1, timeout=60
    )
    pool.reset(0, 0)
    pool.close(orderly=False)
    assert closed.exists()


def test_interrupts_are_heard_while_environments_are_made() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        lssvwm.envs.recording.pool.ProcessPool(
            lssvwm.envs.factory.maker(faulty(make_seconds=1000)), 1, timeout=1000, between=interrupt
        )
    assert time.monotonic() - began < 60


def test_a_world_that_cannot_be_made_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be made with the options"):
        recorded(tmp_path, faulty(colour=1))


def test_resets_block_nobody(tmp_path: Path) -> None:
    # One row resets all the time, for a second each; the others play their episodes meanwhile.
    pool = lssvwm.envs.recording.pool.ProcessPool(lssvwm.envs.factory.maker(faulty(reset_seconds=1.0)), 2, timeout=60)
    try:
        for row in (0, 1):
            pool.reset(row, row)
        first: dict[int, Any] = {}
        while len(first) < 2:
            first |= pool.collect((), lambda: None)
        pool.reset(0, 5)
        began = time.monotonic()
        for _ in range(20):
            pool.step(1, 0)
            assert 1 in pool.collect((1,), lambda: None)
        assert time.monotonic() - began < 0.9
        answers: dict[int, Any] = {}
        while 0 not in answers:
            answers = pool.collect((), lambda: None)
        assert answers[0].frame[0, 0, 0] == 5 * 16
    finally:
        pool.close()
    assert not any(worker.process.is_alive() for worker in pool._workers)


def test_long_episodes_are_written_in_pieces_that_overlap(tmp_path: Path) -> None:
    whole, expected = recorded(tmp_path / "a", faulty(length=20), episodes=2)
    root = tmp_path / "b"
    summary, _ = recorded(root, faulty(length=20), episodes=2, piece_frames=8)
    assert summary.returns == whole.returns
    store = EpisodeStore(root)
    for seed in (0, 1):
        pieces = sorted(
            (piece for name in store.names if int((piece := store.read(name)).extras["seed"]) == seed),
            key=lambda piece: int(piece.extras["first_frame"]),
        )
        assert [int(piece.extras["first_frame"]) for piece in pieces] == [0, 7, 14]
        assert [bool(piece.extras["goes_on"]) for piece in pieces] == [True, True, False]
        assert [bool(piece.truncated[-1]) for piece in pieces] == [True, True, False]
        for key in ("image", "action", "reward", "terminated"):
            joined = np.concatenate([getattr(pieces[0], key), *(getattr(piece, key)[1:] for piece in pieces[1:])])
            assert np.array_equal(joined, getattr(expected[seed], key))
    # Interrupted before the last piece: what is there stays, the rest is added.
    last = next(name for name in store.names if not store.read(name).extras["goes_on"])
    kept = {name for name in store.names if name != last}
    (root / last).unlink()
    again, _ = recorded(root, faulty(length=20), episodes=2, piece_frames=8)
    assert again.returns == whole.returns
    assert again.skipped == 1
    assert kept < set(EpisodeStore(root).names)
    assert len(EpisodeStore(root)) == 6
    # Killed while two threads wrote: the last piece is there, one before it is not.
    for first in (0, 7):
        store = EpisodeStore(root)
        lost = next(name for name in store.names if int(store.read(name).extras["first_frame"]) == first)
        (root / lost).unlink()
        again, _ = recorded(root, faulty(length=20), episodes=2, piece_frames=8)
        assert (again.returns, again.skipped, len(EpisodeStore(root))) == (whole.returns, 1, 6)
    # Each piece has one step less than frames.
    assert (summary.steps, again.steps, again.frames) == (40, 40, 46)


def test_pieces_go_on_only_where_they_were_cut(tmp_path: Path) -> None:
    config = faulty(length=10**9)
    recorded(tmp_path, config, piece_frames=8, max_frames=30)
    before = EpisodeStore(tmp_path).names
    for length in (5, 15):
        with pytest.raises(
            InputError, match=f"has 8 frames of seed . from frame .*, which piece_frames={length} would"
        ):
            recorded(tmp_path, config, piece_frames=length, max_frames=60)
    assert EpisodeStore(tmp_path).names == before
    recorded(tmp_path, config, piece_frames=8, max_frames=60)
    assert EpisodeStore(tmp_path).frames >= 60


def test_the_bar_of_a_resumed_recording_ends_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, bars = faulty(length=10**9), []

    class Watched(Bar):
        def __exit__(self, *error: Any) -> None:
            bars.append((self.done, self.total))
            super().__exit__(*error)

    monkeypatch.setattr("lssvwm.envs.recording.recorder.Bar", Watched)
    for budget in (30, 60):
        recorded(tmp_path, config, piece_frames=8, max_frames=budget, processes=False)
    assert bars == [(30, 30), (60, 60)]


def test_endless_episodes_reach_the_disk(tmp_path: Path) -> None:
    summary, _ = recorded(tmp_path, faulty(length=10**9), piece_frames=10, max_frames=60)
    assert 60 <= EpisodeStore(tmp_path).frames < 90
    assert (summary.episodes, summary.frames) == (0, EpisodeStore(tmp_path).frames)


def test_another_world_or_policy_is_refused(tmp_path: Path) -> None:
    recorded(tmp_path, faulty())
    with pytest.raises(InputError, match="is an episode of faulty:Faulty-v0, not of faulty:Faulty-Other-v0: record in"):
        recorded(tmp_path, replace(faulty(), id="faulty:Faulty-Other-v0"), seed=100)
    with pytest.raises(InputError, match=r"has seed \d, recorded with max_episode_steps=None, not 3: give other seeds"):
        recorded(tmp_path, replace(faulty(), max_episode_steps=3))

    class Other(Uniform):
        pass

    with pytest.raises(InputError, match="recorded with policy=Uniform, not Other"):
        record(faulty(), EpisodeStore(tmp_path), Other(5), episodes=4, num_envs=1, seed=0, progress=False)
    assert (
        record(faulty(), EpisodeStore(tmp_path), Other(5), episodes=2, num_envs=1, seed=50, progress=False).skipped == 0
    )


def test_policies_are_told_apart_by_what_they_say_of_themselves(tmp_path: Path) -> None:
    store, how = EpisodeStore(tmp_path, create=True), {"num_envs": 1, "processes": False, "progress": False}

    def play(share: float, **asked: int) -> RecordSummary:
        return record(faulty(), store, Exploring(Uniform(5), Uniform(5), share), **{**how, **asked})  # type: ignore[arg-type]

    play(0.1, episodes=1, seed=0)
    was, now = (rf"Exploring\(Uniform, Uniform:{share}\)" for share in (0.1, 0.2))
    with pytest.raises(InputError, match=f"recorded with policy={was}, not {now}"):
        play(0.2, episodes=1, seed=0)
    # Earlier versions kept the class alone.
    path = tmp_path / LIST
    path.write_text(path.read_text().replace("Exploring(Uniform, Uniform:0.1)", "Exploring"))
    assert play(0.2, episodes=1, seed=0).skipped == 1


def test_the_module_to_import_is_no_part_of_the_world(tmp_path: Path) -> None:
    first, _ = recorded(tmp_path, faulty(), processes=False)
    again, _ = recorded(tmp_path, replace(faulty(), id="Faulty-v0"), processes=False)
    assert (again.skipped, again.returns) == (4, first.returns)


def test_versions_are_those_of_a_world_that_was_not_imported_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("Faulty-v0", "Faulty-Other-v0"):
        monkeypatch.delitem(gym.registry, name, raising=False)
    monkeypatch.delitem(sys.modules, "faulty", raising=False)
    _, found = recorded(tmp_path, faulty(), processes=False, episodes=1)
    assert "faulty" in json.loads(str(found[0].extras["recording"]))["versions"]


def test_a_folder_of_continuous_actions_is_refused_before_playing(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path, create=True)
    _, found = recorded(tmp_path / "other", faulty(), processes=False, episodes=1)
    action = np.full((len(found[0].image), 2), 0.5, np.float32)
    action[0] = np.nan
    store.append(replace(found[0], action=action, extras={}))
    with pytest.raises(
        InputError, match=r"actions of 0 numbers \(0: discrete\), those of the episodes in .* have 2: record"
    ):
        recorded(tmp_path, faulty(), processes=False)
    assert len(EpisodeStore(tmp_path)) == 1


def test_a_stage_without_an_ended_episode_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lssvwm.envs.recording.recorder.PIECE_BYTES", 10 * 8 * 8 * 3)
    settings = WorldSettings("faulty:Faulty-v0", env_options=json.dumps({"length": 10**9}), collect_frames=40)
    run = Run(tmp_path, replace(settings, processes=False), progress=False)
    figures = run.stage("0-collect", lambda: run.collect(0, Uniform(5)))
    assert (figures["mean_return"], figures["episodes"]) == (None, 0)
    assert run.figures("0-collect") == figures
    here: Any = SimpleNamespace(
        out=tmp_path, settings=SimpleNamespace(place="dream", world_model=None, demonstrator=None)
    )
    assert figures["steps"] == Loop.real_steps(here, 0) == figures["frames"] - len(EpisodeStore(run.own_episodes))


def test_a_stage_names_the_seeds_that_failed(tmp_path: Path) -> None:
    options = json.dumps({"fault": "raise", "seeds": [2]})
    settings = WorldSettings("faulty:Faulty-v0", env_options=options, collect_episodes=3, processes=False)
    run = Run(tmp_path, settings, progress=False)
    run.stage("0-collect", lambda: run.collect(0, Uniform(5)))
    assert run.figures("0-collect")["failed"] == [2]  # type: ignore[index]


def test_episodes_tell_where_they_come_from_and_need_not_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, found = recorded(tmp_path, faulty())
    told = json.loads(str(found[0].extras["recording"]))
    assert told["env"]["id"] == "faulty:Faulty-v0"
    assert told["policy"] == "Uniform"
    assert set(told["versions"]) >= {"lssvwm", "gymnasium"}
    opened: list[str] = []
    read = EpisodeStore.read_arrays

    def watched(store: EpisodeStore, name: str, keys: Sequence[str]) -> Any:
        opened.append(name)
        return read(store, name, keys)

    monkeypatch.setattr(EpisodeStore, "read_arrays", watched)
    assert recorded(tmp_path, faulty())[0].returns == first.returns
    assert opened == []
    lines = (tmp_path / LIST).read_text().splitlines()
    (tmp_path / LIST).write_text("\n".join(lines[1:3]) + '\n{"file": "half')
    assert recorded(tmp_path, faulty())[0].returns == first.returns
    assert len(opened) == 2  # each once; then they are listed
    assert recorded(tmp_path, faulty())[0].returns == first.returns
    assert len(opened) == 2


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **options: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lssvwm.envs.recording.writing.write_episode", full)
    with pytest.raises(OSError, match="No space left"):
        recorded(tmp_path, faulty(), processes=False)


def test_the_number_of_processes_changes_nothing(tmp_path: Path) -> None:
    config = faulty(reset_seconds=0.05, length=9)
    one = recorded(tmp_path / "a", config, episodes=7, num_envs=1)[1]
    three = recorded(tmp_path / "b", config, episodes=7, num_envs=3)[1]
    assert sorted(one) == sorted(three) == list(range(7))
    for seed in one:
        assert_same(one[seed], three[seed])


def test_workers_do_not_load_torch() -> None:
    code = "import sys, lssvwm.envs.factory, lssvwm.envs.recording.pool; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_infos_of_rows_have_types_that_hold_what_every_row_has() -> None:
    """One may have been reset while another took a step."""
    infos: list[dict[str, Any]] = [
        {"d": 0, "text": "a", "some": None, "deep": {"x": 1}, "at": np.zeros(2, np.float32)},
        {"d": 3.9, "text": "long", "some": 2, "deep": {"x": 2.5}, "at": np.ones(2), "new": np.arange(3)},
    ]
    found = _merged(infos)
    assert found["d"].tolist() == [0, 3.9]
    assert found["text"].tolist() == ["a", "long"]
    assert found["some"].tolist() == [None, 2]
    assert found["deep"]["x"].tolist() == [1, 2.5]
    assert found["at"].tolist() == [[0, 0], [1, 1]]
    assert (found["new"][1].tolist(), found["_new"].tolist()) == ([0, 1, 2], [False, True])
    assert found["_d"].all()
    assert found["deep"]["_x"].all()
    assert _merged(infos[:1])["d"].dtype == np.int64
