"""Whatever is in a file, the answer is a right one or an InputError: never another exception, nor something wrong.

Each test takes FUZZ inputs, by default few: `make fuzz` takes 10,000 together with those of `test_fuzz_options.py`.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import struct
import zlib
from dataclasses import replace
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import recordings
import rlds
import test_recorded_lerobot
import test_recorded_minari
from fuzzing import (
    changed,
    changes,
    check_kept,
    check_parts,
    check_right,
    many,
    replaced,
    same_array,
    same_episode,
    some_arrays,
    tried,
)
from lssvwm.envs.recorded import FORMATS, ReadOptions, convert
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import Episode, EpisodeStore
from lssvwm.worldmodel.episodes.files import header_of, read_arrays, read_episode, read_header, write_episode
from lssvwm.worldmodel.episodes.index import INDEX
from test_episodes import episode, store_of, where

# Episodes


@cache
def whole() -> Episode:
    return episode(20, 1, note=np.array("wood"), place=np.arange(60.0).reshape(20, 3))


@cache
def files() -> dict[str, bytes]:
    import tempfile

    found = {}
    with tempfile.TemporaryDirectory() as name:
        for suffix in ("npz", "episode"):
            found[suffix] = write_episode(Path(name), whole(), name=f"a.{suffix}").read_bytes()
        np.savez(Path(name) / "plain.npz", **{key: np.asarray(array) for key, array in whole().arrays().items()})
        found["plain"] = (Path(name) / "plain.npz").read_bytes()
    return found


def look(path: Path) -> Episode | None:
    """Use a file of episodes in every way there is: all of them say the same. Returns the episode."""
    (path.parent / INDEX).unlink(missing_ok=True)
    header = tried(lambda: read_header(path))
    e = tried(lambda: read_episode(path))
    some = tried(lambda: read_arrays(path, ("reward", "place", "note")))
    if e is not None:
        check_right(e)
        assert header == header_of(e)
        for key in ("place", "note"):
            assert some is None or key not in some or same_array(some[key], e.extras[key])
        check_kept(e, path.parent / "again")
    assert e is None or not e.terminated[:-1].any()
    tried(lambda: check_parts(EpisodeStore(path.parent, cache_bytes=0)))
    tried(lambda: check_parts(EpisodeStore(path.parent, cache_bytes=0, pose=("place",)), ("place",)))
    return e


@pytest.mark.parametrize("kind", ["npz", "plain", "episode"])
def test_episode_files(tmp_path: Path, kind: str) -> None:
    """They have checksums: what is accepted is what was written, but for arrays that have lost their names."""
    path = tmp_path / f"a.{'episode' if kind == 'episode' else 'npz'}"

    @many
    @given(changes())
    def check(done: list[Any]) -> None:
        path.write_bytes(changed(files()[kind], done))
        e = look(path)
        if e is not None and e.arrays().keys() == whole().arrays().keys():
            assert same_episode(e, whole())
        elif e is not None:
            assert kind != "episode"
            kept = e.arrays().keys() & whole().arrays().keys()
            assert all(same_array(e.arrays()[key], whole().arrays()[key]) for key in kept - {"truncated", "terminated"})

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
        look(path)

    check()


def test_episodes_to_write(tmp_path: Path) -> None:
    """Whatever a store takes is right, and is read as it was written."""
    right = whole().arrays()
    names = st.sampled_from(["a.b", "file", "a/b", "", "ä", ".", "..", "image", "fps", "x" * 300, "a\nb", "\ud800"])
    dtypes = st.sampled_from(["<f4", ">f8", "<i2", "<U3", "S2", "?", "<M8[s]", "<c8", "O", "<f2", "<U0", "V3"])
    shapes = st.sampled_from([(), (0,), (20,), (20, 0), (20, 2, 3), (3,), (20, 600)])
    extras = st.dictionaries(names, st.builds(np.zeros, shapes, dtypes), max_size=2)
    values = st.sampled_from([-2, -1, 0, 1, np.nan, np.inf, 2.0**31])

    @st.composite
    def spoilt(draw: st.DrawFn) -> Episode:
        arrays: dict[str, Any] = {key: right[key].copy() for key in ("image", "action", "reward")}
        arrays |= {key: right[key].copy() for key in ("terminated", "truncated")}
        if draw(st.booleans()):
            arrays["action"] = np.where(np.arange(20)[:, None], np.ones((20, 3)), np.nan).astype(np.float32)
        key = draw(st.sampled_from(sorted(arrays)))
        how = draw(st.sampled_from(["value", "shape", "hollow", "dtype", "order", "length"]))
        if how == "shape":
            arrays[key] = draw(some_arrays(arrays[key].shape))
        elif how == "hollow":
            axis = draw(st.integers(0, arrays[key].ndim - 1))
            arrays[key] = np.take(arrays[key], [], axis)
        elif how == "dtype":
            with np.errstate(invalid="ignore"):
                arrays[key] = arrays[key].astype(draw(st.sampled_from([np.int64, np.float32, np.uint8, np.bool_])))
        elif how == "order":
            arrays[key] = np.asfortranarray(arrays[key])[:: draw(st.sampled_from([1, -1]))]
        elif how == "length":
            cut = draw(st.integers(0, 3))
            arrays = {name: array[:cut] if draw(st.booleans()) else array[:2] for name, array in arrays.items()}
        else:
            with np.errstate(invalid="ignore"):
                arrays[key].flat[draw(st.integers(0, 40)) % arrays[key].size] = np.array(draw(values)).astype(
                    arrays[key].dtype
                )
        return Episode(**arrays, extras=draw(extras))

    @many
    @given(spoilt())
    def check(e: Episode) -> None:
        root = tmp_path / "store"
        path = tried(lambda: EpisodeStore(root, create=True).append(e))
        if path is not None:
            read = EpisodeStore(root, strict=True)
            assert same_episode(read.read(path.name), e)
            check_parts(read)
            shutil.rmtree(root)

    check()


def test_index_files(tmp_path: Path) -> None:
    """Damaged, an index costs opening files; one that lies is found out when the file is read."""
    lengths = [5, 9, 20]
    store_of(tmp_path, lengths)
    content = (tmp_path / INDEX).read_bytes()
    lines = [json.loads(line[9:]) for line in content.splitlines()]

    @many
    @given(changes() | replaced(lines))
    def check(done: Any) -> None:
        bytewise = [line for line in done if isinstance(line, tuple)] if isinstance(done, list) else []
        if bytewise and len(bytewise) == len(done):
            text = changed(content, done)
        else:
            texts = [json.dumps(row).encode() for row in (done if isinstance(done, list) else [done])]
            text = b"".join(b"%08x %s\n" % (zlib.crc32(part), part) for part in texts)
        (tmp_path / INDEX).write_bytes(text)
        store = EpisodeStore(tmp_path)
        tried(lambda: check_parts(store))
        clips = tried(lambda: store.sample(4, 6, np.random.default_rng(0)))
        if clips is not None:  # every frame says where it is from
            for number, at, mask in zip(*where(clips), clips.mask.numpy(), strict=True):
                begin, end = int(at[0]), lengths[number[0]]
                assert mask.tolist() == [t < end for t in range(begin, begin + 6)]
                assert at[mask].tolist() == list(range(begin, min(begin + 6, end)))
                assert set(number[mask]) == {number[0]}
        assert len(store) == 3 or not bytewise
        assert not bytewise or store.lengths.tolist() == lengths

    check()


# Recordings

PATIENCE = 10.0
"""Seconds, for the few of Minari's files over which HDF5 hangs."""

