"""LeRobot data sets, as our writer makes them and as the documentation lays them out."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from lssvwm.envs.recorded import FORMATS, ReadOptions, convert
from lssvwm.envs.recorded.export_lerobot import ExportOptions, export
from lssvwm.envs.recorded.formats.lerobot import _table, opened
from lssvwm.envs.recorded.frames import picture
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import NO_ACTION, Episode, EpisodeStore
from recordings import STEPS, frames_of, places, seen, write_video

ROOT = Path(__file__).parent.parent
LEROBOT = FORMATS["lerobot"]
SMALL = ReadOptions(size=16)
T = len(STEPS)


@pytest.fixture(autouse=True)
def fresh() -> None:
    opened.cache_clear()


def dataset(root: Path, *, camera: str = "video", columns: dict[str, Any] | None = None, **info: Any) -> Path:
    """Two episodes of the world, of which the last frame of the first is left out; cameras besides tell nothing."""
    at = [places()[:-1], places()]
    rows: dict[str, Any] = {
        "action": [*STEPS, *STEPS, 0],
        "observation.state": [[float(x), -float(x)] for x in np.concatenate(at)],
        "next.reward": [float(a) for a in (*STEPS, *STEPS, 0)],
        "timestamp": [i / 20 for part in at for i in range(len(part))],
        "frame_index": [i for part in at for i in range(len(part))],
        "episode_index": [0] * T + [1] * (T + 1),
        "index": list(range(2 * T + 1)),
        "task_index": [0] * (2 * T + 1),
        **(columns or {}),
    }
    image = frames_of(np.concatenate(at))
    key = "observation.images.front"
    if camera == "image":
        pictures = []
        for frame in image:
            Image.fromarray(frame).save(stream := io.BytesIO(), "PNG")
            pictures.append({"bytes": stream.getvalue(), "path": None})
        rows[key] = pictures
    else:
        write_video(root / "videos" / key / "chunk-000" / "file-000.mp4", image)
    (root / "data" / "chunk-000").mkdir(parents=True)
    pq.write_table(pa.table(rows), root / "data" / "chunk-000" / "file-000.parquet")
    episodes = []
    for number, (begin, length) in enumerate(((0, T), (T, T + 1))):
        one = {"episode_index": number, "tasks": ["walk"], "length": length, "stats/action/max": [2.0]}
        one |= {f"{part}/{name}": 0 for part in ("data", f"videos/{key}") for name in ("chunk_index", "file_index")}
        one |= {f"videos/{key}/from_timestamp": begin / 20, f"videos/{key}/to_timestamp": (begin + length) / 20}
        episodes.append(one)
    (root / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(episodes), root / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    features: dict[str, Any] = {name: {"dtype": "float32", "shape": [1]} for name in rows if name != key}
    features[key] = {"dtype": camera, "shape": [32, 32, 3]}
    told = {"codebase_version": "v3.0", "fps": 20, "features": features, **info}
    (root / "meta" / "info.json").write_text(json.dumps(told))
    return root


def read(root: Path, options: ReadOptions = SMALL) -> list[Episode]:
    return [episode for source in LEROBOT.find(root) for episode in LEROBOT.read(source, options)]


@pytest.mark.parametrize("camera", ["video", "image"])
def test_what_led_to_what(tmp_path: Path, camera: str) -> None:
    """Two frames differ by the action between them: also in the second episode of a video."""
    dataset(tmp_path / "robots" / "walk", camera=camera)
    assert [source.name for source in LEROBOT.find(tmp_path)] == ["robots/walk/000000", "robots/walk/000001"]
    first, second = read(tmp_path)
    assert seen(first.image).tolist() == places()[:-1].tolist()
    assert seen(second.image).tolist() == places().tolist()
    for episode in (first, second):
        assert np.diff(seen(episode.image)).tolist() == episode.action[1:].tolist()
        assert episode.action[0] == NO_ACTION
        assert episode.reward.tolist() == [0, *episode.action[1:].tolist()]
        assert episode.extras["observation.state"][:, 0].tolist() == seen(episode.image).tolist()
        assert (str(episode.extras["task"]), float(episode.extras["fps"])) == ("walk", 20)
        assert not episode.extras.keys() & {"index", "timestamp", "next.reward"}
    thin = read(tmp_path, ReadOptions(16, every=2, actions="none"))[1]
    assert seen(thin.image).tolist() == places()[::2].tolist()


def test_vectors_stay_vectors(tmp_path: Path) -> None:
    vectors = [[a / 2, -a / 2] for a in (*STEPS, *STEPS, 0)]
    dataset(tmp_path, columns={"action": vectors})
    action = read(tmp_path)[1].action
    assert np.isnan(action[0]).all()
    assert action[1:].tolist() == vectors[T : 2 * T]


def write_text(name: str, text: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text(text)


def changed(**info: Any) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        path = root / "meta" / "info.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | info))

    return change


def episodes(change: dict[str, Any]) -> Callable[[Path], object]:
    def rewrite(root: Path) -> None:
        path = root / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
        rows = [{**row, **change} for row in pq.read_table(path).to_pylist()]
        pq.write_table(pa.Table.from_pylist(rows), path)

    return rewrite


DATA = "data/chunk-000/file-000.parquet"
FRONT = "videos/observation.images.front"
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no json": (write_text("meta/info.json", "{"), "info.json is no description"),
    "deep json": (write_text("meta/info.json", "[" * 100_000), "info.json is no description"),
    "another version": (changed(codebase_version="v2.1"), "of version 'v2.1', and v3.0 is read: convert it"),
    "no rate": (changed(fps=0), "fps is 0"),
    "no features": (changed(features=[1]), "info.json is no description"),
    "odd features": (changed(features={"action": {"dtype": 3}}), "features have .3."),
    "no table": (write_text(DATA, "PAR1 no table"), "file-000.parquet cannot be read"),
    "no data": (lambda root: (root / DATA).unlink(), "file-000.parquet cannot be read"),
    "another place": (episodes({"data/file_index": 7}), "file-007.parquet cannot be read"),
    "no place": (episodes({"data/file_index": "x"}), "an episode without data/file_index"),
    "less than there is": (episodes({"length": 5}), "has 20 rows, and should have 5"),
    "no video": (episodes({f"{FRONT}/file_index": 3}), "file-003.mp4 cannot be decoded"),
    "no time": (episodes({f"{FRONT}/from_timestamp": -1.0}), "where in the videos of 'observation.images.front'"),
    "time past the end": (episodes({f"{FRONT}/from_timestamp": 90.0}), "has 0 frames"),
    "no action": (
        changed(features={"x": {"dtype": "float32"}, "observation.images.front": {"dtype": "video"}}),
        "no action",
    ),
    "no column": (
        changed(
            features={
                **{key: {"dtype": "float32"} for key in ("action", "x")},
                "observation.images.front": {"dtype": "video"},
            }
        ),
        "has no column x",
    ),
    "no camera": (changed(features={"action": {"dtype": "float32"}}), "frames under no key"),
    "away": (
        changed(features={"action": {"dtype": "float32"}, "../../etc": {"dtype": "video"}}),
        "is no name of a camera",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_damaged_data_sets_are_named(tmp_path: Path, kind: str) -> None:
    spoil, message = BAD[kind]
    spoil(dataset(tmp_path))
    with pytest.raises(InputError, match=message):
        read(tmp_path)


def test_rows_that_are_not_alike(tmp_path: Path) -> None:
    dataset(tmp_path, columns={"action": ["a"] * (2 * T + 1)})
    done = convert(LEROBOT, tmp_path, tmp_path / "to", SMALL, progress=False)
    assert [one.source for one in done.broken] == ["000000", "000001"]
    assert "'action' is not of numbers" in done.broken[0].reason


# The other way


def made(root: Path, action: NDArray[Any], **extras: Any) -> EpisodeStore:
    store = EpisodeStore(root, create=True)
    for number in range(2):
        last = np.arange(T + 1) == T
        store.append(
            Episode(
                frames_of(places(), 32, 34),
                action,
                np.arange(T + 1, dtype=np.float32) / 4,
                last & (number == 0),
                last & (number == 1),
                extras,
            )
        )
    return store


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("size", [0, 2])
def test_there_and_back(tmp_path: Path, size: int, lossless: bool) -> None:
    numbers = np.array([-1, *STEPS])
    vectors = np.stack([numbers / 2] * 2, 1).astype(np.float32)
    vectors[0] = np.nan
    store = made(tmp_path / "a", vectors if size else numbers, fps=np.array(4.0), task=np.array("go"))
    root = export(ExportOptions(tmp_path / "a", tmp_path / "sets" / "go", lossless=lossless, progress=False))
    found = read(root)
    assert len(found) == 2
    for old, new in zip((store.read(name) for name in store.names), found, strict=True):
        assert seen(new.image).tolist() == places()[:-1].tolist()
        assert np.array_equal(new.action, old.action[:-1], equal_nan=True)
        assert np.array_equal(new.reward, old.reward[:-1])
        assert (str(new.extras["task"]), float(new.extras["fps"])) == ("go", 4)
    rows = pq.read_table(root / "data" / "chunk-000" / "file-000.parquet").to_pydict()
    assert rows["index"] == list(range(2 * T))
    assert [i for i, done in enumerate(rows["next.done"]) if done] == [T - 1]  # the second was truncated
    assert rows["timestamp"][:3] == [0.0, 0.25, 0.5]
    assert rows["action"][0] == ([STEPS[0] / 2] * 2 if size else [STEPS[0]])
    info = json.loads((root / "meta" / "info.json").read_text())
    told = [info[key] for key in ("codebase_version", "fps", "total_episodes", "total_frames")]
    assert told == ["v3.0", 4, 2, 2 * T]
    told = pq.read_table(root / "meta" / "episodes" / "chunk-000" / "file-000.parquet").to_pylist()
    assert [(one["dataset_from_index"], one["dataset_to_index"]) for one in told] == [(0, T), (T, 2 * T)]
    assert told[1]["videos/observation.image/from_timestamp"] == T / 4
    statistics = json.loads((root / "meta" / "stats.json").read_text())
    assert statistics["next.reward"]["max"] == [T / 4]
    assert statistics["next.reward"]["mean"][0] == pytest.approx(np.mean(np.arange(1, T + 1) / 4))
    assert np.shape(statistics["observation.image"]["mean"]) == (3, 1, 1)
    tasks = pq.read_table(root / "meta" / "tasks.parquet")
    assert tasks.to_pydict() == {"task_index": [0], "__index_level_0__": ["go"]}


def test_damage_to_exported_rows_is_noticed(tmp_path: Path) -> None:
    """Pages of the tables have checksums; without them, a number that has changed is a number."""
    made(tmp_path / "a", np.array([-1, *STEPS]))
    root = export(ExportOptions(tmp_path / "a", tmp_path / "b", fps=10, progress=False))
    path = root / "data" / "chunk-000" / "file-000.parquet"
    whole, columns = path.read_bytes(), ["action", "next.reward"]
    rows = _table(path, columns)
    told = pq.ParquetFile(path).metadata.row_group(0)
    (pages,) = (one for i in range(told.num_columns) if (one := told.column(i)).path_in_schema == "next.reward")
    begin, seen_wrong = pages.dictionary_page_offset, 0
    for at in range(begin, begin + pages.total_compressed_size):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        with contextlib.suppress(InputError):
            assert _table(path, columns).equals(rows)
        with contextlib.suppress(OSError, ValueError, pa.ArrowException):
            seen_wrong += not pq.read_table(path, columns=columns).equals(rows)
    assert seen_wrong > 10


@pytest.mark.parametrize("bit", [1, 128])
def test_damaged_png_is_noticed(bit: int) -> None:
    frame = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8).repeat(4, 0)
    Image.fromarray(frame).save(stream := io.BytesIO(), "PNG")
    whole, kept = stream.getvalue(), []
    for at in range(len(whole)):
        with contextlib.suppress(InputError):
            assert np.array_equal(picture(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :], "a"), frame)
            kept.append(at)
    assert set(kept) <= set(range(len(whole) - 12, len(whole)))  # the chunk that says that there are no more


def test_episodes_lie_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lssvwm.envs.recorded.export_lerobot.EPISODES_PER_FILE", 1)
    made(tmp_path / "a", np.array([-1, *STEPS]))
    root = export(ExportOptions(tmp_path / "a", tmp_path / "b", fps=10, progress=False))
    assert len(list(root.rglob("*.mp4"))) == 2
    assert [seen(episode.image).tolist() for episode in read(root)] == [places()[:-1].tolist()] * 2


def test_what_cannot_be_exported_leaves_nothing(tmp_path: Path) -> None:
    made(tmp_path / "a", np.array([-1, *STEPS]))
    with pytest.raises(InputError, match="does not say how many frames a second has: give --fps"):
        export(ExportOptions(tmp_path / "a", tmp_path / "b"))
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="there is there already"):
        export(ExportOptions(tmp_path / "a", tmp_path / "there", fps=4))
    made(tmp_path / "videos", np.full(T + 1, -1))
    with pytest.raises(InputError, match="holds videos without actions"):
        export(ExportOptions(tmp_path / "videos", tmp_path / "b", fps=4))
    assert not (tmp_path / "b").exists()


def test_on_the_command_line(tmp_path: Path) -> None:
    made(tmp_path / "a", np.array([-1, *STEPS]))
    command = [sys.executable, "-m", "lssvwm.envs.recorded.export_lerobot", tmp_path / "a", "--to", tmp_path / "b"]
    done = subprocess.run(
        [*command, "--fps", "4", "--no-progress"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"2 episodes in {tmp_path / 'b'}\n"), done.stderr
