from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from lssvwm.envs.factory import EnvConfig, make, make_vec
from lssvwm.envs.policy import FrameArray, IntArray
from lssvwm.envs.recording.recorder import record
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import Episode, EpisodeStore
from lssvwm.worldmodel.episodes.index import INDEX
from vector_play import play

ROOT = Path(__file__).parent.parent
MEMORY = EnvConfig("MiniGrid-MemoryS7-v0", actions=(0, 1, 2))
SHORT = EnvConfig("MiniGrid-MemoryS7-v0", actions=(0, 1, 2), max_episode_steps=12)


class Uniform:
    """Uniformly random actions, from each row's own seed."""

    def __init__(self, actions: int) -> None:
        self.actions = actions
        self.generators: dict[int, np.random.Generator] = {}

    def reset(self, rows: IntArray, seeds: IntArray) -> None:
        for row, seed in zip(rows.tolist(), seeds.tolist(), strict=True):
            self.generators[row] = np.random.default_rng(seed)

    def act(self, frames: FrameArray, info: Mapping[str, Any]) -> IntArray:
        return np.array([self.generators[row].integers(self.actions) for row in range(len(frames))])


def by_seed(episodes: list[Episode]) -> dict[int, Episode]:
    return {int(episode.extras["seed"]): episode for episode in episodes}


def played(num_envs: int, processes: bool, seeds: list[int], config: EnvConfig = MEMORY) -> dict[int, Episode]:
    envs = make_vec(config, num_envs, processes=processes)
    try:
        return by_seed(list(play(envs, Uniform(3), seeds, extra_keys=["direction"])))
    finally:
        envs.close()


def assert_same(a: Episode, b: Episode) -> None:
    left, right = a.arrays(), b.arrays()
    assert left.keys() == right.keys()
    for key in left:
        assert left[key].dtype == right[key].dtype
        assert np.array_equal(left[key], right[key]), key


def test_an_episode_depends_on_its_seed_alone() -> None:
    seeds = [3, 11, 4, 8, 5, 20, 7]
    alone = played(1, False, seeds)
    assert sorted(alone) == sorted(seeds)
    assert len({len(episode.image) for episode in alone.values()}) > 3
    for other in (
        played(3, False, seeds),
        played(3, True, seeds),
        played(10, False, seeds),
        played(2, False, seeds[::-1]),
    ):
        assert sorted(other) == sorted(seeds)
        for seed in seeds:
            assert_same(alone[seed], other[seed])


@pytest.mark.parametrize("config", [MEMORY, SHORT], ids=["ends", "time limit"])
def test_time_line_is_that_of_the_environment(config: EnvConfig) -> None:
    env = make(config)
    ends = set()
    for seed, episode in played(2, False, list(range(6)), config).items():
        frame, info = env.reset(seed=seed)
        assert np.array_equal(episode.image[0], frame)
        assert episode.action[0] == -1
        assert episode.reward[0] == 0
        assert episode.extras["direction"][0] == info["direction"]
        assert not (episode.terminated[:-1] | episode.truncated[:-1]).any()
        for t in range(1, len(episode.image)):
            frame, reward, terminated, truncated, info = env.step(episode.action[t])
            assert np.array_equal(episode.image[t], frame)
            assert episode.reward[t] == np.float32(reward)
            assert episode.extras["direction"][t] == info["direction"]
            assert (episode.terminated[t], episode.truncated[t]) == (terminated, truncated)
        assert terminated or truncated
        ends.add((terminated, truncated))
    assert ends >= {(True, False), (False, True)}  # and both at once, on the last step allowed
    env.close()


def test_record_fills_the_store_and_resumes(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path / "a", create=True)
    first = record(SHORT, store, Uniform(3), episodes=5, num_envs=2, seed=100, progress=False)
    assert (first.episodes, first.skipped, len(store), store.frames) == (5, 0, 5, first.frames)
    assert first.steps_per_second * first.seconds == pytest.approx(first.frames - 5)
    assert [int(store.read(name).extras["seed"]) in range(100, 105) for name in store.names] == [True] * 5

    again = record(SHORT, store, Uniform(3), episodes=9, num_envs=3, seed=100, progress=False)
    assert (again.episodes, again.skipped, len(store), again.frames) == (9, 5, 9, store.frames)
    assert again.returns[:5] == first.returns
    assert again.mean_return == pytest.approx(np.mean(again.returns))

    whole = record(SHORT, EpisodeStore(tmp_path / "b", create=True), Uniform(3), episodes=9, num_envs=1, seed=100)
    assert (whole.returns, whole.frames) == (again.returns, again.frames)
    done = record(SHORT, store, Uniform(3), episodes=9, num_envs=3, seed=100, progress=False)
    assert (done.returns, done.skipped, done.steps_per_second, len(store)) == (again.returns, 9, 0, 9)
    other = record(SHORT, store, Uniform(3), episodes=2, num_envs=1, seed=7, progress=False)
    assert (other.episodes, other.skipped, len(store)) == (2, 0, 11)


