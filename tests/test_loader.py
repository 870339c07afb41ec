"""Clips that are drawn ahead, from files of which only a part is read: the same clips, within bounded memory."""

from __future__ import annotations

import pickle
import subprocess
import sys
import zipfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.common.rng import row_generators
from lssvwm.worldmodel.episodes import Clips, EpisodeStore
from lssvwm.worldmodel.episodes import npz as npz_module
from lssvwm.worldmodel.episodes.loader import ClipLoader, StepClips
from lssvwm.worldmodel.episodes.repack import Repacked, repack
from test_episodes import ROOT, episode, same, store_of
from test_store import damage
from trainers import TRAINING, trainer
from worlds import small_store


def assert_same_clips(ours: Clips, theirs: Clips) -> None:
    for item in fields(ours):
        mine, other = getattr(ours, item.name), getattr(theirs, item.name)
        assert (mine is None and other is None) or torch.equal(mine, other), item.name


def loader(source: object, rows: range = range(3), workers: int = 0, length: int = 5, seed: int = 1) -> ClipLoader:
    return ClipLoader(StepClips(source, seed, rows, lambda step: length + step % 2), workers, pin=False)  # type: ignore[arg-type]


def test_a_clip_follows_from_seed_step_and_row(tmp_path: Path) -> None:
    """Whatever was drawn before, whoever draws it."""
    store = store_of(tmp_path, [9, 20, 14])
    whole = [loader(store).clips(step) for step in range(4)]
    assert [clips.frames.shape[:2] for clips in whole] == [(3, 5), (3, 6), (3, 5), (3, 6)]
    other = EpisodeStore(tmp_path, cache_bytes=0)
    for step in (3, 0, 2):
        shares = [loader(other, range(1)).clips(step), loader(other, range(1, 3)).clips(step)]
        assert_same_clips(Clips.cat(shares), whole[step])
    rows = [whole[0].rows(slice(row, row + 1)) for row in range(3)]
    assert not torch.equal(rows[0].frames, rows[1].frames) or not torch.equal(rows[0].frames, rows[2].frames)
    assert not torch.equal(whole[0].frames, loader(store, seed=2).clips(0).frames)


def test_workers_draw_the_same_in_the_same_order(tmp_path: Path) -> None:
    store = store_of(tmp_path, [9, 20, 14])
    plain, ahead = loader(store), loader(store, workers=2)
    before = torch.get_rng_state()
    for step in (0, 1, 2, 3, 4, 7, 8, 2):  # on, and anew
        assert_same_clips(ahead.clips(step), plain.clips(step))
    ahead.close()
    assert_same_clips(ahead.clips(5), plain.clips(5))
    assert torch.equal(torch.get_rng_state(), before)
    ahead.close()


def test_bad_input_in_a_worker_is_one_line(tmp_path: Path) -> None:
    store = store_of(tmp_path, [9])
    (tmp_path / store.names[0]).write_bytes(b"gone")
    ahead = loader(store, workers=1)
    with pytest.raises(InputError, match=rf"^[^\n]*{store.names[0]} [^\n]*$"):
        ahead.clips(0)
    ahead.close()


class Crash:
    """A source with a mistake in it."""

    def sample(self, batch: int, length: int, generator: np.random.Generator) -> Clips:
        raise ZeroDivisionError


def test_a_mistake_in_a_worker_is_shown() -> None:
    with pytest.raises(ZeroDivisionError):
        loader(Crash(), workers=1).clips(0)


def test_workers_share_the_cache(tmp_path: Path) -> None:
    """And another process is not sent what was read."""
    store = store_of(tmp_path, [50, 50, 50, 50])
    one = sum(array.nbytes for array in episode(50).arrays().values())
    store.sample(64, 5, np.random.default_rng(0))
    assert len(pickle.dumps(store)) < one
    sent = pickle.loads(pickle.dumps(store))
    assert_same_clips(sent.sample(4, 5, np.random.default_rng(1)), store.sample(4, 5, np.random.default_rng(1)))
    reading = StepClips(Counting(EpisodeStore(tmp_path, cache_bytes=4 * one)), 0, range(64), lambda step: 5)
    for workers in (1, 4):
        ahead = ClipLoader(reading, workers, pin=False)
        assert 0.5 * one < int(ahead.clips(0).rewards.max()) <= 4 * one // workers
        assert (workers == 1) == (int(ahead.clips(1).rewards.max()) > one)
        ahead.close()


class Counting:
    """Tells by the rewards how many bytes the store keeps in memory."""

    def __init__(self, store: EpisodeStore) -> None:
        self.store = store

    def sample(self, batch: int, length: int, generator: np.random.Generator) -> Clips:
        clips = self.store.sample(batch, length, generator)
        return replace(clips, rewards=clips.rewards * 0 + self.store._reader._cached)


def test_noise_follows_from_seed_step_and_row(tmp_path: Path) -> None:
    """The noise of a process's rows is that part of everyone's."""
    cpu = torch.device("cpu")
    whole = [torch.rand(4, generator=g) for g in row_generators(3, 7, range(6), cpu)]
    part = [torch.rand(4, generator=g) for g in row_generators(3, 7, range(2, 5), cpu)]
    assert all(torch.equal(a, b) for a, b in zip(whole[2:5], part, strict=True))
    assert len({tuple(row.tolist()) for row in whole}) == 6
    for other in (row_generators(3, 8, range(1), cpu), row_generators(4, 7, range(1), cpu)):
        assert not torch.equal(torch.rand(4, generator=other[0]), whole[0])
    store = small_store(tmp_path / "episodes")
    first, again = trainer(store, tmp_path / "a"), trainer(store, tmp_path / "b")
    first.prepare()
    first.train_step()
    again.step = 1
    (ours,), (theirs,) = first.parts(), again.parts()
    assert torch.equal(ours.drawn.noise, theirs.drawn.noise)
    assert_same_clips(ours.clips, theirs.clips)
    assert ours.clips.mask.shape == (TRAINING.batch, TRAINING.length)


