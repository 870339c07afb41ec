"""Minari datasets there and back, through the package's own storages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces

from lssvwm.envs.recorded import FORMATS, ReadOptions, convert
from lssvwm.envs.recorded.export import ExportOptions, export
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import Episode, EpisodeStore
from recordings import STEPS, frames_of, places, seen

MINARI = FORMATS["minari"]
SMALL = ReadOptions(size=16)
STORAGES = ["hdf5", "arrow", "parquet"]
FRAMES = spaces.Box(0, 255, (32, 32, 3), np.uint8)
T = len(STEPS)


def dataset(
    root: Path,
    observation: spaces.Space[Any] = FRAMES,
    action: spaces.Space[Any] | None = None,
    *,
    storage: str = "hdf5",
    jpeg: bool = False,
    **changes: Any,
) -> Path:
    """A dataset of two episodes of the world, as `minari.create_dataset_from_buffers` writes them; its data folder."""
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    values: dict[str, Any] = {
        "observations": frames_of(places()),
        "actions": np.array(STEPS),
        "rewards": np.array(STEPS, np.float64),
        "terminations": np.zeros(T, np.bool_),
        "truncations": np.arange(T) == T - 1,
        "infos": {"depth": (places() * 2.0).tolist(), "name": ["x"] * (T + 1)},
    }
    path = root / "maze" / "walk-v0" / "data"
    path.parent.mkdir(parents=True)
    made = MinariStorage.new(path, observation, action or spaces.Discrete(3), data_format=storage, jpeg_encoding=jpeg)
    made.update_metadata({"dataset_id": "maze/walk-v0", "minari_version": minari.__version__})
    made.update_episodes([EpisodeBuffer(**{**values, **changes}) for _ in range(2)])
    return path


def read(root: Path, options: ReadOptions = SMALL) -> list[Episode]:
    return [episode for source in MINARI.find(root) for episode in MINARI.read(source, options)]


@pytest.mark.parametrize("storage", STORAGES)
def test_an_action_stands_beside_the_frame_it_led_to(storage: str, tmp_path: Path) -> None:
    dataset(tmp_path, storage=storage)
    assert [source.name for source in MINARI.find(tmp_path)] == ["maze/walk-v0/000000", "maze/walk-v0/000001"]
    first, second = read(tmp_path)
    for episode in (first, second):
        assert episode.action.tolist() == [-1, *STEPS]
        assert np.diff(seen(episode.image)).tolist() == list(STEPS)
        assert episode.reward.tolist() == [0, *STEPS]
        assert episode.truncated[-1]
        assert episode.extras["depth"].tolist() == (places() * 2).tolist()
        assert "name" not in episode.extras
    assert str(second.extras["source"]) == "maze/walk-v0/000001"


def test_infos_in_dictionaries(tmp_path: Path) -> None:
    dataset(tmp_path, infos={"depth": {"mean": places() * 2.0, "per_pixel": np.ones((T + 1, 4))}})
    extras = read(tmp_path)[0].extras
    assert extras["depth.mean"].tolist() == (places() * 2).tolist()
    assert extras["depth.per_pixel"].shape == (T + 1, 4)


def test_the_data_folder_itself_can_be_named(tmp_path: Path) -> None:
    path = dataset(tmp_path)
    assert [source.name for source in MINARI.find(path)] == ["000000", "000001"]
    assert [source.name for source in MINARI.find(path.parent)] == ["000000", "000001"]


def test_frames_in_a_dictionary(tmp_path: Path) -> None:
    gray = spaces.Box(0, 255, (32, 32, 1), np.uint8)
    space = spaces.Dict({"eyes": FRAMES, "body": spaces.Dict({"skin": gray, "speed": spaces.Box(-1, 1, (2,))})})
    observations = {
        "eyes": frames_of(places()),
        "body": {"skin": frames_of(places())[..., :1] + 1, "speed": np.stack((places(), -places()), 1)},
    }
    dataset(tmp_path, space, observations=observations)
    with pytest.raises(InputError, match=r"frames under \['(eyes|body\.skin)', '(eyes|body\.skin)'\]: choose"):
        read(tmp_path)
    eyes = read(tmp_path, ReadOptions(size=16, image_key="eyes"))[0]
    assert seen(eyes.image).tolist() == places().tolist()
    assert eyes.extras["body.speed"].tolist() == np.stack((places(), -places()), 1).tolist()
    skin = read(tmp_path, ReadOptions(size=16, image_key="body.skin"))[0]
    assert skin.image.shape == (T + 1, 16, 16, 3)
    assert (skin.image == eyes.image + 1).all()


@pytest.mark.parametrize(
    ("space", "actions", "wanted"),
    [
        (spaces.Discrete(3, start=5), np.array(STEPS) + 5, [-1, *STEPS]),
        (spaces.Box(-1, 1, (1, 2)), np.array(STEPS)[:, None, None] * [[0.1, 0.2]], None),
        (spaces.MultiBinary(2), np.stack((np.array(STEPS) > 0, np.array(STEPS) > 1), 1).astype(np.int8), None),
        (spaces.MultiDiscrete([3, 2]), np.stack((STEPS, np.array(STEPS) > 1), 1), None),
    ],
)
def test_action_spaces(tmp_path: Path, space: spaces.Space[Any], actions: Any, wanted: list[int] | None) -> None:
    dataset(tmp_path, action=space, actions=actions)
    action = read(tmp_path)[0].action
    if wanted is not None:
        assert action.tolist() == wanted
    else:
        assert action[1:] == pytest.approx(np.asarray(actions, np.float32).reshape(T, -1))
        assert np.isnan(action[0]).all()


@pytest.mark.parametrize(
    "turned",
    [
        lambda image: image[..., 0],
        lambda image: image[..., :1],
        lambda image: image.transpose(0, 3, 1, 2),
        lambda image: image[:, None, :, :, 0],
        lambda image: np.concatenate((image, np.full_like(image[..., :1], 255)), 3),
        lambda image: np.concatenate((image, image[..., :1] // 2), 3).transpose(0, 3, 1, 2),
    ],
    ids=["grey", "grey channel", "channels first", "grey first", "RGBA", "RGBA first"],
)
def test_frames_of_all_layouts(tmp_path: Path, turned: Callable[[Any], Any]) -> None:
    image = turned(frames_of(places(), 32, 40))
    dataset(tmp_path, spaces.Box(0, 255, image.shape[1:], np.uint8), observations=image)
    found = read(tmp_path)[0].image
    assert found.shape == (T + 1, 16, 16, 3)
    assert seen(found).tolist() == places().tolist()


def test_infos_with_an_entry_per_step_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset(tmp_path, infos={"moved": (np.array(STEPS) * 2.0).tolist(), "short": [1.0, 2.0]})
    episode = read(tmp_path)[0]
    assert episode.extras["moved"].tolist() == [0, *(2.0 * step for step in STEPS)]
    assert "short" not in episode.extras
    assert [r.message for r in caplog.records if "info 'moved' has an entry per step" in r.message]
    assert len(caplog.records) == 1  # not for every episode


def test_an_episode_that_ended_of_itself(tmp_path: Path) -> None:
    last = np.arange(T) == T - 1
    dataset(tmp_path, terminations=last, truncations=~last & False)
    episode = read(tmp_path)[0]
    assert episode.terminated.tolist() == [False] * T + [True]
    assert not episode.truncated.any()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"observation": spaces.Box(-1, 1, (4,)), "observations": np.zeros((T + 1, 4))}, "want frames uint8"),
        ({"observation": spaces.Dict({"speed": spaces.Box(-1, 1, (4,))}),
          "observations": {"speed": np.zeros((T + 1, 4))}}, "has frames under no key"),
        ({"action": spaces.Dict({"go": spaces.Discrete(3)}), "actions": {"go": np.array(STEPS)}}, "actions in Dict"),
        ({"terminations": np.arange(T) == 4}, "goes on after its end at step 5"),
        ({"observations": frames_of(places())[:-1]}, "'observations' has shape"),
    ],
)  # fmt: skip
def test_datasets_that_are_no_episodes(tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    dataset(tmp_path, **changes)
    with pytest.raises(InputError, match=match):
        read(tmp_path)


def test_damaged_datasets_are_named(tmp_path: Path) -> None:
    path = dataset(tmp_path)
    stored = path / "main_data.hdf5"
    stored.write_bytes(stored.read_bytes()[:3000])
    summary = convert(MINARI, tmp_path, tmp_path / "to", SMALL, progress=False)
    assert [one.source for one in summary.broken] == ["maze/walk-v0/000000", "maze/walk-v0/000001"]
    assert "episode 0 cannot be read" in summary.broken[0].reason
    (path / "metadata.json").write_text("{")
    with pytest.raises(InputError, match=r"metadata\.json is no JSON"):
        MINARI.find(tmp_path)


@pytest.mark.parametrize("checked", [True, False])
def test_checksums_of_hdf5_are_looked_at(tmp_path: Path, checked: bool) -> None:
    path = dataset(tmp_path) / "main_data.hdf5"
    with h5py.File(path, "a") as file:
        frames = file["episode_0/observations"][()]
        del file["episode_0/observations"]
        stored = file.create_dataset("episode_0/observations", data=frames, chunks=frames.shape, fletcher32=checked)
        at = stored.id.get_chunk_info(0).byte_offset
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    if checked:
        with pytest.raises(InputError, match="episode 0 cannot be read"):
            read(tmp_path)
    else:  # nothing tells
        assert read(tmp_path, ReadOptions(size=32))[0].image[0, 0, 0, 0] == frames[0, 0, 0, 0] ^ 1


def test_jpeg_frames_come_back_with_its_errors_only(tmp_path: Path) -> None:
    dataset(tmp_path, jpeg=True)
    assert seen(read(tmp_path)[0].image).tolist() == places().tolist()


def recorded(root: Path, action: np.ndarray[Any, Any], *, ends: bool) -> EpisodeStore:
    """A store of two episodes with random frames and extras."""
    store, random = EpisodeStore(root, create=True), np.random.default_rng(0)
    last = np.arange(T + 1) == T
    for seed in range(2):
        store.append(
            Episode(
                image=random.integers(0, 256, (T + 1, 16, 16, 3), dtype=np.uint8),
                action=action,
                reward=np.concatenate(([0.0], random.normal(size=T))).astype(np.float32),
                terminated=last & ends,
                truncated=last & (not ends),
                extras={
                    "seed": np.array(seed),
                    "agent_pos": random.normal(size=(T + 1, 2)),
                    "gui": random.random(T + 1) < 0.5,
                    "speed": random.random(T + 1, np.float32),
                    "map": np.ones((3, 3)),
                },
            )
        )
    return store


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("discrete", [True, False])
def test_there_and_back(storage: Any, discrete: bool, tmp_path: Path) -> None:
    action = np.array([-1, *STEPS])
    if not discrete:
        action = np.stack((action, action / 7), axis=1).astype(np.float32)
        action[0] = np.nan
    store = recorded(tmp_path / "store", action, ends=discrete)
    folder = export(ExportOptions(store.root, tmp_path / "minari", "a/walk-v3", storage, progress=False))
    assert folder == tmp_path / "minari" / "a" / "walk-v3"
    convert(MINARI, tmp_path / "minari", tmp_path / "back", SMALL, progress=False)
    back = EpisodeStore(tmp_path / "back")
    assert len(back) == 2
    for before, after in zip(store.names, back.names, strict=True):
        old, new = store.read(before), back.read(after)
        for key in ("image", "action", "reward", "terminated", "truncated"):
            np.testing.assert_array_equal(getattr(old, key), getattr(new, key), err_msg=key)
        for key in ("agent_pos", "gui", "speed"):
            np.testing.assert_array_equal(old.extras[key], new.extras[key], err_msg=key)
            assert old.extras[key].dtype == new.extras[key].dtype
        assert "map" not in new.extras


def test_minari_itself_loads_what_was_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = recorded(tmp_path / "store", np.array([-1, *STEPS]), ends=True)
    export(ExportOptions(store.root, tmp_path / "minari", "walk-v0", progress=False))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    loaded = minari.load_dataset("walk-v0")
    assert (loaded.total_episodes, loaded.total_steps) == (2, 2 * T)
    assert loaded.action_space == spaces.Discrete(3)
    episode = loaded[1]
    assert (episode.observations == store.read(store.names[1]).image).all()
    assert episode.actions.tolist() == list(STEPS)
    assert episode.terminations.tolist() == [False] * (T - 1) + [True]
    assert [meta["seed"] for meta in loaded.storage.get_episode_metadata([0, 1])] == [0, 1]


@pytest.mark.parametrize(
    ("prepare", "changes", "match"),
    [
        (lambda root: None, {"id": "walk"}, "--id walk is no name"),
        (lambda root: (root / "minari" / "walk-v0").mkdir(parents=True), {}, "is there already"),
        (lambda root: None, {"store": Path("nowhere")}, "nowhere does not exist"),
    ],
)
def test_exports_that_cannot_work(
    tmp_path: Path, prepare: Callable[[Path], Any], changes: dict[str, Any], match: str
) -> None:
    recorded(tmp_path / "store", np.array([-1, *STEPS]), ends=True)
    prepare(tmp_path)
    options = {"store": tmp_path / "store", "to": tmp_path / "minari", "id": "walk-v0", "progress": False, **changes}
    with pytest.raises(InputError, match=match):
        export(ExportOptions(**options))


def test_videos_without_actions_are_no_dataset(tmp_path: Path) -> None:
    store = recorded(tmp_path / "store", np.full(T + 1, -1), ends=True)
    with pytest.raises(InputError, match="videos without actions"):
        export(ExportOptions(store.root, tmp_path / "minari", "walk-v0", progress=False))
    recorded(tmp_path / "store", np.array([-1, *STEPS]), ends=True)
    with pytest.raises(InputError, match="is a video without actions"):
        export(ExportOptions(store.root, tmp_path / "minari", "walk-v0", progress=False))
    assert not (tmp_path / "minari" / "walk-v0").exists()