def test_progress_bar_shows_rates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(SHORT, EpisodeStore(tmp_path, create=True), Uniform(3), episodes=2, num_envs=1, seed=0)
    shown = capsys.readouterr().err
    assert "2/2" in shown
    assert "steps/s=" in shown


def test_max_frames_stops_once_reached(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path, create=True)
    for _ in range(2):  # the second call finds the budget used up
        summary = record(SHORT, store, Uniform(3), episodes=50, num_envs=2, seed=0, max_frames=40, progress=False)
        assert 40 <= summary.frames == store.frames < 40 + 13
        assert summary.episodes == len(summary.returns) == len(store) < 6


def test_memory_maze_with_positions(tmp_path: Path) -> None:
    config = EnvConfig("lssvwm:lssvwm/MemoryMaze-9x9-v0", extra_obs=True, max_episode_steps=6)
    store = EpisodeStore(tmp_path, create=True)
    summary = record(config, store, Uniform(6), episodes=2, num_envs=2, seed=1, progress=False)
    assert (summary.frames, store.image_shape) == (14, (64, 64))
    for name in store.names:
        episode = store.read(name)
        assert episode.truncated[-1]
        assert not episode.terminated[-1]
        assert episode.extras["agent_pos"].shape == (7, 2)
        assert episode.extras["maze_layout"].shape[0] == 7
        assert np.abs(np.diff(episode.image.astype(int), axis=0)).max() > 0


RECORD = """
import sys
sys.path.insert(0, "tests")
from test_recording import MEMORY, Uniform
from lssvwm.envs.recording.recorder import record
from lssvwm.worldmodel.episodes import EpisodeStore
record(MEMORY, EpisodeStore(sys.argv[1], create=True), Uniform(3), episodes=int(sys.argv[2]), num_envs=2, seed=0)
"""


def interrupted(root: Path, episodes: int, number: signal.Signals) -> subprocess.Popen[bytes]:
    """Start a recording, send `number` to its whole process group once some episodes are there, and wait for it."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", RECORD, str(root), str(episodes)]
    process = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, start_new_session=True)
    reader = EpisodeStore(root, create=True)
    deadline = time.monotonic() + 60
    while len(reader) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
        reader.refresh()
    if number == signal.SIGKILL:
        process.kill()  # the parent alone: its workers must notice
    else:
        os.killpg(process.pid, number)  # what Ctrl-C in a terminal does
    process.wait(timeout=20)
    return process


def group_is_gone(process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_recording_loses_nothing_and_resumes(tmp_path: Path, number: signal.Signals) -> None:
    process = interrupted(tmp_path / "a", 10_000, number)
    assert process.stderr is not None
    error = process.stderr.read().decode()
    assert group_is_gone(process), "workers outlive the recording"
    store = EpisodeStore(tmp_path / "a")
    before = {name: store.read(name) for name in store.names}
    assert 4 <= len(before) < 10_000
    if number == signal.SIGINT:
        assert error.rstrip().endswith("KeyboardInterrupt")
        assert {path.name for path in (tmp_path / "a").glob(".*")} <= {INDEX}  # no half-written file stays

    wanted = max(int(episode.extras["seed"]) for episode in before.values()) + 3
    resumed = record(MEMORY, store, Uniform(3), episodes=wanted, num_envs=2, seed=0, progress=False)
    assert (resumed.episodes, resumed.skipped) == (wanted, len(before))
    assert sorted(by_seed([store.read(name) for name in store.names])) == list(range(wanted))
    for name, episode in before.items():
        assert_same(EpisodeStore(store.root).read(name), episode)
    whole = record(MEMORY, EpisodeStore(tmp_path / "b", create=True), Uniform(3), episodes=wanted, num_envs=1, seed=0)
    assert resumed.returns == whole.returns


def test_bad_input(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path / "a", create=True)
    record(SHORT, store, Uniform(3), episodes=1, num_envs=1, seed=0, progress=False)
    larger = EnvConfig("MiniGrid-MemoryS7-v0", actions=(0, 1, 2), size=64)
    with pytest.raises(InputError, match=r"shows frames of \(64, 64\), but the episodes in .* have \(56, 56\)"):
        record(larger, store, Uniform(3), episodes=2, num_envs=1, seed=5, progress=False)
    with pytest.raises(InputError, match="episodes and num_envs of 1 or more"):
        record(SHORT, store, Uniform(3), episodes=0, num_envs=1, seed=0)

    envs = make_vec(SHORT, 1)
    with pytest.raises(InputError, match=r"extra keys \['smell'\] are not in info, which has"):
        next(play(envs, Uniform(3), [0], extra_keys=["smell"]))
    assert list(play(envs, Uniform(3), [])) == []
    envs.close()
    same_step = SyncVectorEnv([lambda: make(SHORT)], autoreset_mode=AutoresetMode.SAME_STEP)
    with pytest.raises(InputError, match=r"needs environments with AutoresetMode\.DISABLED"):
        next(play(same_step, Uniform(3), [0]))
    same_step.close()
