"""Contexts are read beside the dreaming: the same ones, by one thread, which ends with its environment."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dreams import MODES, actions_of, dream_folder, vec
from lssvwm.envs.dream.contexts import Context, ContextKey, ContextLoader
from lssvwm.envs.dream.options import DreamOptions
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import Clips, EpisodeStore
from worlds import small_store

ROOT = Path(__file__).parent.parent
WAIT = 30  # seconds, only ever spent where a test fails


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dream_folder(tmp_path_factory.mktemp("run"))


class WatchedStore(EpisodeStore):
    """Notes who reads, and lets readers wait at a gate."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.readers: list[threading.Thread] = []
        self.gate = threading.Event()
        self.gate.set()

    def sample_contexts(self, *args: Any, **kwargs: Any) -> Clips:
        assert self.gate.wait(WAIT)
        self.readers.append(threading.current_thread())
        return super().sample_contexts(*args, **kwargs)


@pytest.fixture
def store(tmp_path: Path) -> WatchedStore:
    small_store(tmp_path)
    return WatchedStore(tmp_path)


KEYS = [ContextKey(3, 0), ContextKey(1, 4), ContextKey(3, 0), ContextKey(2, 0)]


def loader_of(store: EpisodeStore, *, ahead: bool) -> ContextLoader:
    return ContextLoader(store, DreamOptions(context_length=3, prefetch=ahead))


def frames_of(contexts: list[Context]) -> Any:
    return Clips.cat([context.clips for context in contexts]).frames


def same(one: list[Context], two: list[Context]) -> bool:
    clips = [Clips.cat([context.clips for context in each]) for each in (one, two)]
    return clips[0].frames.equal(clips[1].frames) and clips[0].actions.equal(clips[1].actions)


def test_contexts_follow_from_seed_and_number_alone(store: WatchedStore) -> None:
    plain, ahead = loader_of(store, ahead=False), loader_of(store, ahead=True)
    wanted = plain.take(KEYS)
    assert frames_of(wanted).shape == (4, 3, 16, 8, 3)
    assert same(ahead.take(KEYS), wanted)
    ahead.prefetch(KEYS[::-1])
    assert same(ahead.take(KEYS), wanted)
    ahead.prefetch([ContextKey(9, 9)])
    assert same(ahead.take(KEYS), wanted)
    assert not same(plain.take([ContextKey(3, 1)]), plain.take([ContextKey(3, 0)]))
    seed_alone = [Context(store.sample_contexts(1, 3, np.random.default_rng(3)), None)]
    assert same(plain.take([ContextKey(3, 0)]), seed_alone)


def test_what_is_expected_is_read_once_by_one_other_thread(store: WatchedStore) -> None:
    loader = loader_of(store, ahead=True)
    loader.prefetch(KEYS)
    loader.take(KEYS)
    loader.prefetch(KEYS)
    loader.take(KEYS[:1])
    assert len(store.readers) == 3  # two of the four are the same
    assert len(set(store.readers)) == 1
    assert store.readers[0] is not threading.current_thread()
    assert store.readers[0].daemon


@pytest.mark.parametrize("expected", [False, True])
def test_what_could_not_be_read_is_read_again_when_asked_for_again(
    store: WatchedStore, monkeypatch: pytest.MonkeyPatch, expected: bool
) -> None:
    loader = loader_of(store, ahead=True)
    wanted, failing = loader_of(store, ahead=False).take(KEYS), [True]
    whole = WatchedStore.sample_contexts

    def sometimes(*args: Any, **kwargs: Any) -> Clips:
        if failing:
            raise InputError("a disk that hiccups")
        return whole(*args, **kwargs)

    monkeypatch.setattr(WatchedStore, "sample_contexts", sometimes)
    if expected:
        loader.prefetch(KEYS)
    with pytest.raises(InputError, match="hiccups"):
        loader.take(KEYS)
    failing.clear()
    assert same(loader.take(KEYS), wanted)


