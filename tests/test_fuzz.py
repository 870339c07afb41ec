"""Whatever is in a file or an option, the answer is a right one or an InputError: never another exception.

Each test takes FUZZ inputs, by default few: `make fuzz` takes 10,000 together.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import recordings
import test_recorded_lerobot
import test_recorded_minari
from dreams import dream_folder, vec
from envs.dream import DreamState, DreamVectorEnv
from envs.recorded import FORMATS, ReadOptions, convert
from envs.recorded.lerobot import opened
from envs.recorded.minari import _storage
from test_episodes import episode, store_of
from worldmodel.episodes import EpisodeStore
from worldmodel.episodes.data import check_episode
from worldmodel.episodes.files import read_arrays, read_episode, read_header, write_episode
from worldmodel.episodes.index import INDEX
from worldmodel.errors import InputError

FUZZ = int(os.environ.get("FUZZ", "15"))
"""Inputs of each test."""

many = settings(
    max_examples=FUZZ,
    deadline=None,
    database=None,
    derandomize="FUZZ" not in os.environ,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
EXTREMES = (0, 1, 0xFF, 0x7F, 0x80)


@st.composite
def changes(draw: st.DrawFn) -> list[tuple[str, float, int, int]]:
    """What is done to a file, independent of its length: how, where as a share of it, how much, and with which byte."""
    kinds = st.sampled_from(["flip", "set", "cut", "insert", "drop", "repeat", "number"])
    one = st.tuples(
        kinds,
        st.floats(0, 1),
        st.sampled_from([1, 1, 1, 2, 4, 8, 64]),
        st.sampled_from(EXTREMES) | st.integers(0, 255),
    )
    return draw(st.lists(one, min_size=1, max_size=3))


def changed(content: bytes, done: list[tuple[str, float, int, int]]) -> bytes:
    data = bytearray(content)
    for kind, where, count, byte in done:
        at = min(int(where * len(data)), max(len(data) - 1, 0))
        part = slice(at, at + count)
        if kind == "flip" and data:
            data[at] ^= byte or 1
        elif kind == "set":
            data[part] = bytes([byte]) * len(data[part])
        elif kind == "cut":
            del data[at:]
        elif kind == "insert":
            data[at:at] = bytes([byte]) * count
        elif kind == "drop":
            del data[part]
        elif kind == "repeat":
            data[at:at] = data[part]
        elif kind == "number" and len(data) >= at + 4:
            struct.pack_into("<i", data, at, (byte << 24 | count) - (1 << 31))
    return bytes(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def replaced(draw: st.DrawFn, value: Any) -> Any:
    """JSON like `value`, something in which is something else."""
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(sorted(value)))
        if draw(st.integers(0, 9)) == 0:
            return {name: part for name, part in value.items() if name != key}
        return {**value, key: draw(replaced(value[key]))}
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], draw(replaced(value[at])), *value[at + 1 :]]
    if isinstance(value, int) and draw(st.booleans()):
        return draw(st.sampled_from([-value, value + 1, value - 1, value * 2, 2**31, 2**62, 2**64, 0.5, str(value)]))
    return draw(JSON)


def refused(use: Callable[[], object]) -> None:
    """Use it: an InputError of one line will do, any other exception is a fault."""
    said = ""
    try:
        use()
    except InputError as error:
        said = str(error)
    assert "\n" not in said


# Episodes


@cache
def files() -> dict[str, bytes]:
    import tempfile

    found = {}
    e = episode(20, 1, note=np.array("wood"), place=np.zeros((20, 3)))
    with tempfile.TemporaryDirectory() as name:
        for suffix in ("npz", "episode"):
            found[suffix] = write_episode(Path(name), e, name=f"a.{suffix}").read_bytes()
        np.savez(Path(name) / "plain.npz", **{key: np.asarray(array) for key, array in e.arrays().items()})
        found["plain"] = (Path(name) / "plain.npz").read_bytes()
    return found


def look(path: Path) -> None:
    """Use a file of episodes in every way there is."""
    refused(lambda: read_header(path))
    refused(lambda: check_episode(read_episode(path), str(path)))
    refused(lambda: read_arrays(path, ("reward", "place", "note")))

    def sample() -> None:
        store = EpisodeStore(path.parent, cache_bytes=0, pose=("place",))
        clips = store.sample(2, 20, np.random.default_rng(0))
        assert bool(clips.mask[:, 0].all())
        assert bool(clips.rewards.isfinite().all())

    refused(sample)


@pytest.mark.parametrize("kind", ["npz", "plain", "episode"])
def test_episode_files(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{'episode' if kind == 'episode' else 'npz'}"

    @many
    @given(changes())
    def check(done: list[Any]) -> None:
        path.write_bytes(changed(files()[kind], done))
        (tmp_path / INDEX).unlink(missing_ok=True)
        look(path)

    check()


def test_headers_of_episode_files(tmp_path: Path) -> None:
    """With the right checksum: nothing but what is said protects from it."""
    content = files()["episode"]
    length = struct.unpack_from("<I", content, 8)[0]
    told, body = json.loads(content[16 : 16 + length]), content[16 + length :]

    @many
    @given(replaced(told))
    def check(other: Any) -> None:
        header = json.dumps(other).encode()
        path = tmp_path / "a.episode"
        path.write_bytes(content[:8] + struct.pack("<II", len(header), zlib.crc32(header)) + header + body)
        (tmp_path / INDEX).unlink(missing_ok=True)
        look(path)

    check()


def test_index_files(tmp_path: Path) -> None:
    """Damaged, an index costs opening files; one that lies is found out when the file is read."""
    store_of(tmp_path, [5, 9, 20])
    content = (tmp_path / INDEX).read_bytes()
    lines = [json.loads(line[9:]) for line in content.splitlines()]

    @many
    @given(changes() | replaced(lines))
    def check(done: Any) -> None:
        whole = [line for line in done if isinstance(line, tuple)] if isinstance(done, list) else []
        if whole and len(whole) == len(done):
            text = changed(content, done)
        else:
            texts = [json.dumps(row).encode() for row in (done if isinstance(done, list) else [done])]
            text = b"".join(b"%08x %s\n" % (zlib.crc32(part), part) for part in texts)
        (tmp_path / INDEX).write_bytes(text)
        store = EpisodeStore(tmp_path)
        refused(lambda: store.sample(2, 6, np.random.default_rng(0)))
        assert len(store) == 3 or not whole

    check()


# Dreams


@pytest.fixture(scope="module")
def dream(tmp_path_factory: pytest.TempPathFactory) -> DreamVectorEnv:
    env = vec(dream_folder(tmp_path_factory.mktemp("run")), rows=2, max_episode_steps=5)
    env.reset(seed=1)
    return env


def test_snapshots(dream: DreamVectorEnv, tmp_path: Path) -> None:
    path = tmp_path / "state"
    dream.get_state().save(path)
    content = path.read_bytes()
    header = struct.unpack_from("<Q", content)[0]
    told, body = json.loads(content[8 : 8 + header]), content[8 + header :]

    def take_up() -> None:
        dream.set_state(DreamState.load(path))
        assert np.isfinite(dream.step([0, 0])[1]).all()

    @many
    @given(changes() | replaced(told).map(json.dumps))
    def check(done: Any) -> None:
        if isinstance(done, str):
            path.write_bytes(struct.pack("<Q", len(done.encode())) + done.encode() + body)
        else:
            path.write_bytes(changed(content, done))
        refused(take_up)

    check()


def some_arrays(shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
    def filled(dtype: Any, sizes: tuple[int, ...], value: int) -> Any:
        return np.full(sizes, value).astype(dtype)

    near = st.sampled_from([shape, shape[1:], (1, *shape), shape[::-1], (0, *shape[1:]), (2, *shape[1:])])
    dtypes = st.sampled_from([np.uint8, np.int64, np.float32, np.bool_, "U3", object])
    return st.builds(filled, dtypes, near, st.sampled_from([0, 1, 2, -1, 9]))


def test_options_of_reset(dream: DreamVectorEnv) -> None:
    row: dict[str, st.SearchStrategy[Any]] = {
        "context_frames": some_arrays((3, 16, 8, 3)) | st.none() | JSON,
        "context_actions": some_arrays((3,)) | st.none() | JSON,
        "context_length": st.integers(-1, 4) | JSON,
        "episode": st.sampled_from(dream.store.names) | JSON,
        "start": st.integers(-1, 9) | JSON,
        "reset_mask": st.booleans() | JSON,
    }
    per_row = {key: st.lists(value, min_size=2, max_size=2) | value for key, value in row.items()}

    @many
    @given(st.fixed_dictionaries({}, optional=per_row))
    def check(options: dict[str, Any]) -> None:
        refused(lambda: dream.reset(options=options))

    check()


# Recordings


def made(name: str, folder: Path) -> None:
    steps = recordings.STEPS[:6]
    if name == "memory-maze":
        recordings.memory_maze(folder / "a.npz", steps, 16)
    elif name == "teco-dmlab":
        recordings.teco_dmlab(folder / "a.npz", steps)
    elif name == "minerl":
        recordings.minerl(folder / "a", steps)
    elif name == "vpt":
        lines = [recordings.vpt_line(action) for action in (*steps, 0)]
        recordings.vpt(folder / "a.mp4", lines, recordings.frames_of(recordings.places(steps), 36, 64))
    elif name == "minari":
        test_recorded_minari.dataset(folder)
    elif name == "lerobot":
        test_recorded_lerobot.dataset(folder)
    else:
        recordings.write_video(folder / "a.mp4", recordings.frames_of(recordings.places(steps)))


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"teco-minecraft"}))
def test_recordings(tmp_path: Path, name: str) -> None:
    """One file of them is changed. What can be read is an episode, and what cannot is named."""
    made(name, tmp_path / "from")
    paths = sorted(path for path in (tmp_path / "from").rglob("*") if path.is_file())
    contents = {path: path.read_bytes() for path in paths}
    to = tmp_path / "to"

    def spoilt(path: Path) -> st.SearchStrategy[Any]:
        if path.suffix == ".json":
            told = json.loads(contents[path])
            return st.tuples(st.just(path), changes() | replaced(told).map(json.dumps))
        return st.tuples(st.just(path), changes())

    @many
    @given(st.sampled_from(paths).flatmap(spoilt), st.sampled_from([1, 2]))
    def check(spoil: tuple[Path, Any], every: int) -> None:
        path, done = spoil
        path.write_bytes(done.encode() if isinstance(done, str) else changed(contents[path], done))
        opened.cache_clear()
        _storage.cache_clear()
        shutil.rmtree(to, ignore_errors=True)
        options = ReadOptions(size=8, every=every, actions="none" if every > 1 else "recorded")
        try:
            refused(lambda: convert(FORMATS[name], tmp_path / "from", to, options, progress=False))
            if to.is_dir() and any(to.glob("*.episode")):
                EpisodeStore(to, strict=True)
        finally:
            path.write_bytes(contents[path])

    check()


def test_the_fuzz_sees_faults() -> None:
    """Another exception is not taken for a refusal."""
    with pytest.raises(ZeroDivisionError):
        refused(lambda: 1 // 0)