CHECKED = ("memory-maze", "teco-dmlab", "rlds")
"""Formats whose files have checksums throughout."""


@pytest.fixture(scope="module", autouse=True)
def quick() -> None:
    """Processes that read begin with what they need, unless others were started before."""
    libraries = ["av", "minari.dataset.minari_storage", "h5py", "pyarrow.dataset", "pyarrow.parquet"]
    multiprocessing.set_forkserver_preload(["lssvwm.envs.recorded.reader", *libraries])
    forkserver.ensure_running()


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
    elif name == "rlds":
        rlds.dataset(folder, steps, terminal=(True,))
    else:
        recordings.write_video(folder / "a.mp4", recordings.frames_of(recordings.places(steps)))


def converted(name: str, folder: Path, to: Path, every: int) -> list[Episode]:
    """The episodes, of which there are as many as the summary tells, each right and as clips show it."""
    shutil.rmtree(to, ignore_errors=True)
    options = ReadOptions(size=8, every=every, actions="none" if every > 1 else "recorded")
    summary = tried(lambda: convert(FORMATS[name], folder, to, options, progress=False, patience=PATIENCE))
    if summary is None:
        return []
    assert summary.converted + len(summary.broken) == summary.sources
    assert all("\n" not in broken.reason for broken in summary.broken)
    if not summary.episodes:
        return []
    store = EpisodeStore(to, strict=True)
    assert (len(store), store.frames) == (summary.episodes, summary.frames)
    assert store.image_shape == (8, 8)
    check_parts(store)
    return [store.read(each) for each in store.names]


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"teco-minecraft"}))
def test_recordings(tmp_path: Path, name: str) -> None:
    """One file of them is changed. What can be read is an episode, and what cannot is named."""
    made(name, tmp_path / "from")
    paths = sorted(path for path in (tmp_path / "from").rglob("*") if path.is_file())
    contents = {path: path.read_bytes() for path in paths}
    untouched = {every: converted(name, tmp_path / "from", tmp_path / "to", every) for every in (1, 2)}
    assert all(untouched.values())

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
        try:
            found = converted(name, tmp_path / "from", tmp_path / "to", every)
        finally:
            path.write_bytes(contents[path])
        if name in CHECKED and found and path.suffix != ".json":
            (e,), (wanted,) = found, untouched[every]
            kept = e.arrays().keys() & wanted.arrays().keys()
            assert all(same_array(e.arrays()[key], wanted.arrays()[key]) for key in kept)

    check()


def test_the_fuzz_sees_faults(tmp_path: Path) -> None:
    """Another exception is not taken for a refusal, and a wrong episode not for a right one."""
    with pytest.raises(ZeroDivisionError):
        tried(lambda: 1 // 0)
    e = episode(5)
    e.reward[0] = 1
    with pytest.raises(AssertionError):
        check_right(e)


@pytest.mark.parametrize(
    "e", [replace(episode(5), extras={"a\nb": np.zeros((), "V3")}), replace(episode(5), image=episode(5).image[:, :0])]
)
def test_found_by_the_fuzz(e: Episode, tmp_path: Path) -> None:
    """An error of two lines, and frames without pixels that were written and could not be read."""
    with pytest.raises(InputError) as told:
        EpisodeStore(tmp_path, create=True).append(e)
    assert "\n" not in str(told.value)
