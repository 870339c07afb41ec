from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import NO_ACTION, Clips, Episode, EpisodeStore, index
from lssvwm.worldmodel.episodes.files import write_episode
from lssvwm.worldmodel.episodes.index import INDEX

ROOT = Path(__file__).parent.parent


def episode(frames: int, number: int = 0, size: tuple[int, int] = (4, 6), **extras: NDArray[Any]) -> Episode:
    """Pixel [t, 0, 0] is (number, t // 256, t % 256), so that every frame says where it is from."""
    image = np.zeros((frames, *size, 3), np.uint8)
    image[:, 0, 0] = [(number, t // 256, t % 256) for t in range(frames)]
    action = np.arange(-1, frames - 1) % 5
    action[0] = NO_ACTION
    last = np.arange(frames) == frames - 1
    reward = np.arange(frames, dtype=np.float32) / 8
    return Episode(image, action.astype(np.int64), reward, last & (number % 2 == 0), last & (number % 2 == 1), extras)


def store_of(root: Path, lengths: list[int]) -> EpisodeStore:
    store = EpisodeStore(root, create=True)
    for number, frames in enumerate(lengths):
        store.append(episode(frames, number))
    return store


def where(clips: Clips) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Episode number and time of every frame of the clips, (B, T) each."""
    pixel = clips.frames[:, :, 0, 0].numpy().astype(np.int64)
    return pixel[..., 0], pixel[..., 1] * 256 + pixel[..., 2]


def same(a: Episode, b: Episode) -> bool:
    left, right = a.arrays(), b.arrays()
    return left.keys() == right.keys() and all(
        left[k].dtype == right[k].dtype and np.array_equal(left[k], right[k]) for k in left
    )


def test_round_trip_with_extras(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path / "new" / "folder", create=True)
    layout, text = np.arange(18, dtype=np.float16).reshape(2, 3, 3), np.array("wood")
    written = [episode(9, 0, seed=np.array(7), layout=layout, note=text), episode(2, 1)]
    paths = [store.append(e) for e in written]
    fresh = EpisodeStore(store.root)
    assert fresh.names == store.names == tuple(path.name for path in paths)
    assert fresh.lengths.tolist() == store.lengths.tolist() == [9, 2]
    assert (len(fresh), fresh.frames, fresh.image_shape, fresh.max_action) == (2, 11, (4, 6), 4)
    for name, e in zip(fresh.names, written, strict=True):
        assert same(fresh.read(name), e)
        assert name.endswith(f"-{len(e.image)}.episode")
    assert fresh.read_array(fresh.names[0], "seed") == 7
    assert fresh.read_array(fresh.names[1], "seed") is None
    with pytest.raises(ValueError, match="read-only"):
        fresh.read(fresh.names[0]).image[0] = 1


def test_refresh_opens_only_new_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = store_of(tmp_path, [3, 4])
    reader = EpisodeStore(tmp_path)
    opened: list[str] = []
    read_header = index.read_header
    monkeypatch.setattr(index, "read_header", lambda path: (opened.append(path.name), read_header(path))[1])
    assert reader.refresh() == 0
    new = writer.append(episode(5, 2))
    (tmp_path / f".{new.name}.partial").write_bytes(b"half")
    (tmp_path / ".hidden.npz").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("not an episode")
    assert reader.refresh() == 1
    assert opened == [new.name]
    new.unlink()
    assert reader.refresh() == 0
    assert reader.lengths.tolist() == [3, 4]


def test_cache_is_bounded_and_keeps_the_last_used(tmp_path: Path) -> None:
    one = sum(array.nbytes for array in episode(50).arrays().values())
    store_of(tmp_path, [50, 50, 50])
    store = EpisodeStore(tmp_path, cache_bytes=2 * one)
    a, b, c = store.names
    first, second = store.read(a), store.read(b)
    assert store.read(a) is first
    store.read(c)  # pushes b out
    assert store.read(a) is first
    assert store.read(b) is not second
    tiny = EpisodeStore(tmp_path, cache_bytes=one - 1)
    assert tiny.read(a) is not tiny.read(a)
    assert tiny.sample(4, 8, np.random.default_rng(0)).mask.any()


WRITER = """
import sys
sys.path.insert(0, "tests")
from test_episodes import episode
from lssvwm.worldmodel.episodes import EpisodeStore
store = EpisodeStore(sys.argv[1], create=True)
print("ready", flush=True)
for i in range(int(sys.argv[3])):
    store.append(episode(20 + i % 7, int(sys.argv[2]), size=(64, 64)))
"""


def writer_process(root: Path, number: int, episodes: int) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WRITER, str(root), str(number), str(episodes)]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)


def test_killed_writer_leaves_only_whole_episodes(tmp_path: Path) -> None:
    for attempt in range(3):
        process = writer_process(tmp_path, attempt, 1_000_000)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1 + 0.003 * attempt)
        process.send_signal(signal.SIGKILL)
        process.wait()
    store = EpisodeStore(tmp_path)
    assert len(store) >= 3
    for name in store.names:
        assert len(store.read(name).image) == int(name.removesuffix(".episode").split("-")[-1])
    assert EpisodeStore(tmp_path, create=True).append(episode(3, size=(64, 64))).exists()


def test_write_cut_short_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(tmp_path, [4])

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.append(episode(5))
    assert {path.name for path in tmp_path.iterdir()} == {*store.names, INDEX}


def test_many_writers_and_a_reader(tmp_path: Path) -> None:
    reader = EpisodeStore(tmp_path, create=True)
    processes = [writer_process(tmp_path, number, 15) for number in range(3)]
    seen = [0]
    while any(process.poll() is None for process in processes):
        reader.refresh()
        seen.append(len(reader))
        if len(reader):
            assert reader.sample(2, 8, np.random.default_rng(len(reader))).mask.any()
        time.sleep(0.02)
    reader.refresh()
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert seen == sorted(seen)
    assert len(set(reader.names)) == len(reader) == 45
    assert sorted(int(reader.read(name).image[0, 0, 0, 0]) for name in reader.names) == [0] * 15 + [1] * 15 + [2] * 15


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(2, 40), min_size=1, max_size=4), st.integers(1, 50), st.integers(0, 2**32))
def test_clips_are_windows_of_episodes(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], length: int, seed: int
) -> None:
    store = store_of(tmp_path_factory.mktemp("store"), lengths)
    clips = store.sample(16, length, np.random.default_rng(seed))
    assert clips.frames.shape == (16, length, 4, 6, 3)
    assert clips.frames.dtype == torch.uint8
    assert (clips.actions.dtype, clips.rewards.dtype) == (torch.int64, torch.float32)
    numbers, times = where(clips)
    for i in range(16):
        e = store.read(store.names[numbers[i, 0]])
        start, n = times[i, 0], int(clips.mask[i].sum())
        assert n == min(length, len(e.image) - start)
        assert n >= min(2, length)  # never the last frame alone
        assert len(e.image) - start >= length - length // 2 or start == 0 or start == len(e.image) - 2
        assert clips.mask[i, :n].all()
        for got, want in (
            (clips.frames[i], e.image),
            (clips.actions[i], e.action),
            (clips.rewards[i], e.reward),
            (clips.terminated[i], e.terminated),
        ):
            assert np.array_equal(got[:n].numpy(), want[start : start + n])
            assert not got[n:].any()


def test_first_and_last_frames_come_up(tmp_path: Path) -> None:
    store = store_of(tmp_path, [200])
    clips = store.sample(20_000, 16, np.random.default_rng(0))
    counts = np.bincount(where(clips)[1][clips.mask.numpy()], minlength=200)
    middle = counts[40:160].mean()
    assert counts[0] / middle == pytest.approx(9 / 16, abs=0.05)
    assert counts[199] / middle == pytest.approx(9 / 16, abs=0.05)
    assert counts.max() < 1.6 * middle


def test_episodes_in_proportion_to_frames(tmp_path: Path) -> None:
    lengths = [10, 30, 60]
    numbers = where(store_of(tmp_path, lengths).sample(20_000, 1, np.random.default_rng(0)))[0]
    assert np.bincount(numbers[:, 0]) / 20_000 == pytest.approx([0.1, 0.3, 0.6], abs=0.015)


def test_sampling_is_deterministic(tmp_path: Path) -> None:
    store = store_of(tmp_path / "a", [9, 20, 14])
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    other = EpisodeStore(tmp_path / "b", cache_bytes=0)
    draws = []
    for s, seed in ((store, 3), (other, 3), (store, 4)):
        generator = np.random.default_rng(seed)
        draws.append([s.sample(8, 6, generator), s.sample(8, 6, generator), s.sample_contexts(8, 6, generator)])
    for x, y, z in zip(*draws, strict=True):
        assert torch.equal(x.frames, y.frames)
        assert not torch.equal(x.frames, z.frames)
    assert not torch.equal(draws[0][0].frames, draws[0][1].frames)


def test_contexts_leave_something_to_follow(tmp_path: Path) -> None:
    store = store_of(tmp_path, [5, 6, 9])
    clips = store.sample_contexts(4000, 5, np.random.default_rng(0))
    assert clips.mask.all()
    assert not clips.terminated.any()
    numbers, times = where(clips)
    starts, counts = np.unique(np.stack([numbers[:, 0], times[:, 0]]), axis=1, return_counts=True)
    assert starts.T.tolist() == [[1, 0], [2, 0], [2, 1], [2, 2], [2, 3]]  # the episode of 5 frames has none
    assert counts / 4000 == pytest.approx(0.2, abs=0.03)

    clips = store.sample_contexts(400, 5, np.random.default_rng(0), start="episode")
    numbers, times = where(clips)
    assert (times[:, 0] == 0).all()
    assert (clips.actions[:, 0] == NO_ACTION).all()
    assert set(numbers[:, 0]) == {1, 2}
    with pytest.raises(InputError, match="needs an episode of 10 or more, but the longest has 9"):
        store.sample_contexts(1, 9, np.random.default_rng(0))


def test_clips_move(tmp_path: Path) -> None:
    clips = store_of(tmp_path, [5]).sample(2, 3, np.random.default_rng(0)).to("meta")
    assert {t.device.type for t in (clips.frames, clips.actions, clips.rewards, clips.terminated, clips.mask)} == {
        "meta"
    }


def test_a_one_hot_row_that_names_no_action_is_no_continuous_one(tmp_path: Path) -> None:
    e = episode(7, size=(64, 64))
    one_hot = np.eye(6, dtype=np.float32)[np.maximum(e.action, 0)]
    one_hot[4] = 0
    np.savez_compressed(tmp_path / "x.npz", image=e.image, action=one_hot, reward=e.reward)
    with pytest.raises(InputError, match=r"x\.npz: row 4 of the one-hot 'action' names none"):
        EpisodeStore(tmp_path, strict=True).read("x.npz")
    one_hot[0] = np.nan
    np.savez_compressed(tmp_path / "x.npz", image=e.image, action=one_hot, reward=e.reward)
    assert EpisodeStore(tmp_path, strict=True).action_size == 6


@pytest.mark.parametrize("filler", [0, 1])
def test_published_layout(tmp_path: Path, filler: int) -> None:
    e = episode(7, size=(64, 64))
    one_hot = np.eye(6, dtype=np.float32)[np.maximum(e.action, 0)]
    one_hot[0] = 0
    one_hot[0, 0] = filler
    extras = {"agent_pos": np.zeros((7, 2)), "maze_layout": np.ones((7, 9, 9), np.uint8)}
    np.savez_compressed(
        tmp_path / "published.npz", image=e.image, action=one_hot, reward=e.reward.astype(np.float64), **extras
    )
    store = EpisodeStore(tmp_path)
    read = store.read("published.npz")
    assert (store.lengths.tolist(), store.max_action) == ([7], 4)
    assert np.array_equal(read.action, e.action)
    assert read.action[0] == NO_ACTION
    assert (read.reward.dtype, read.action.dtype) == (np.float32, np.int64)
    assert not read.terminated.any()
    assert read.truncated.tolist() == [False] * 6 + [True]
    assert read.extras.keys() == extras.keys()


END = np.array([False, True, False])
BAD_EPISODES = {
    "uint8 .T \\+ 1": {"image": np.zeros((3, 4, 6, 3), np.float32)},
    "at least 2 frames": {"image": np.zeros((1, 4, 6, 3), np.uint8)},
    "'action' must be int64 .3": {"action": np.array([-1, 0])},
    "action.0. must be -1": {"action": np.array([0, 0, 0])},
    "0 or more": {"action": np.array([-1, 0, -1])},
    "'reward' must be float32": {"reward": np.zeros(3)},
    "reward.0. must be 0": {"reward": np.ones(3, np.float32)},
    "finite": {"reward": np.array([0, np.nan, 0], np.float32)},
    "only the last frame": {"terminated": END},
    "one file per episode": {"truncated": END},
    "'truncated' must be bool": {"truncated": END.astype(np.uint8)},
    "name is taken": {"extras": {"image": np.zeros(3)}},
    "array of numbers": {"extras": {"thing": np.array([None])}},
}


@pytest.mark.parametrize(("message", "change"), BAD_EPISODES.items(), ids=str)
def test_append_refuses(tmp_path: Path, message: str, change: dict[str, Any]) -> None:
    store = store_of(tmp_path, [3])
    with pytest.raises(InputError, match=message):
        store.append(replace(episode(3), **change))
    assert {path.name for path in tmp_path.iterdir()} == {*store.names, INDEX}


def test_one_frame_size_per_folder(tmp_path: Path) -> None:
    store = store_of(tmp_path, [3])
    with pytest.raises(InputError, match=r"frames of \(8, 8\).*has \(4, 6\): keep one frame size"):
        store.append(episode(3, size=(8, 8)))
    arrays: dict[str, Any] = episode(3, size=(8, 8)).arrays()
    np.savez_compressed(tmp_path / "other.npz", **arrays)
    assert store.refresh() == 0
    assert len(store) == len(EpisodeStore(tmp_path)) == 1
    assert "other.npz has frames of (8, 8)" in store.broken["other.npz"]
    with pytest.raises(InputError, match=r"other.npz has frames of \(8, 8\)"):
        EpisodeStore(tmp_path, strict=True)


BAD_FILES: dict[str, dict[str, Any]] = {
    "no \\['image'\\]": {"image": None},
    "no \\['action', 'reward'\\]": {"action": None, "reward": None},
    "'image' must be uint8": {"image": np.zeros((5, 4, 6, 3))},
    "'image' .* T >= 1": {"image": np.zeros((1, 4, 6, 3), np.uint8)},
    "'reward' needs one entry": {"reward": np.zeros(4, np.float32)},
    "'terminated' needs one entry": {"terminated": np.zeros((5, 1), np.bool_)},
    "or continuous .T . 1, A., got float32 .5, 0.": {"action": np.zeros((5, 0), np.float32)},
    "must be integers": {"action": np.zeros(5)},
}


@pytest.mark.parametrize(("message", "change"), BAD_FILES.items(), ids=str)
def test_index_refuses(tmp_path: Path, message: str, change: dict[str, Any]) -> None:
    arrays: dict[str, Any] = {**episode(5).arrays(), **change}
    np.savez_compressed(tmp_path / "bad.npz", **{key: array for key, array in arrays.items() if array is not None})
    with pytest.raises(InputError, match=f"bad.npz.*{message}"):
        EpisodeStore(tmp_path, strict=True)
    with pytest.raises(InputError, match=f"holds no episodes.*left out:.*bad.npz.*{message}"):
        EpisodeStore(tmp_path)


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("action.0. must be -1", {"action": np.zeros(5, np.int64)}),
        ("'reward' must be numbers", {"reward": np.array(list("abcde"))}),
        ("'terminated' must be false or true", {"terminated": np.full(5, 2)}),
        ("'note' cannot be read .*pickle", {"note": np.array([{}])}),
    ],
)
def test_read_refuses(tmp_path: Path, message: str, change: dict[str, Any]) -> None:
    np.savez_compressed(tmp_path / "bad.npz", **{**episode(5).arrays(), **change})
    with pytest.raises(InputError, match=f"bad.npz.*{message}"):
        EpisodeStore(tmp_path).read("bad.npz")


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.99])
def test_cut_file_is_found_at_once(tmp_path: Path, fraction: float) -> None:
    path = store_of(tmp_path, [40]).append(episode(40))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    with pytest.raises(InputError, match=f"{path.name} is damaged .*: delete it, or copy it again"):
        EpisodeStore(tmp_path, strict=True)
    assert list(EpisodeStore(tmp_path).broken) == [path.name]


def test_flipped_bytes_are_found_on_reading(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 4, 6, 3), np.uint8)
    path = write_episode(tmp_path, replace(episode(40), image=noise), name="a.npz")
    with zipfile.ZipFile(path) as archive:
        middle = archive.getinfo("image.npy").compress_size // 2
    data = bytearray(path.read_bytes())
    data[middle : middle + 8] = bytes(8)
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"{path.name} is damaged"):
        EpisodeStore(tmp_path).read(path.name)


def test_header_that_lies_about_its_size(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as archive:
        for key, array in episode(5).arrays().items():
            with archive.open(f"{key}.npy", "w") as member:
                np.lib.format.write_array(member, array)
                if key == "image":
                    member.write(b"more")
    with pytest.raises(InputError, match=r"bad.npz is damaged .image: its size is not that of uint8 \(5, 4, 6, 3\)"):
        EpisodeStore(tmp_path)


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere does not exist: record some .python train_wm.py --env ID"):
        EpisodeStore(tmp_path / "nowhere")
    with pytest.raises(InputError, match=f"{tmp_path.name} holds no episodes .*: record some"):
        EpisodeStore(tmp_path)
    empty = EpisodeStore(tmp_path, create=True)
    assert (len(empty), empty.frames) == (0, 0)
    generator = np.random.default_rng(0)
    for use in (
        lambda: empty.sample(1, 2, generator),
        lambda: empty.sample_contexts(1, 2, generator),
        lambda: empty.image_shape,
        lambda: empty.max_action,
    ):
        with pytest.raises(InputError, match="holds no episodes"):
            use()
    with pytest.raises(InputError, match=r"has no episode other\.npz"):
        empty.read("other.npz")
    with pytest.raises(InputError, match="must be 1 or more, got 0 and 4"):
        store_of(tmp_path, [3]).sample(0, 4, generator)
