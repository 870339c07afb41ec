"""Recordings are read in another process: what hangs or dies there is one broken recording, and no more."""

from __future__ import annotations

import multiprocessing
import os
import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import recordings
import test_recorded_minari
from dying import Faulty
from lssvwm.envs.recorded import FORMATS, ReadOptions, Source, convert
from lssvwm.envs.recorded.reader import CHANCES, Reader
from lssvwm.worldmodel.common.errors import InputError, MissingExtraError
from lssvwm.worldmodel.episodes import EpisodeStore

DMLAB = FORMATS["teco-dmlab"]
SMALL = ReadOptions(size=16, max_frames=8)  # three pieces each


def folder_of(root: Path, names: str) -> Path:
    for name in names:
        recordings.teco_dmlab(root / f"{name}.npz")
    return root


def test_what_hangs_or_dies_is_named_and_the_conversion_goes_on(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "from", "abcdef")
    faults = {"a.npz": "hangs", "b.npz": "crashes", "d.npz": "killed", "e.npz": "leaves", "f.npz": "raises"}
    summary = convert(Faulty(faults), folder, tmp_path / "to", SMALL, progress=False, patience=3)
    reasons = {broken.source: broken.reason for broken in summary.broken}
    again = "; copy or download it again"
    assert reasons == {
        "a.npz": f"{folder}/a.npz is damaged: nothing came of it within 3 seconds (--patience){again}",
        "b.npz": f"{folder}/b.npz is damaged: reading it ended the process by SIGSEGV{again}",
        "d.npz": f"{folder}/d.npz is damaged: reading it ended the process by SIGKILL{again}",
        "e.npz": f"{folder}/e.npz is damaged: reading it ended the process with status 3{again}",
        "f.npz": f"{folder}/f.npz cannot be read (RecursionError: too deep)",
    }
    assert (summary.converted, summary.episodes) == (1, 3)
    store = EpisodeStore(tmp_path / "to", strict=True)  # nothing of the first pieces of the others
    assert {str(store.read(name).extras["source"]) for name in store.names} == {"c.npz"}
    assert not multiprocessing.active_children()


def test_what_reads_gives_back_what_reading_here_does(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = folder_of(tmp_path, "a")
    (source,) = DMLAB.find(folder)
    with Reader(Faulty({"a.npz": "says"}), SMALL) as reader:
        assert reader.find(folder) == [source]
        there = list(reader.read(source))
        next(reader.read(source))  # nobody wants the other pieces
        again = list(reader.read(source))
    here = list(DMLAB.read(source, SMALL))
    for read in (there, again):
        assert [piece.arrays().keys() for piece in read] == [piece.arrays().keys() for piece in here]
        for one, other in zip(read, here, strict=True):
            assert all((one.arrays()[key] == other.arrays()[key]).all() for key in ("image", "reward", "source"))
    assert "a.npz is odd" in caplog.messages
    with Reader(Faulty({"a.npz": "extra"}), SMALL) as reader, pytest.raises(MissingExtraError, match="pip install it"):
        list(reader.read(source))


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    folder_of(tmp_path / "from", "a")
    with pytest.raises(InputError, match="from is damaged: nothing came of it within 1 seconds"):
        convert(Faulty({"folder": "hangs"}), tmp_path / "from", tmp_path / "to", SMALL, patience=1)
    assert not (tmp_path / "to").exists()
    for patience in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match=f"patience={patience}: "):
            convert(DMLAB, tmp_path / "from", tmp_path / "to", SMALL, patience=patience)


def endless(stored: Path) -> None:
    """The rewards of the first episode lie in a pipe into which nobody writes: HDF5 waits for them for ever."""
    os.mkfifo(pipe := stored.with_name("pipe"))
    with h5py.File(stored, "r+") as file:
        episode = file["episode_0"]
        count = len(episode["rewards"])
        del episode["rewards"]
        episode.create_dataset("rewards", (count,), np.float64, external=[(str(pipe), 0, 8 * count)])


def crashing(stored: Path) -> None:
    """A group of the first episode whose names are a tree that begins in its own branch: HDF5 runs out of stack."""
    whole = stored.read_bytes()
    trees = [at for at in range(len(whole)) if whole.startswith(b"TREE\0", at)]
    at = trees[2]
    stored.write_bytes(whole[: at + 5] + b"\1" + whole[at + 6 : at + 32] + struct.pack("<Q", at) + whole[at + 40 :])


@pytest.mark.parametrize(("damage", "told"), [(endless, "nothing came of it within 4 seconds"), (crashing, "SIGSEGV")])
def test_hdf5_that_the_library_does_not_survive(damage: Callable[[Path], None], told: str, tmp_path: Path) -> None:
    stored = test_recorded_minari.dataset(tmp_path / "from") / "main_data.hdf5"
    damage(stored)
    summary = convert(FORMATS["minari"], tmp_path / "from", tmp_path / "to", SMALL, progress=False, patience=4)
    (broken,) = summary.broken
    assert (broken.source, summary.converted) == ("maze/walk-v0/000000", 1)
    assert told in broken.reason
    assert str(stored.parent) in broken.reason


def test_a_file_that_ends_every_process_is_given_up(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "from", "a")
    sources = [Source(f"{i}", folder / "a.npz", i) for i in range(CHANCES + 2)]
    with Reader(Faulty({source.name: "leaves" for source in sources}), SMALL) as reader:
        for source in sources:
            with pytest.raises(InputError) as error:
                list(reader.read(source))
            assert ("was given up" in str(error.value)) == (source.index >= CHANCES)
        other = Source("b", folder_of(tmp_path / "from", "b") / "b.npz")
        assert len(list(reader.read(other))) == 3
