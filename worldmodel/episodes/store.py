"""EpisodeStore: a folder of episodes that many may write and read at once, and clips drawn from it."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from worldmodel.episodes.data import Clips, Episode, check_episode
from worldmodel.episodes.files import (
    SUFFIX,
    Header,
    header_of,
    names_in,
    read_array,
    read_arrays,
    read_episode,
    read_header,
    write_episode,
)
from worldmodel.episodes.stream import Place
from worldmodel.errors import InputError

_RECORD = "record some (python train_wm.py --env ID --out RUN) or name another folder"


class EpisodeStore:
    """A folder with one `.npz` file per episode, on the keys of the published Memory Maze data, or one packed file.

    Keys: `image, action, reward, terminated, truncated`; every other key is an extra. Published files are read as they
    are: one-hot actions become integers, missing end flags mean that the last frame was truncated.

    Any number of processes and machines may append to the folder while others read it; `refresh` picks up what they
    wrote. One store object is for one thread. A file of several episodes (`episodes.packed`) is only read.
    """

    def __init__(
        self, root: Path | str, create: bool = False, cache_bytes: int = 1 << 30, *, pose: Sequence[str] = ()
    ) -> None:
        """Index the folder `root`, or the packed file.

        `create` makes the folder where it is missing and allows it to be empty. Decoded episodes are kept in memory
        up to `cache_bytes`, those used last; the workers of a `DataLoader` share that number. `pose` names extras with
        one entry per frame that make up the agent's pose; clips then carry them, side by side.

        Raises InputError for a missing or empty folder, and for a file in it that is no whole episode.
        """
        self.root = Path(root)
        self._index: dict[str, Header] = {}
        self._names: tuple[str, ...] = ()
        self._headers: dict[Header, Header] = {}  # each kind once: of a million episodes most are alike
        self._lengths: NDArray[np.int64] = np.zeros(0, np.int64)
        self._ends: NDArray[np.int64] = np.zeros(0, np.int64)
        self._cache: OrderedDict[str, Episode] = OrderedDict()
        self._cache_bytes = cache_bytes
        self._cached = 0
        self.pose = tuple(pose)
        if create:
            self.root.mkdir(parents=True, exist_ok=True)
        elif not self.root.exists():
            raise InputError(f"episode folder {self.root} does not exist: {_RECORD}")
        self.refresh()
        if not create:
            self._require_episodes()

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs: the index, not the episodes that were read."""
        return self.__dict__ | {"_cache": OrderedDict(), "_cached": 0}

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self._index)

    @property
    def names(self) -> tuple[str, ...]:
        """The file names, sorted; those written here sort by time."""
        return self._names

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Frames of each episode, in the order of `names`."""
        return self._lengths

    @property
    def frames(self) -> int:
        """Frames of all episodes together."""
        return int(self._lengths.sum())

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of every frame. Raises InputError while the store is empty."""
        return self._require_episodes().image_shape

    @property
    def max_action(self) -> int:
        """The largest action known of any episode, -1 without one. Raises InputError while the store is empty."""
        self._require_episodes()
        return max(header.max_action for header in self._index.values())

    @property
    def action_size(self) -> int:
        """Numbers of a continuous action; 0 where actions are discrete. Raises InputError while the store is empty."""
        return self._require_episodes().action_size

    @property
    def pose_size(self) -> int:
        """Numbers of a frame's pose. Raises InputError while the store is empty, and where an extra is missing."""
        return self._pose(self.names[0], self.read(self.names[0])).shape[1] if self.pose else 0

    def refresh(self) -> int:
        """Index the files that appeared, forget those that are gone, and return how many appeared.

        Only new files are opened. Raises InputError naming the first file that is no whole episode of this store.
        """
        found = names_in(self.root) if self.root.is_file() else names_of(self.root)
        new = {name: read_header(self.root / name) for name in sorted(found - self._index.keys())}
        self._set_index({name: header for name, header in self._index.items() if name in found} | new)
        return len(new)

    def append(self, episode: Episode, *, compress: bool = True) -> Path:
        """Write `episode` into the folder and return its path.

        Compressed, a clip costs reading the whole episode; otherwise only its own frames are read, from a file several
        times as large. Raises InputError for wrong shapes, dtypes or time-line, or frames of another size than the
        store's.
        """
        if self.root.is_file():
            raise InputError(f"{self.root} is a packed file, which is only read: append to a folder")
        check_episode(episode, "episode to append")
        header = header_of(episode)
        self._check_size("episode to append", header, self._index)
        path = write_episode(self.root, episode, compress=compress)
        self._set_index({**self._index, path.name: header}, checked=True)
        return path

    def read(self, name: str) -> Episode:
        """Return the episode in file `name`, all arrays read-only. Raises InputError for a damaged file."""
        if name in self._cache:
            self._cache.move_to_end(name)
            return self._cache[name]
        if name not in self._index:
            raise InputError(f"{self.root} has no episode {name}: see EpisodeStore.names")
        episode = read_episode(self.root / name)
        if isinstance(episode.image, np.memmap):
            return episode  # the system keeps what was read of it, in memory that it can take back
        self._cache[name] = episode
        self._cached += _nbytes(episode)
        worker = get_worker_info()
        while self._cached > self._cache_bytes // (worker.num_workers if worker else 1):
            self._cached -= _nbytes(self._cache.popitem(last=False)[1])
        return episode

    def read_array(self, name: str, key: str) -> NDArray[Any] | None:
        """Return the array that file `name` stores under `key`, and nothing else of it; None where it has none."""
        return read_array(self.root / name, key)

    def read_arrays(self, name: str, keys: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return those of the arrays under `keys` that file `name` has, and nothing else of it."""
        return read_arrays(self.root / name, keys)

    def sample(self, batch: int, length: int, generator: np.random.Generator) -> Clips:
        """Draw `batch` windows of `length` frames, episodes in proportion to their frames.

        A window may reach over an episode's end by up to half its length (`mask`), and those that would begin before
        frame 0 begin there; so the first and the last frame come up at about half the rate of the frames between, and
        not `1 / length` of it. The same generator state and the same files give the same clips.
        """
        return self.gather(*self._windows(batch, length, generator), length)

    def _windows(
        self, batch: int, length: int, generator: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        self._require_episodes()
        _check_counts(batch, length)
        rows = np.searchsorted(self._ends, generator.integers(self._ends[-1], size=batch), side="right")
        frames = self._lengths[rows]
        half = length // 2
        return rows, np.clip(generator.integers(-half, frames - length + half, endpoint=True), 0, frames - 2)

    def anywhere(self, length: int, generator: np.random.Generator) -> Place:
        """Draw where a window of `length` frames begins, as `sample` does."""
        rows, starts = self._windows(1, length, generator)
        return Place(self._names[rows[0]], int(starts[0]))

    def beginning(self, generator: np.random.Generator) -> Place:
        """Draw an episode's first frame, of each with equal probability."""
        self._require_episodes()
        return Place(self._names[generator.integers(len(self._names))], 0)

    def frames_of(self, episode: str) -> int:
        """Frames of the episode in file `episode`; 0 where there is none."""
        return self._index[episode].frames if episode in self._index else 0

    def clip(self, place: Place, length: int) -> Clips:
        """The window of `length` frames that begins at `place`, a batch of one."""
        row = bisect_left(self._names, place.episode)
        return self.gather(np.array([row]), np.array([place.frame]), length)

    def sample_contexts(
        self, batch: int, length: int, generator: np.random.Generator, *, start: Literal["any", "episode"] = "any"
    ) -> Clips:
        """Draw `batch` windows of exactly `length` frames after which the episode goes on.

        `start="any"`: every such window with equal probability. `start="episode"`: windows that begin at frame 0, each
        long enough episode with equal probability. Raises InputError where no episode is long enough.
        """
        self._require_episodes()
        _check_counts(batch, length)
        windows = np.maximum(self._lengths - length, 0)  # possible starts, per episode
        if not windows.any():
            raise InputError(
                f"{self.root}: a context of {length} frames needs an episode of {length + 1} or more, but the longest "
                f"has {self._lengths.max()}: use a shorter context or record longer episodes"
            )
        if start == "episode":
            rows = generator.choice(np.flatnonzero(windows), size=batch)
            return self.gather(rows, np.zeros(batch, np.int64), length)
        ends = np.cumsum(windows)
        draws = generator.integers(ends[-1], size=batch)
        rows = np.searchsorted(ends, draws, side="right")
        return self.gather(rows, draws - (ends - windows)[rows], length)

    def gather(self, rows: NDArray[np.int64], starts: NDArray[np.int64], length: int) -> Clips:
        """The windows of `length` frames that begin at frame `starts` (B,) of the episodes at index `rows` (B,)."""
        batch = len(rows)
        frames = np.zeros((batch, length, *self.image_shape, 3), np.uint8)
        size = self.action_size
        actions = np.full((batch, length, size), np.nan, np.float32) if size else np.zeros((batch, length), np.int64)
        rewards = np.zeros((batch, length), np.float32)
        terminated = np.zeros((batch, length), np.bool_)
        mask = np.zeros((batch, length), np.bool_)
        pose: NDArray[np.float32] | None = None
        for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
            name = self._names[row]
            episode = self.read(name)
            window = slice(start, start + length)
            n = len(episode.action[window])
            frames[i, :n] = episode.image[window]
            actions[i, :n] = episode.action[window]
            rewards[i, :n] = episode.reward[window]
            terminated[i, :n] = episode.terminated[window]
            mask[i, :n] = True
            if self.pose:
                seen = self._pose(name, episode)[window]
                pose = np.zeros((batch, length, seen.shape[1]), np.float32) if pose is None else pose
                pose[i, :n] = seen
        parts = (frames, actions, rewards, terminated, mask, pose)
        return Clips(*(None if part is None else torch.from_numpy(part) for part in parts))  # type: ignore[arg-type]

    def _pose(self, name: str, episode: Episode) -> NDArray[np.float32]:
        """The pose extras of an episode side by side, (T + 1, P)."""
        parts = []
        for key in self.pose:
            part = episode.extras.get(key)
            if part is None or part.dtype.kind not in "biuf" or part.shape[:1] != episode.image.shape[:1]:
                raise InputError(
                    f"{self.root / name}: '{key}' is asked for as pose, but there is no such extra of numbers with "
                    f"one entry per frame; it has {sorted(episode.extras)}: record with extra_obs, or name others"
                )
            with np.errstate(over="ignore"):  # said below
                parts.append(part.reshape(len(part), -1).astype(np.float32))
            if not np.isfinite(parts[-1]).all():
                raise InputError(
                    f"{self.root / name}: '{key}' is asked for as pose, but is not finite in all frames: leave this "
                    "episode out, or name other extras"
                )
        return np.concatenate(parts, axis=1)

    def _set_index(self, index: dict[str, Header], *, checked: bool = False) -> None:
        for name, header in () if checked else index.items():
            self._check_size(str(self.root / name), header, index)
        self._index = {name: self._headers.setdefault(header, header) for name, header in sorted(index.items())}
        self._names = tuple(self._index)
        self._lengths = np.array([header.frames for header in self._index.values()], np.int64)
        self._ends = self._lengths.cumsum()

    def _check_size(self, source: str, header: Header, index: dict[str, Header]) -> None:
        name, first = next(iter(index.items()), (source, header))
        if header.image_shape != first.image_shape:
            raise InputError(
                f"{source} has frames of {header.image_shape}, but {name} in {self.root} has {first.image_shape}: "
                "keep one frame size per folder"
            )
        if header.action_size != first.action_size:
            raise InputError(
                f"{source} has actions of {header.action_size} numbers (0: discrete), but {name} in {self.root} has "
                f"{first.action_size}: keep one action space per folder"
            )

    def _require_episodes(self) -> Header:
        for header in self._index.values():
            return header
        raise InputError(f"episode folder {self.root} holds no episodes (*{SUFFIX}): {_RECORD}")


def names_of(folder: Path) -> set[str]:
    """The names of the episode files in a folder."""
    return {name for name in os.listdir(folder) if name.endswith(SUFFIX) and not name.startswith(".")}


def _check_counts(batch: int, length: int) -> None:
    if batch < 1 or length < 1:
        raise InputError(f"batch and length of clips must be 1 or more, got {batch} and {length}")


def _nbytes(episode: Episode) -> int:
    return sum(array.nbytes for array in episode.arrays().values())
