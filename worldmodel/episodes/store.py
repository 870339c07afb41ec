"""EpisodeStore: a folder of episodes that many may write and read at once, and clips drawn from it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes.data import FPS_KEY, Clips, Episode, check_episode
from lssvwm.worldmodel.episodes.files import (
    NPZ,
    SUFFIX,
    Header,
    header_of,
    read_array,
    read_arrays,
    sweep,
    write_episode,
)
from lssvwm.worldmodel.episodes.index import Catalogue
from lssvwm.worldmodel.episodes.loader import Place
from lssvwm.worldmodel.episodes.reader import Reader
from lssvwm.worldmodel.told import ToldPart, size_of

_log = logging.getLogger(__name__)

_REDRAWS = 100
_RECORD = "record some (python train_wm.py --env ID --out RUN) or name another folder"


class EpisodeStore:
    """A folder with one file per episode (`docs/episodes.md`), of which a clip costs the frames it shows.

    Or one packed file of several episodes (`episodes.packed`), which is only read.

    Arrays: `image, action, reward, terminated, truncated`; every other key is an extra. Files in `.npz`, such as the
    published Memory Maze data, are read as they are: one-hot actions become integers, missing end flags mean that the
    last frame was truncated.

    Any number of processes and machines may append to the folder while others read it; `refresh` picks up what they
    wrote. One store object is for one thread.

    A file that is no whole episode, or not one of this store's, is left out with a warning that names it, and so are
    clips that turn out to be damaged when they are drawn. With `strict` they raise an InputError, as `gather` and
    whatever reads whole episodes always do: it names the file, and once that is deleted the same work goes on.
    """

    def __init__(
        self,
        root: Path | str,
        create: bool = False,
        cache_bytes: int = 1 << 30,
        *,
        pose: Sequence[str] = (),
        told: Sequence[ToldPart] = (),
        strict: bool = False,
    ) -> None:
        """Index the folder `root`, or the packed file.

        `create` makes the folder where it is missing and allows it to be empty. What was decoded is kept in memory up
        to `cache_bytes`, the last used of it; the workers of a `DataLoader` share that number. `pose` names extras with
        one entry per frame that make up the agent's pose; clips then carry them, side by side;
        so they do with what is `told` (`worldmodel.told`; of a model `config.told`).

        Raises InputError for a missing folder and one without an episode; with `strict` for a file that is none.
        """
        self.root = Path(root)
        self._reader = Reader(self.root, cache_bytes, pose, told)
        self._files = Catalogue(self.root, strict=strict)
        self._told: set[str] = set()
        self.pose, self.told, self.strict = tuple(pose), tuple(told), strict
        if create:
            if self.root.exists() and not self.root.is_dir():
                raise InputError(f"{self.root} is a file, which episodes cannot be written to: name a folder")
            self.root.mkdir(parents=True, exist_ok=True)
            sweep(self.root)
        elif not self.root.exists():
            raise InputError(f"episode folder {self.root} does not exist: {_RECORD}")
        self.refresh()
        if not create:
            self._require_episodes()

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process or thread needs: the index, not what was read."""
        return self.__dict__ | {"_files": copy.copy(self._files), "_reader": copy.copy(self._reader)}

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self._files.index.headers)

    @property
    def names(self) -> tuple[str, ...]:
        """The file names, sorted; those written here sort by time."""
        return self._files.index.names

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Frames of each episode, in the order of `names`."""
        return self._files.index.lengths

    @property
    def frames(self) -> int:
        """Frames of all episodes together."""
        return int(self.lengths.sum())

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of every frame. Raises InputError while the store is empty."""
        return self._require_episodes().image_shape

    @property
    def max_action(self) -> int:
        """The largest action known of any episode, -1 without one. Raises InputError while the store is empty."""
        self._require_episodes()
        return max(header.max_action for header in self._files.index.headers.values())

    @property
    def action_size(self) -> int:
        """Numbers of a continuous action; 0 where actions are discrete. Raises InputError while the store is empty."""
        return self._require_episodes().action_size

    @property
    def fps(self) -> float | None:
        """Frames per second of the first episode that can be read; None where it does not say, or there is none."""
        told = None
        for name in self.names:
            try:
                told = self.read_array(name, FPS_KEY)
                break
            except InputError:
                if self.strict:
                    raise
        fits = told is not None and told.ndim == 0 and told.dtype.kind in "fiu" and 0 < told < np.inf
        return float(told) if told is not None and fits else None

    @property
    def pose_size(self) -> int:
        """Numbers of a frame's pose. Raises InputError while the store is empty, and where an extra is missing."""
        if not self.pose:
            return 0
        self._require_episodes()
        pose = self._reader.part(self.names[0], self._files.index.headers[self.names[0]], 0, 1).pose
        return 0 if pose is None else pose.shape[1]

    @property
    def broken(self) -> dict[str, str]:
        """Files that are left out, and why."""
        return {name: reason for name, (_, reason) in self._files.broken.items()}

    def refresh(self) -> int:
        """Index the files that appeared, forget those that are gone, and return how many appeared.

        Only new files are opened, and of these those that the index file does not know. Raises InputError, with
        `strict`, naming the first file that is no whole episode of this store.
        """
        return self._files.refresh()

    def append(self, episode: Episode) -> Path:
        """Write `episode` into the folder and return its path.

        Raises InputError for wrong shapes, dtypes or time-line, or frames of another size than the store's.
        """
        if self._files.packed:
            raise InputError(f"{self.root} is a packed file, which is only read: append to a folder")
        check_episode(episode, "episode to append")
        header = header_of(episode)
        self._files.check("episode to append", header)
        path = write_episode(self.root, episode)
        self._files.add(path.name, header)
        return path

    def read(self, name: str) -> Episode:
        """Return the episode in file `name`, all arrays read-only. Raises InputError for a damaged file."""
        if name not in self._files.index.headers:
            raise InputError(f"{self.root} has no episode {name}: see EpisodeStore.names")
        return self._reader.whole(name, self._files.index.headers[name])

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
        return self._drawn(lambda: self.gather(*self._windows(batch, length, generator), length))

    def _windows(
        self, batch: int, length: int, generator: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        self._require_episodes()
        _check_counts(batch, length)
        ends = self._files.index.ends
        rows = np.searchsorted(ends, generator.integers(ends[-1], size=batch), side="right")
        frames = self.lengths[rows]
        half = length // 2
        return rows, np.clip(generator.integers(-half, frames - length + half, endpoint=True), 0, frames - 2)

    def anywhere(self, length: int, generator: np.random.Generator) -> Place:
        """Draw where a window of `length` frames begins, as `sample` does."""
        rows, starts = self._windows(1, length, generator)
        return Place(self.names[rows[0]], int(starts[0]))

    def beginning(self, generator: np.random.Generator) -> Place:
        """Draw an episode's first frame, of each with equal probability."""
        self._require_episodes()
        return Place(self.names[generator.integers(len(self))], 0)

    def frames_of(self, episode: str) -> int:
        """Frames of the episode in file `episode`; 0 where there is none."""
        header = self._files.index.headers.get(episode)
        return header.frames if header else 0

    def clip(self, place: Place, length: int) -> Clips:
        """The window of `length` frames that begins at `place`, a batch of one."""
        row = self._files.index.row(place.episode)
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
        windows = np.maximum(self.lengths - length, 0)  # possible starts, per episode
        if not windows.any():
            raise InputError(
                f"{self.root}: a context of {length} frames needs an episode of {length + 1} or more, but the longest "
                f"has {self.lengths.max()}: use a shorter context or record longer episodes"
            )
        if start == "episode":
            rows, first = np.flatnonzero(windows), np.zeros(batch, np.int64)
            return self._drawn(lambda: self.gather(generator.choice(rows, size=batch), first, length))
        ends = np.cumsum(windows)

        def draw() -> Clips:
            draws = generator.integers(ends[-1], size=batch)
            rows = np.searchsorted(ends, draws, side="right")
            return self.gather(rows, draws - (ends - windows)[rows], length)

        return self._drawn(draw)

    def _drawn(self, draw: Callable[[], Clips]) -> Clips:
        """What is drawn; what cannot be read is drawn again, which files and generator decide alone."""
        for again in range(_REDRAWS):
            try:
                return draw()
            except InputError as error:
                if self.strict or again == _REDRAWS - 1:
                    raise
                if str(error) not in self._told:
                    self._told.add(str(error))
                    _log.warning("left out of clips: %s", error)
        raise AssertionError

    def gather(self, rows: NDArray[np.int64], starts: NDArray[np.int64], length: int) -> Clips:
        """The windows of `length` frames that begin at frame `starts` (B,) of the episodes at index `rows` (B,)."""
        batch, headers = len(rows), self._files.index.headers
        reading = (
            self._reader.part(name, headers[name], int(start), int(start) + length)
            for name, start in zip((self.names[row] for row in rows), starts, strict=True)
        )
        first = list(islice(reading, 1))  # before anything is allocated that only the index speaks of
        frames = np.zeros((batch, length, *self.image_shape, 3), np.uint8)
        size = self.action_size
        actions = np.full((batch, length, size), np.nan, np.float32) if size else np.zeros((batch, length), np.int64)
        rewards = np.zeros((batch, length), np.float32)
        terminated = np.zeros((batch, length), np.bool_)
        mask = np.zeros((batch, length), np.bool_)
        pose: NDArray[np.float32] | None = None
        told = np.zeros((batch, length, size_of(self.told)), np.float32) if self.told else None
        for i, (part, seen, goal) in enumerate(chain(first, reading)):
            n = len(part.image)
            frames[i, :n] = part.image
            actions[i, :n] = part.action
            rewards[i, :n] = part.reward
            terminated[i, :n] = part.terminated
            mask[i, :n] = True
            if seen is not None:
                pose = np.zeros((batch, length, seen.shape[1]), np.float32) if pose is None else pose
                pose[i, :n] = seen
            if told is not None and goal is not None:
                told[i, :n] = goal
        parts = (frames, actions, rewards, terminated, mask, pose, told)
        return Clips(*(None if part is None else torch.from_numpy(part) for part in parts))  # type: ignore[arg-type]

    def _require_episodes(self) -> Header:
        for header in self._files.index.headers.values():
            return header
        why = next((f"; left out: {reason}" for reason in self.broken.values()), "")
        raise InputError(f"episode folder {self.root} holds no episodes (*{SUFFIX}, *{NPZ}): {_RECORD}{why}")


def _check_counts(batch: int, length: int) -> None:
    if batch < 1 or length < 1:
        raise InputError(f"batch and length of clips must be 1 or more, got {batch} and {length}")
