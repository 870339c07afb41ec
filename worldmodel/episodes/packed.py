"""A few dozen episodes in one small file, which travels beside a world model: where its dreams begin.

Its members are those of episode files, under `NAME/`; `EpisodeStore(FILE)` reads them as it reads a folder.
"""

from __future__ import annotations

import lzma
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lssvwm.worldmodel.common.atomic import replace
from lssvwm.worldmodel.common.errors import InputError, check_fields
from lssvwm.worldmodel.episodes.data import Episode
from lssvwm.worldmodel.episodes.store import EpisodeStore

CONTEXTS = "contexts.npz"
"""The file beside a checkpoint."""

_LEAST = 2
"""Frames of the shortest episode."""
_TRIED = 32
"""Frames that are compressed to see how well they do."""


@dataclass(frozen=True)
class PackConfig:
    """How much of a folder of episodes travels with a world model."""

    episodes: int = 32
    """Episodes, at most."""
    frames: int = 512
    """Frames of each, its first ones, at most."""
    megabytes: float = 4.0
    """Compressed frames of all together, about: where they would take more, long episodes are cut earlier."""

    def __post_init__(self) -> None:
        check_fields(self, "contexts.")
        if self.episodes < 1 or self.frames < _LEAST or self.megabytes <= 0:
            raise InputError(f"{self}: give at least 1 episode of {_LEAST} frames, and room for them")


def pack(path: Path, store: EpisodeStore, config: PackConfig | None = None) -> None:
    """Write the beginnings of episodes of `store` to the file `path`, evenly spread over it.

    Of the extras those stay that are of a whole episode, such as its seed, and what is told (`store.told`); others of
    its frames do not.

    Frames come first to last from frame 0 on, so that a dream that reads a whole past begins as real play does. An
    episode that is cut counts as truncated. Poses are no part of it, since a world that is told one is no environment.
    """
    config = config or PackConfig()
    rows = np.unique(np.linspace(0, len(store) - 1, min(config.episodes, len(store))).round().astype(int))
    order = sorted(rows, key=lambda row: int(store.lengths[row]))  # what short ones leave over is for the long ones

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w") as file:
            for done, row in enumerate(order):
                left = config.megabytes * 1e6 - sum(member.compress_size for member in file.infolist())
                episode = store.read(store.names[row])
                fits = _fitting(episode, config.frames, left / (len(order) - done))
                kept = _beginning(episode, fits, {part.key for part in store.told})
                for key, array in kept.arrays().items():
                    # Without the time of writing, so that the same episodes are the same bytes.
                    info = zipfile.ZipInfo(f"{done:04d}/{key}.npy")
                    info.compress_type = zipfile.ZIP_LZMA
                    with file.open(info, "w") as member:
                        np.lib.format.write_array(member, np.asarray(array, order="C"), allow_pickle=False)

    replace(path, write)


def _fitting(episode: Episode, most: int, room: float) -> int:
    """How many first frames, `most` at most, take about `room` bytes: told from a few of them."""
    few = np.ascontiguousarray(episode.image[: min(most, _TRIED)])
    size = len(lzma.compress(few.data)) / len(few)
    return max(_LEAST, min(most, len(episode.image), int(room / size)))


def _beginning(episode: Episode, frames: int, told: set[str]) -> Episode:
    """The first frames of an episode, and the extras that are not of frames, or are `told` with each."""
    whole = {key: value for key, value in episode.extras.items() if value.ndim == 0}
    each = {key: value[:frames] for key, value in episode.extras.items() if value.ndim and key in told}
    truncated = episode.truncated[:frames].copy()
    truncated[-1] |= len(truncated) < len(episode.image)
    return Episode(
        image=episode.image[:frames],
        action=episode.action[:frames],
        reward=episode.reward[:frames],
        terminated=episode.terminated[:frames],
        truncated=truncated,
        extras=whole | each,
    )
