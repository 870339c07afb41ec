"""Write a folder of episodes as a LeRobot data set, version 3: `python -m
lssvwm.envs.recorded.export_lerobot STORE --to NEW`.

Row t of an episode holds frame t, the action that was taken then, and the reward that came of it (`envs.recorded.
lerobot`). So the last frame of an episode, in which nothing was done any more, is left out; `next.done` of the last row
says whether it ended of itself.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray
from tqdm import tqdm

from lssvwm.envs.recorded.formats.lerobot import INFO, PLACE, VERSION
from lssvwm.worldmodel.common.command_line import run_main, started_as
from lssvwm.worldmodel.common.errors import InputError, require
from lssvwm.worldmodel.episodes import Episode, EpisodeStore

CAMERA = "observation.image"
EPISODES_PER_FILE, FILES_PER_CHUNK = 100, 1000


@dataclass(frozen=True)
class ExportOptions:
    """Write a folder of episodes as a LeRobot data set."""

    store: Annotated[Path, tyro.conf.Positional]
    """Folder of episodes."""
    to: Path
    """Folder of the data set; it must not be there yet."""
    fps: float | None = None
    """Frames per second; by default as the episodes know it."""
    task: str = "play"
    """What is done in them, in words, where the episodes do not say (extra `task`)."""
    lossless: bool = False
    """Keep frames exactly, as H.264 in RGB: larger, and browsers do not show it."""
    progress: bool = True
    """Show a progress bar."""


@dataclass
class _Statistics:
    """Of all rows of a column."""

    count: int = 0
    total: Any = 0.0
    squares: Any = 0.0
    low: Any = np.inf
    high: Any = -np.inf

    def add(self, rows: NDArray[Any]) -> None:
        values = rows.reshape(len(rows), -1).astype(np.float64)
        self.count += len(values)
        self.total, self.squares = self.total + values.sum(0), self.squares + (values**2).sum(0)
        self.low, self.high = np.minimum(self.low, values.min(0)), np.maximum(self.high, values.max(0))

    def told(self) -> dict[str, list[float]]:
        mean = self.total / self.count
        std = np.sqrt(np.maximum(self.squares / self.count - mean**2, 0))
        parts = {"min": self.low, "max": self.high, "mean": mean, "std": std}
        return {name: part.tolist() for name, part in parts.items()} | {"count": [self.count]}


@dataclass
class _Videos:
    """The video file that is being written, and how long it is."""

    root: Path
    fps: Fraction
    lossless: bool
    container: Any = None
    stream: Any = None
    frames: int = 0

    def open(self, place: str, height: int, width: int) -> None:
        self.close()
        path = self.root / "videos" / CAMERA / f"{place}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.container, self.frames = require("av", "lerobot", "LeRobot data sets").open(str(path), "w"), 0
        self.stream = self.container.add_stream("libx264rgb" if self.lossless else "libx264", rate=self.fps)
        self.stream.width, self.stream.height = width, height
        self.stream.pix_fmt = "rgb24" if self.lossless else "yuv444p" if height % 2 or width % 2 else "yuv420p"
        self.stream.options = {"crf": "0" if self.lossless else "12", "g": "2"}

    def add(self, image: NDArray[np.uint8]) -> tuple[float, float]:
        """Write frames; returns where in the file they begin and end, in seconds."""
        frame = require("av", "lerobot", "LeRobot data sets").VideoFrame
        begin = self.frames
        for picture in image:
            self.container.mux(self.stream.encode(frame.from_ndarray(picture, format="rgb24")))
        self.frames += len(image)
        return float(begin / self.fps), float(self.frames / self.fps)

    def close(self) -> None:
        if self.container is not None:
            self.container.mux(self.stream.encode())
            self.container.close()
            self.container = None


@dataclass
class _Tables:
    """Everything but the videos."""

    root: Path
    features: dict[str, Any]
    writer: Any = None
    episodes: list[dict[str, Any]] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    statistics: dict[str, _Statistics] = field(default_factory=dict)

    def open(self, place: str) -> None:
        self.close()
        path = self.root / "data" / f"{place}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        arrow, parquet = _arrow()
        fields = []
        for key, feature in self.features.items():
            if feature["dtype"] != "video":
                kind = arrow.bool_() if feature["dtype"] == "bool" else getattr(arrow, feature["dtype"])()
                plain = feature["shape"] == [1] and key != "action"
                fields.append((key, kind if plain else arrow.list_(kind)))
        self.writer = parquet.ParquetWriter(path, arrow.schema(fields), write_page_checksum=True)

    def add(self, rows: Mapping[str, NDArray[Any]], task: str, place: dict[str, Any]) -> None:
        arrow, _ = _arrow()
        if task not in self.tasks:
            self.tasks.append(task)
        length, before = len(rows["action"]), self.episodes[-1]["dataset_to_index"] if self.episodes else 0
        index = np.arange(length)
        rows = {
            **rows,
            "frame_index": index,
            "episode_index": np.full(length, len(self.episodes)),
            "index": index + before,
            "task_index": np.full(length, self.tasks.index(task)),
        }
        schema = self.writer.schema
        columns = [arrow.array(rows[name].tolist(), schema.field(name).type) for name in schema.names]
        self.writer.write_table(arrow.Table.from_arrays(columns, schema=schema))
        for key, array in rows.items():
            self.statistics.setdefault(key, _Statistics()).add(array)
        span = {"dataset_from_index": before, "dataset_to_index": before + length}
        self.episodes.append({"episode_index": len(self.episodes), "tasks": [task], "length": length, **place, **span})

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None


def export(options: ExportOptions) -> Path:
    """Write the data set and return its folder. Episodes that say their `task` keep it; other extras are left out.

    Raises InputError where the store is empty or has no actions, where no rate is known, and where the folder is there
    already. What was written is removed when anything fails.
    """
    _arrow()
    store = EpisodeStore(options.store, cache_bytes=0)
    fps = options.fps or store.fps
    if fps is None or not 0 < fps <= 1000:
        raise InputError(f"{options.store} does not say how many frames a second has: give --fps, up to 1000")
    if not store.action_size and store.max_action < 0:
        raise InputError(f"{options.store} holds videos without actions, which LeRobot has no data sets of")
    if options.to.exists():
        raise InputError(f"{options.to} is there already: name another folder, or delete it")
    height, width = store.image_shape
    features = _features(store, fps)
    videos, tables = _Videos(options.to, Fraction(fps).limit_denominator(1000), options.lossless), None
    options.to.mkdir(parents=True)
    complete = False
    try:
        tables = _Tables(options.to, features)
        for number, name in enumerate(tqdm(store.names, unit="episode", disable=not options.progress)):
            file = number // EPISODES_PER_FILE
            chunk, file = divmod(file, FILES_PER_CHUNK)
            if number % EPISODES_PER_FILE == 0:
                videos.open(PLACE.format(chunk, file), height, width)
                tables.open(PLACE.format(chunk, file))
            episode = store.read(name)
            if not store.action_size and (episode.action[1:] < 0).any():
                raise InputError(f"{store.root / name} is a video without actions: export a folder without such")
            begin, end = videos.add(episode.image[:-1])
            place = {"data/chunk_index": chunk, "data/file_index": file}
            place |= {f"videos/{CAMERA}/chunk_index": chunk, f"videos/{CAMERA}/file_index": file}
            times: dict[str, Any] = {f"videos/{CAMERA}/from_timestamp": begin, f"videos/{CAMERA}/to_timestamp": end}
            text = episode.extras.get("task")
            task = str(text) if text is not None and text.ndim == 0 and text.dtype.kind == "U" else options.task
            tables.add(_rows(episode, fps), task, {**place, **times})
            colors = episode.image[:-1][:: max(1, len(episode.image) // 10)] / 255
            tables.statistics.setdefault(CAMERA, _Statistics()).add(colors.reshape(-1, 3))
        videos.close()
        tables.close()
        _write_meta(tables, fps)
        complete = True
    finally:
        if not complete:
            shutil.rmtree(options.to)
    return options.to


def _features(store: EpisodeStore, fps: float) -> dict[str, Any]:
    height, width = store.image_shape
    number = {"shape": [1], "names": None}
    size = store.action_size
    action = {"dtype": "float32", "shape": [size]} if size else {"dtype": "int64", "shape": [1]}
    return {
        CAMERA: {
            "dtype": "video",
            "shape": [height, width, 3],
            "names": ["height", "width", "channels"],
            "info": {"video.fps": fps, "video.height": height, "video.width": width, "video.channels": 3},
        },
        "action": {**action, "names": None},
        "next.reward": {"dtype": "float32", **number},
        "next.done": {"dtype": "bool", **number},
        "timestamp": {"dtype": "float32", **number},
        **{key: {"dtype": "int64", **number} for key in ("frame_index", "episode_index", "index", "task_index")},
    }


def _rows(episode: Episode, fps: float) -> dict[str, NDArray[Any]]:
    action = episode.action[1:]
    return {
        "action": action[:, None] if action.ndim == 1 else action,
        "next.reward": episode.reward[1:],
        "next.done": episode.terminated[1:],
        "timestamp": (np.arange(len(action)) / fps).astype(np.float32),
    }


def _write_meta(tables: _Tables, fps: float) -> None:
    arrow, parquet = _arrow()
    meta = tables.root / "meta"
    (meta / "episodes" / "chunk-000").mkdir(parents=True)
    place = {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
    episodes = arrow.Table.from_pylist([{**one, **place} for one in tables.episodes])
    parquet.write_table(episodes, meta / "episodes" / f"{PLACE.format(0, 0)}.parquet", write_page_checksum=True)
    index = "__index_level_0__"  # pandas reads the column of this name back as the index of the rows
    plain: dict[str, Any] = {"metadata": None, "name": None}
    pandas = {
        "index_columns": [index],
        "column_indexes": [{**plain, "field_name": None, "pandas_type": "unicode", "numpy_type": "object"}],
        "columns": [
            {**plain, "name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"},
            {**plain, "field_name": index, "pandas_type": "unicode", "numpy_type": "object"},
        ],
        "creator": {"library": "pyarrow", "version": arrow.__version__},
        "pandas_version": "2.0.0",
    }
    tasks = arrow.table({"task_index": arrow.array(range(len(tables.tasks)), arrow.int64()), index: tables.tasks})
    parquet.write_table(tasks.replace_schema_metadata({"pandas": json.dumps(pandas)}), meta / "tasks.parquet")
    statistics: dict[str, Any] = {key: one.told() for key, one in tables.statistics.items()}
    statistics[CAMERA] = {
        name: value if name == "count" else [[[part]] for part in value] for name, value in statistics[CAMERA].items()
    }
    (meta / "stats.json").write_text(json.dumps(statistics, indent=4))
    info = {
        "codebase_version": VERSION,
        "robot_type": None,
        "total_episodes": len(tables.episodes),
        "total_frames": tables.episodes[-1]["dataset_to_index"],
        "total_tasks": len(tables.tasks),
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": int(fps) if fps == int(fps) else fps,
        "splits": {"train": f"0:{len(tables.episodes)}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": tables.features,
    }
    (tables.root / INFO).write_text(json.dumps(info, indent=4))


def _arrow() -> tuple[Any, Any]:
    told = "LeRobot data sets"
    return require("pyarrow", "lerobot", told), require("pyarrow.parquet", "lerobot", told)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = tyro.cli(ExportOptions, args=args, prog=started_as("lssvwm.envs.recorded.export_lerobot"))
    folder = export(options)
    print(f"{len(EpisodeStore(options.store))} episodes in {folder}")


if __name__ == "__main__":
    run_main(main)
