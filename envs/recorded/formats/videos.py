"""Any folder of videos: nobody knows which actions were taken, so a model learns them with the null action.

Every frame of such an episode has the action -1, "no action known", which models have an embedding for anyway: nothing
leads to the first frame of an episode either. A store of nothing else trains a model without actions.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lssvwm.envs.recorded.frames import decoded, rate_of
from lssvwm.envs.recorded.interface import VIDEOS, ReadOptions, Source, sources_of
from lssvwm.envs.recorded.segments import cut
from lssvwm.worldmodel.episodes import Episode

SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif"))


class Videos:
    """Videos without actions or rewards."""

    name = VIDEOS
    files = "videos: " + ", ".join(f"*{suffix}" for suffix in sorted(SUFFIXES))
    minecraft = False

    def find(self, folder: Path) -> list[Source]:
        """Every file whose name ends as videos do."""
        return sources_of(folder, (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES))

    def read(self, source: Source, options: ReadOptions) -> Iterator[Episode]:
        """The video at its own rate, or at `options.fps`."""
        rate = options.fps or rate_of(source.path)
        yield from cut(decoded(source.path, whole=True, fps=options.fps), None, source.name, options, rate)
