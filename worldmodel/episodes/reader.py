"""Episodes of a folder and parts of them, of which those that were read last are kept in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes.data import Episode
from lssvwm.worldmodel.episodes.files import (
    Header,
    Outline,
    chunked,
    header_of,
    read_episode,
    read_frames,
    read_outline,
)
from lssvwm.worldmodel.told import ToldPart, told_in


class Part(NamedTuple):
    """Some frames of an episode, and what belongs to them."""

    episode: Episode  # without extras
    pose: NDArray[np.float32] | None  # (n, P)
    told: NDArray[np.float32] | None  # (n, G)


class Reader:
    """Reads the files in `root`. Raises InputError for those that are damaged, or not what the index says of them.

    What was decoded is kept up to `cache_bytes`, which the workers of a `DataLoader` share. `pose` names the extras
    that make up the agent's pose, `told` what else is told with every frame.
    """

    def __init__(self, root: Path, cache_bytes: int, pose: Sequence[str], told: Sequence[ToldPart] = ()) -> None:
        self.root, self.pose, self.told = root, tuple(pose), tuple(told)
        self._cache: OrderedDict[tuple[str, object], tuple[Any, int]] = OrderedDict()
        self._cache_bytes, self._cached = cache_bytes, 0

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process or thread needs: not what was read."""
        return self.__dict__ | {"_cache": OrderedDict(), "_cached": 0}

    def whole(self, name: str, header: Header) -> Episode:
        """The episode in file `name`, all arrays read-only."""

        def decode() -> tuple[Episode, int]:
            episode = self._as_indexed(name, read_episode(self.root / name), header)
            # What is mapped the system keeps, in memory that it can take back.
            return episode, -1 if isinstance(episode.image, np.memmap) else _nbytes(episode)

        episode: Episode = self._kept(name, "whole", decode)
        return episode

    def part(self, name: str, header: Header, begin: int, end: int) -> Part:
        """Frames `begin` up to `end`, as far as there are such. Of a chunked file only chunks with them are decoded."""
        if not chunked(name):
            episode = self.whole(name, header)
            return self._cut(name, episode, sorted(episode.extras), begin, end)

        def decode() -> tuple[Outline, int]:
            outline = read_outline(self.root / name, (*self.pose, *(part.key for part in self.told)))
            self._as_indexed(name, outline.episode, header)
            without = _nbytes(outline.episode) - outline.episode.image.nbytes
            return outline, without + 16 * len(outline.arrays["image"].ends)

        outline: Outline = self._kept(name, "outline", decode)
        part = self._cut(name, outline.episode, sorted(outline.arrays), begin, end)
        if not len(part.episode.image):
            return part  # past the end there are no chunks
        rows, end = outline.arrays["image"].rows, begin + len(part.episode.image)
        wanted = range(begin // rows, -(-end // rows))
        chunks = {number: self._cache[name, number][0] for number in wanted if (name, number) in self._cache}
        if missing := [number for number in wanted if number not in chunks]:
            chunks |= zip(missing, read_frames(self.root / name, outline.arrays, missing), strict=True)
        for number in wanted:
            self._keep(name, number, chunks[number], chunks[number].nbytes)
        image = np.concatenate([chunks[number] for number in wanted])[begin - wanted.start * rows :][: end - begin]
        return part._replace(episode=replace(part.episode, image=image))

    def pose_of(self, name: str, episode: Episode, known: Sequence[str]) -> NDArray[np.float32]:
        """The pose extras of an episode side by side, (T + 1, P); its file has the arrays `known`."""
        parts = []
        for key in self.pose:
            part = episode.extras.get(key)
            if part is None or part.dtype.kind not in "biuf" or part.shape[:1] != episode.image.shape[:1]:
                raise InputError(
                    f"{self.root / name}: '{key}' is asked for as pose, but there is no such extra of numbers with "
                    f"one entry per frame; it has {list(known)}: record with extra_obs, or name others"
                )
            with np.errstate(over="ignore"):  # said below
                parts.append(part.reshape(len(part), -1).astype(np.float32))
            if not np.isfinite(parts[-1]).all():
                raise InputError(
                    f"{self.root / name}: '{key}' is asked for as pose, but is not finite in all frames: leave this "
                    "episode out, or name other extras"
                )
        return np.concatenate(parts, axis=1)

    def _cut(self, name: str, episode: Episode, known: Sequence[str], begin: int, end: int) -> Part:
        pose = self.pose_of(name, episode, known)[begin:end] if self.pose else None
        told = None
        if self.told:
            where = str(self.root / name)
            told = told_in(episode.extras, len(episode.image), self.told, where)[begin:end]
        arrays = (episode.image, episode.action, episode.reward, episode.terminated, episode.truncated)
        return Part(Episode(*(array[begin:end] for array in arrays)), pose, told)  # type: ignore[arg-type]

    def _kept(self, name: str, part: str, decode: Callable[[], tuple[Any, int]]) -> Any:
        """What is kept of a file, or is decoded and kept now: `decode` tells its bytes too, -1 where not to keep it."""
        if (name, part) in self._cache:
            self._cache.move_to_end((name, part))
            return self._cache[name, part][0]
        value, size = decode()
        if size >= 0:
            self._keep(name, part, value, size)
        return value

    def _keep(self, name: str, part: object, value: Any, size: int) -> None:
        self._cached += size - self._cache.pop((name, part), (None, 0))[1]
        self._cache[name, part] = value, size
        worker = get_worker_info()
        while self._cached > self._cache_bytes // (worker.num_workers if worker else 1):
            self._cached -= self._cache.popitem(last=False)[1][1]

    def _as_indexed(self, name: str, episode: Episode, header: Header) -> Episode:
        if header_of(episode) != header:
            raise InputError(f"{self.root / name} is not the file that was indexed: open the store again")
        return episode


def _nbytes(episode: Episode) -> int:
    return sum(array.nbytes for array in episode.arrays().values())
