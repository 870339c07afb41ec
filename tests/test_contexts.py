"""Contexts that travel with a checkpoint: a few dozen episodes in one file, and dreams that begin in them."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dreams import actions_of, dream_folder, roll, vec
from lssvwm.envs.recording.provenance import listed
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import Episode, EpisodeStore
from lssvwm.worldmodel.episodes.packed import CONTEXTS, PackConfig, pack
from lssvwm.worldmodel.worlds import resolve
from worlds import small_store


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = dream_folder(tmp_path_factory.mktemp("world"))
    pack(folder / "model" / CONTEXTS, EpisodeStore(folder / "episodes"))
    return folder


@pytest.fixture
def copied(world: Path, tmp_path: Path) -> Path:
    """The checkpoint folder alone, somewhere else."""
    shutil.copytree(world / "model", tmp_path / "model")
    return tmp_path


def same(a: Episode, b: Episode, frames: int) -> None:
    for key in ("image", "action", "reward", "terminated"):
        np.testing.assert_array_equal(getattr(a, key), getattr(b, key)[:frames])


def test_a_packed_file_reads_as_the_folder(world: Path) -> None:
    folder, packed = EpisodeStore(world / "episodes"), EpisodeStore(world / "model" / CONTEXTS)
    assert sorted(packed.lengths) == sorted(folder.lengths)
    assert (packed.image_shape, packed.max_action) == (folder.image_shape, folder.max_action)
    by_length = sorted(folder.names, key=folder.frames_of)
    for ours, theirs in zip(packed.names, by_length, strict=True):
        same(packed.read(ours), folder.read(theirs), folder.frames_of(theirs))
        assert packed.read(ours).truncated.tolist() == folder.read(theirs).truncated.tolist()
    clips = packed.sample(4, 5, np.random.default_rng(0))
    assert clips.frames.shape[:2] == (4, 5)
    assert packed.refresh() == 0
    with np.load(world / "model" / CONTEXTS, allow_pickle=False) as arrays:
        assert set(arrays) == {f"{name}/{key}" for name in packed.names for key in ("image", *REST)}


REST = ("action", "reward", "terminated", "truncated")


def test_the_same_episodes_are_the_same_bytes(world: Path, tmp_path: Path) -> None:
    pack(tmp_path / CONTEXTS, EpisodeStore(world / "episodes"))
    assert (tmp_path / CONTEXTS).read_bytes() == (world / "model" / CONTEXTS).read_bytes()


def test_its_size_is_bounded(tmp_path: Path) -> None:
    generator, store = np.random.default_rng(0), EpisodeStore(tmp_path / "episodes", create=True)
    for frames in (5, 80, 80, 80, 80, 80):
        end = np.arange(frames) == frames - 1
        store.append(
            Episode(
                image=generator.integers(256, size=(frames, 16, 16, 3), dtype=np.uint8),  # cannot be compressed
                action=np.where(np.arange(frames) == 0, -1, 1),
                reward=np.zeros(frames, np.float32),
                terminated=end,
                truncated=np.zeros(frames, bool),
                extras={"seed": np.array(7), "position": np.zeros((frames, 2), np.float32)},
            )
        )
    path = tmp_path / CONTEXTS
    pack(path, store, PackConfig(episodes=5, megabytes=0.1))
    found = EpisodeStore(path)
    assert len(found) == 5
    assert found.lengths[0] == 5
    assert 0.06e6 < path.stat().st_size < 0.12e6
    assert found.lengths[1:].max() - found.lengths[1:].min() <= 2, "what short ones leave over is for all others"
    for name in found.names[1:]:
        cut = found.read(name)
        assert cut.truncated.tolist() == [False] * (len(cut.truncated) - 1) + [True]
        assert not cut.terminated.any()
        assert set(cut.extras) == {"seed"}
        assert cut.extras["seed"].shape == ()
        assert cut.extras["seed"] == 7
        originals = [store.read(original).image[: len(cut.image)] for original in store.names]
        assert any(np.array_equal(cut.image, image) for image in originals if len(image) == len(cut.image))
    whole = found.read(found.names[0])
    assert whole.terminated[-1]
    assert not whole.truncated[-1]
    pack(path, store, PackConfig(frames=7))
    assert EpisodeStore(path).lengths.tolist() == [5, 7, 7, 7, 7, 7]


@pytest.mark.parametrize("values", [{"episodes": 0}, {"frames": 1}, {"megabytes": 0.0}, {"megabytes": float("nan")}])
def test_sizes_that_cannot_be(values: dict[str, float]) -> None:
    with pytest.raises(InputError):
        replace(PackConfig(), **values)  # type: ignore[arg-type]


def test_a_copied_checkpoint_dreams(world: Path, copied: Path) -> None:
    assert vec(world).store.root.name == "episodes", "the folder, while it is there"
    env = vec(copied, rows=2)
    assert env.store.root == copied / "model" / CONTEXTS
    frames, rewards = roll(env, 0, actions_of(2, 4))
    assert np.isfinite(rewards).all()
    again, _ = roll(vec(copied, rows=2, contexts=str(copied / "model" / CONTEXTS)), 0, actions_of(2, 4))
    np.testing.assert_array_equal(frames, again)


def test_whole_pasts_begin_with_the_episode(copied: Path) -> None:
    env = vec(copied, rows=4, context_length="all", context_info=True)
    _, info = env.reset(seed=3)
    beginnings = [env.store.read(name).image for name in env.store.names]
    for frames, length in zip(info["context_frames"], info["context_length"], strict=True):
        past = frames[-length:]
        assert any(np.array_equal(past, image[:length]) for image in beginnings)


def test_a_dream_of_carried_contexts_travels_between_processes(copied: Path) -> None:
    import pickle

    env = vec(copied, rows=2)
    env.reset(seed=5)
    twin = pickle.loads(pickle.dumps(env))
    for action in actions_of(2, 3):
        ours, theirs = env.step(action)[0], twin.step(action)[0]
        np.testing.assert_array_equal(ours, theirs)


def test_a_checkpoint_without_either_says_so(copied: Path) -> None:
    (copied / "model" / CONTEXTS).unlink()
    with pytest.raises(InputError, match=r"which are not there, and carries no contexts\.npz: give contexts=FOLDER"):
        vec(copied)


def test_damaged_files_are_named(copied: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = copied / "model" / CONTEXTS
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"contexts\.npz is damaged"):
        vec(copied)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("image.npy", b"")
    with pytest.raises(InputError, match=r"contexts\.npz holds no episodes of names"):
        vec(copied)
    middle = whole.find(b"0000/image.npy") + 200
    path.write_bytes(whole[:middle] + bytes(64) + whole[middle + 64 :])
    vec(copied)
    assert "contexts.npz/0000 is damaged" in caplog.text
    assert EpisodeStore(path).names
    assert "0000" not in EpisodeStore(path).names


def test_a_packed_file_is_only_read(world: Path) -> None:
    store = EpisodeStore(world / "model" / CONTEXTS)
    with pytest.raises(InputError, match=r"contexts\.npz is a packed file, which is only read"):
        store.append(store.read(store.names[0]))


def test_a_packed_file_is_listed_and_not_written_to(world: Path) -> None:
    entries = listed(EpisodeStore(world / "model" / CONTEXTS))
    assert entries
    assert all(entry.seed is None and entry.source is None for entry in entries)
    with pytest.raises(InputError, match=r"contexts\.npz is a file, which episodes cannot be written to"):
        EpisodeStore(world / "model" / CONTEXTS, create=True)


def test_an_episode_file_is_no_packed_file(tmp_path: Path) -> None:
    store = small_store(tmp_path)
    with pytest.raises(InputError, match=r"holds no episodes of names: name the folder of an episode file"):
        EpisodeStore(tmp_path / store.names[0])


def test_a_folder_goes_before_a_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = resolve("minigrid-memory-s7")
    assert (shipped / "model.safetensors").is_file()
    assert resolve(Path("minigrid-memory-s7")) == shipped
    (tmp_path / "minigrid-memory-s7").mkdir()
    assert resolve("minigrid-memory-s7") == Path("minigrid-memory-s7")


def test_many_members_cost_one_look_at_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is as long as they are many: read for each of them, a file of many would take their number squared."""
    store = small_store(tmp_path / "episodes")
    path = tmp_path / CONTEXTS
    pack(path, store)
    looks = []
    look = zipfile.ZipFile._RealGetContents  # type: ignore[attr-defined]
    monkeypatch.setattr(zipfile.ZipFile, "_RealGetContents", lambda archive: (looks.append(1), look(archive)))
    packed = EpisodeStore(path, cache_bytes=0)
    assert len(packed) == len(store) > 2
    for name in packed.names:
        packed.read(name)
    assert len(looks) == 2, "once for the names, once for all that is read"
    pack(path, store, PackConfig(episodes=1))
    assert len(EpisodeStore(path)) == 1, "another file is looked at again"