def test_expecting_does_not_wait(store: WatchedStore) -> None:
    loader = loader_of(store, ahead=True)
    store.gate.clear()
    loader.prefetch(KEYS)
    loader.prefetch(KEYS[:2])
    store.gate.set()
    loader.take([ContextKey(7, 7)])
    assert len(store.readers) <= 2  # what was being read, and what was asked for: the rest was not waited for


def _take_in_child(loader: ContextLoader, store: WatchedStore, answer: Any) -> None:
    store.gate.set()
    answer.send_bytes(frames_of(loader.take(KEYS)).numpy().tobytes())


def test_a_forked_process_reads_for_itself_what_its_parent_expected(store: WatchedStore) -> None:
    loader, context = loader_of(store, ahead=True), multiprocessing.get_context("fork")
    store.gate.clear()
    loader.prefetch(KEYS)
    here, there = context.Pipe()
    child = context.Process(target=_take_in_child, args=(loader, store, there))
    child.start()
    try:
        assert here.poll(WAIT)
        said = here.recv_bytes()
    finally:
        child.kill()
        store.gate.set()
    assert said == frames_of(loader.take(KEYS)).numpy().tobytes()


def test_without_reading_ahead_there_is_no_thread(store: WatchedStore) -> None:
    loader = loader_of(store, ahead=False)
    loader.prefetch(KEYS)
    assert not store.readers
    loader.take(KEYS)
    assert set(store.readers) == {threading.current_thread()}


def test_the_thread_ends_when_it_is_closed_or_forgotten(store: WatchedStore) -> None:
    for end in ("close", "forget"):
        loader = loader_of(store, ahead=True)
        loader.take(KEYS)
        thread = store.readers[-1]
        assert thread.is_alive()
        if end == "close":
            loader.close()
            thread.join(WAIT)
            assert not thread.is_alive()
            assert same(loader.take(KEYS), loader_of(store, ahead=False).take(KEYS))  # by a new one
            thread = store.readers[-len(KEYS) - 1]
        del loader
        gc.collect()
        thread.join(WAIT)
        assert not thread.is_alive()


def test_what_cannot_be_read_is_told_to_whoever_asks(tmp_path: Path) -> None:
    run = dream_folder(tmp_path)
    env = vec(run, max_episode_steps=1, terminate="never", autoreset_mode="SameStep")
    for file in (run / "episodes").iterdir():
        file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(InputError, match=r"episodes.*\.episode"):
        env.reset(seed=0)


@pytest.mark.parametrize("mode", MODES)
def test_dreams_do_not_depend_on_reading_ahead(folder: Path, mode: Any) -> None:
    envs = [vec(folder, max_episode_steps=2, autoreset_mode=mode, prefetch=ahead) for ahead in (True, False)]
    frames = [env.reset(seed=6)[0] for env in envs]
    for action in actions_of(3, 8):
        assert np.array_equal(*frames)
        answers = [env.step(action) for env in envs]
        frames = [answer[0] for answer in answers]
        done = answers[0][2] | answers[0][3]
        if done.any() and mode.value == "Disabled":
            frames = [env.reset(options={"reset_mask": done})[0] for env in envs]


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "contexts of dreams"}


def test_environments_leave_no_thread_behind(folder: Path) -> None:
    before = threads()
    env, other = vec(folder), vec(folder)
    env.reset()
    other.reset()
    copies = [env.clone(2), env.select([0])]
    new = threads() - before
    assert len(new) == 4
    for closed in (env, *copies):
        closed.close()
        closed.close()
    del other
    gc.collect()
    for thread in new:
        thread.join(WAIT)
        assert not thread.is_alive()


FORGOTTEN = """
import sys, gymnasium as gym
env = gym.make_vec("lssvwm:lssvwm/Dream-v0", num_envs=64, checkpoint=sys.argv[1], context_length=3, steps=1)
env.reset()
"""


def test_a_forgotten_environment_does_not_keep_the_interpreter(folder: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", FORGOTTEN, str(folder / "model")]
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