# Parts of files


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small arrays count as large ones."""
    monkeypatch.setattr(npz_module, "_MAPPED", 1 << 10)


def test_repacked_episodes_give_the_same_clips(tmp_path: Path) -> None:
    store_of(tmp_path / "a", [30, 50, 40])
    assert repack(tmp_path / "a", tmp_path / "b", npz=True) == Repacked(3, {})
    assert repack(tmp_path / "b", tmp_path / "c") == Repacked(3, {})
    ours, theirs, again = (EpisodeStore(tmp_path / folder) for folder in "abc")
    assert [Path(name).stem for name in theirs.names] == [Path(name).stem for name in ours.names]
    assert {Path(name).suffix for name in theirs.names} == {".npz"}
    assert again.names == ours.names
    for one, two, three in zip(ours.names, theirs.names, again.names, strict=True):
        assert same(ours.read(one), theirs.read(two))
        assert (ours.root / one).read_bytes() == (again.root / three).read_bytes()
        with np.load(theirs.root / two) as file:
            assert np.array_equal(file["image"], ours.read(one).image)
    for seed in range(3):
        draws = [s.sample(8, 20, np.random.default_rng(seed)) for s in (ours, theirs, again)]
        assert_same_clips(draws[0], draws[1])
        assert_same_clips(draws[0], draws[2])


def test_a_damaged_file_is_named_and_left_out_when_repacking(tmp_path: Path) -> None:
    store = store_of(tmp_path / "a", [30, 50, 40])
    damage(tmp_path / "a" / store.names[1])
    done = repack(tmp_path / "a", tmp_path / "b")
    assert (done.copied, list(done.broken)) == (2, [store.names[1]])
    with pytest.raises(InputError, match=store.names[1]):
        repack(tmp_path / "a", tmp_path / "c", strict=True)


def test_repacking_goes_on_where_it_was_cut_short(tmp_path: Path) -> None:
    store = store_of(tmp_path / "a", [5, 6, 7])
    repack(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / store.names[1]).unlink()
    kept = (tmp_path / "b" / store.names[0]).stat().st_mtime_ns
    assert repack(tmp_path / "a", tmp_path / "b") == Repacked(1, {})
    assert EpisodeStore(tmp_path / "b").names == store.names
    assert (tmp_path / "b" / store.names[0]).stat().st_mtime_ns == kept
    with pytest.raises(InputError, match="is the folder to copy from"):
        repack(tmp_path / "a", tmp_path / "a")


def test_repack_on_the_command_line(tmp_path: Path) -> None:
    store_of(tmp_path / "a", [5, 6])
    command = [sys.executable, "-m", "lssvwm.worldmodel.episodes.repack", "--no-progress"]
    done = subprocess.run(
        [*command, tmp_path / "a", tmp_path / "b"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"2 episodes copied to {tmp_path / 'b'}\n"), done.stderr
    done = subprocess.run(
        [*command, tmp_path / "x", tmp_path / "b"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: episode folder {tmp_path / 'x'} does not exist")


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_published_files_are_mapped_where_they_lie(tmp_path: Path, large: None, order: str) -> None:
    """After extra fields in the zip's own headers, in Fortran's order, and with members on both sides."""
    e = episode(40)
    with zipfile.ZipFile(tmp_path / "one.npz", "w") as archive:
        for key, array in {"first": np.zeros(3), **e.arrays(), "last": np.zeros(2000)}.items():
            info = zipfile.ZipInfo(f"{key}.npy")
            info.extra = b"\x99\x99\x04\x00wood"
            with archive.open(info, "w") as member:
                np.lib.format.write_array(member, np.asarray(array, order=order))  # type: ignore[call-overload]
    found = EpisodeStore(tmp_path).read("one.npz")
    assert isinstance(found.image, np.memmap)
    assert np.array_equal(found.image, e.image)
    assert isinstance(found.extras["last"], np.memmap)


def test_memory_does_not_grow_with_the_store(tmp_path: Path) -> None:
    """Drawing clips from 60 MB of frames takes little more memory than importing, unless much may be kept."""
    store = EpisodeStore(tmp_path, create=True)
    for number in range(25):
        image = np.random.default_rng(number).integers(0, 256, (200, 64, 64, 3), np.uint8)
        store.append(replace(episode(200, number, size=(64, 64)), image=image))
    code = """
import re, sys
import numpy as np
from lssvwm.worldmodel.episodes import EpisodeStore
def peak():  # kilobytes, of this program alone
    return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
store = EpisodeStore(sys.argv[1], cache_bytes=int(sys.argv[2]))
before = peak()
for seed in range(100):
    store.sample(1, 16, np.random.default_rng(seed))
print(peak() - before)
"""

    def needed(cache: int) -> int:
        command = [sys.executable, "-c", code, str(tmp_path), str(cache)]
        return int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)

    assert needed(4_000_000) < 10_000
    assert needed(1 << 30) > 25_000  # the measure does see what is kept
