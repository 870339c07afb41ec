"""LeRobot data sets of version 3: `meta/info.json`, tables in Parquet, and videos that hold many episodes each.

Layout, from the data set documentation of https://github.com/huggingface/lerobot (Apache-2.0):

    meta/info.json                                  rate, and what the columns are (`features`)
    meta/episodes/chunk-000/file-000.parquet        for each episode its length, task, and where it lies in the others
    data/chunk-000/file-000.parquet                 a row per frame: `action`, `observation.state`, `next.reward`, ...
    videos/CAMERA/chunk-000/file-000.mp4            frames, one episode after the other

Time-line: row t holds what was seen at t, and the action that was then taken, with the reward that came of it. So it
belongs to frame t + 1 here, and what the last action led to is not recorded: neither frame, reward, nor end. Actions
that are one whole number become numbered ones, others vectors. Other columns of numbers become extras.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lssvwm.envs.recorded.arrays import taken
from lssvwm.envs.recorded.frames import Frame, decoded, picture
from lssvwm.envs.recorded.interface import ReadOptions, Source
from lssvwm.envs.recorded.segments import Track, came_with, cut, led_here
from lssvwm.worldmodel.common.errors import InputError, one_line, require
from lssvwm.worldmodel.episodes import Episode
from lssvwm.worldmodel.episodes.data import KEYS

INFO, VERSION = Path("meta") / "info.json", "v3.0"
PLACE = "chunk-{0:03d}/file-{1:03d}"
_COUNTERS = {"timestamp", "frame_index", "episode_index", "index", "task_index"}
_AGAIN = "copy or download the data set again"


@dataclass(frozen=True)
class Dataset:
    """What a data set says of itself."""

    root: Path
    fps: float
    features: Mapping[str, Mapping[str, Any]]
    episodes: tuple[Mapping[str, Any], ...]


class LeRobot:
    """Play of robots and simulators."""

    name = "lerobot"
    files = f"NAME/{INFO.as_posix()} with data/ and videos/ beside it"
    minecraft = False

    def find(self, folder: Path) -> list[Source]:
        """Every episode of every data set."""
        found = []
        for path in sorted((folder / INFO, *folder.glob(f"*/**/{INFO.as_posix()}"))):
            if path.is_file():  # `folder` is a data set itself, or it is not
                root = path.parent.parent
                name = root.relative_to(folder).as_posix().strip("/.")
                indices = [one["episode_index"] for one in opened(root).episodes]
                found += [Source(f"{name}/{index:06d}".lstrip("/"), root, index) for index in indices]
        return found

    def read(self, source: Source, options: ReadOptions) -> Iterator[Episode]:
        """The episode; its frames are decoded as they are asked for."""
        data, where = opened(source.path), f"{source.path} episode {source.index}"
        told = next(one for one in data.episodes if one["episode_index"] == source.index)
        columns = {
            key: feature
            for key, feature in data.features.items()
            if feature.get("dtype") not in ("video", "image", "string") and key not in _COUNTERS
        }
        if "action" not in columns:
            raise InputError(f"{where} has no action, only {', '.join(sorted(data.features))}: read it as videos")
        rows = _rows(data, told, [*columns, "frame_index"], where)
        length = len(rows["frame_index"])
        if rows["frame_index"].tolist() != list(range(length)) or length != told["length"]:
            raise InputError(f"{where} has {length} rows, and should have {told['length']} in order: {_AGAIN}")
        reward = rows.get("next.reward", np.zeros(length)).reshape(length, -1)
        extras = {
            key: array
            for key, array in rows.items()
            if key != "action" and not key.startswith("next.") and key not in (*KEYS, *_COUNTERS) and "/" not in key
        }
        if tasks := told.get("tasks"):
            extras["task"] = np.array(str(tasks[0]))
        track = Track(
            led_here(taken(rows["action"], where)[:-1]),
            came_with(reward[:-1, 0]),
            np.zeros(length, np.bool_),
            extras,
        )
        yield from cut(_frames(data, told, options.image_key, where), track, source.name, options, data.fps)


@lru_cache(maxsize=4)  # sources of one data set follow each other
def opened(root: Path) -> Dataset:
    """What the data set in `root` says of itself. Raises InputError naming the file that cannot be read."""
    path = root / INFO
    try:
        info = json.loads(path.read_text())
        version, fps, features = info["codebase_version"], float(info["fps"]), dict(info["features"])
        names = [feature["dtype"] for feature in features.values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is no description of a LeRobot data set ({error!r:.200}): {_AGAIN}") from error
    if version != VERSION:
        raise InputError(
            f"{path} is of version {version!r}, and {VERSION} is read: convert it with LeRobot's own "
            "lerobot.datasets.v30.convert_dataset_v21_to_v30"
        )
    if not 0 < fps <= 1000 or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: fps is {fps}, and features have {names}: {_AGAIN}")
    episodes: list[Mapping[str, Any]] = []
    for table in sorted((root / "meta" / "episodes").rglob("*.parquet")):
        columns = [name for name in _names(table) if not name.startswith("stats/")]
        episodes += _table(table, columns).to_pylist()
    wanted = ("episode_index", "length", "data/chunk_index", "data/file_index")
    for one in episodes:
        if wrong := [key for key in wanted if type(one.get(key)) is not int or one[key] < 0]:
            raise InputError(f"{root / 'meta' / 'episodes'} has an episode without {wrong[0]}: {_AGAIN}")
    return Dataset(root, fps, features, tuple(sorted(episodes, key=lambda one: one["episode_index"])))


def _names(path: Path) -> list[str]:
    parquet = require("pyarrow.parquet", "lerobot", "LeRobot data sets")
    return list(_tried(path, lambda: parquet.read_schema(path).names))


def _table(path: Path, columns: list[str], only: Any = None) -> Any:
    parquet = require("pyarrow.parquet", "lerobot", "LeRobot data sets")
    told: dict[str, Any] = {"columns": columns, "filters": only, "page_checksum_verification": True}
    return _tried(path, lambda: parquet.read_table(path, partitioning=None, **told))


def _tried(path: Path, read: Any) -> Any:
    arrow = require("pyarrow", "lerobot", "LeRobot data sets")
    try:
        return read()
    except (OSError, ValueError, KeyError, arrow.ArrowException) as error:
        raise InputError(f"{path} cannot be read ({one_line(error)}): {_AGAIN}") from error


def _rows(data: Dataset, told: Mapping[str, Any], columns: list[str], where: str) -> dict[str, NDArray[Any]]:
    """The columns of an episode, an entry per frame."""
    path = data.root / "data" / f"{PLACE.format(told['data/chunk_index'], told['data/file_index'])}.parquet"
    if missing := sorted(set(columns) - set(_names(path))):
        raise InputError(f"{path} has no column {missing[0]}, which {INFO} tells of: {_AGAIN}")
    table = _table(path, columns, [("episode_index", "=", told["episode_index"])])
    rows = {key: np.asarray(table[key].to_pylist()) for key in columns}
    for key, array in rows.items():
        if array.dtype.kind not in "biuf":
            raise InputError(f"{where}: '{key}' is not of numbers alike in every row: {_AGAIN}")
    return rows


def _frames(data: Dataset, told: Mapping[str, Any], image_key: str | None, where: str) -> Iterator[Frame]:
    cameras = [key for key, feature in data.features.items() if feature["dtype"] in ("video", "image")]
    if image_key is None and len(cameras) == 1:
        image_key = cameras[0]
    if image_key not in cameras:
        raise InputError(f"{where} has frames under {cameras or 'no key'}: choose with --image-key")
    if any(part in image_key for part in ("/", "\\", "..")):
        raise InputError(f"{where}: '{image_key}' is no name of a camera: {_AGAIN}")
    if data.features[image_key]["dtype"] == "image":
        return _pictures(data, told, image_key, where)
    key = f"videos/{image_key}"
    chunk, file, begin = (told.get(f"{key}/{part}") for part in ("chunk_index", "file_index", "from_timestamp"))
    if type(chunk) is not int or type(file) is not int or not isinstance(begin, float) or not 0 <= begin < 1e9:
        raise InputError(f"{where} does not say where in the videos of '{image_key}' it lies: {_AGAIN}")
    path = data.root / key / f"{PLACE.format(chunk, file)}.mp4"
    return islice(decoded(path, begin=begin), told["length"])


def _pictures(data: Dataset, told: Mapping[str, Any], key: str, where: str) -> Iterator[Frame]:
    """Frames that are stored as picture files in the table."""
    path = data.root / "data" / f"{PLACE.format(told['data/chunk_index'], told['data/file_index'])}.parquet"
    for one in _table(path, [key], [("episode_index", "=", told["episode_index"])])[key].to_pylist():
        yield picture(one.get("bytes") if isinstance(one, dict) else None, f"{where}: '{key}'")
