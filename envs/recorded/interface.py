"""What a format of recorded play has to offer, and what a reader of it can be asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from lssvwm.envs.minecraft.actions import ACTION_SETS
from lssvwm.worldmodel.common.errors import InputError, check_fields
from lssvwm.worldmodel.episodes import Episode

VIDEOS = "videos"
"""The format without actions."""
RECORDED, NONE = "recorded", "none"
"""Values of `ReadOptions.actions` beside the names of action sets."""

Fit = Literal["squeeze", "crop"]


@dataclass(frozen=True)
class ReadOptions:
    """How recordings are read."""

    size: int = 64
    """Side of the frames in pixels: every pixel is the mean over its area."""
    max_frames: int = 1000
    """Longer recordings are cut into episodes of so many frames; the next begins with the last frame of the one
    before, so that no step is lost."""
    actions: str = RECORDED
    """recorded: as the format has them, for MineRL and VPT vectors of every button and the camera; none: as videos
    without actions; or, for MineRL and VPT, an action set: every step becomes the nearest of its actions."""
    drop_null: bool = False
    """VPT: leave out the frames in which nothing was pressed or moved, as VPT did for its policies."""
    cursor: bool = True
    """VPT: draw the mouse cursor, which the recorder did not see, while a menu is open."""
    image_key: str | None = None
    """Minari, LeRobot, RLDS: which observation holds the frames; only needed where there are several."""
    every: int = 1
    """Keep every n-th frame only. What was done in between is one action then: buttons that were pressed at any time
    and all turns together, the mean of other vectors; numbered actions have to be the same. Rewards are summed."""
    fps: float | None = None
    """videos: frames per second to keep; by default all."""
    fit: Fit = "squeeze"
    """What becomes of frames that are not square: squeezed, or cropped to the square in their middle."""

    def __post_init__(self) -> None:
        if self.fit not in get_args(Fit):
            raise InputError(f"fit={self.fit!r:.80}: choose one of {', '.join(get_args(Fit))}")
        check_fields(self)
        if self.size < 1:
            raise InputError(f"size={self.size}: give the side of the frames in pixels, 1 or more")
        if self.every < 1:
            raise InputError(f"every={self.every}: keep every n-th frame, n being 1 or more")
        if self.fps is not None and not 0.001 <= self.fps <= 1000:
            raise InputError(f"fps={self.fps}: give frames per second, from 0.001 to 1000")
        if self.max_frames < 2:
            raise InputError(f"max_frames={self.max_frames}: an episode has at least 2 frames")
        if self.actions not in (RECORDED, NONE, *ACTION_SETS):
            raise InputError(
                f"actions='{self.actions}' is none of {RECORDED}, {NONE} and the action sets {', '.join(ACTION_SETS)}"
            )

    def told(self) -> dict[str, Any]:
        """As journals have it. Options that came later are left out where they change nothing."""
        plain = asdict(self)
        return {name: value for name, value in plain.items() if name not in _LATER or value != _LATER[name]}


_LATER: dict[str, Any] = {"every": 1, "fps": None, "fit": "squeeze"}


@dataclass(frozen=True)
class Source:
    """One recording in a folder: what is converted, or found to be broken, as a whole."""

    name: str
    """Unique within the folder, and the same wherever the folder lies."""
    path: Path
    """The file, or the folder of files, that holds it."""
    index: int = 0
    """Which episode, where one file holds several."""


class Recording(Protocol):
    """A published format."""

    @property
    def name(self) -> str:
        """What it is called on the command line."""
        ...

    @property
    def files(self) -> str:
        """What its folders hold, in a few words, for messages."""
        ...

    @property
    def minecraft(self) -> bool:
        """Whether its actions are MineRL's, so that action sets apply."""
        ...

    def find(self, folder: Path) -> list[Source]:
        """The recordings in `folder` and the folders in it, in a fixed order, without opening large files."""
        ...

    def read(self, source: Source, options: ReadOptions) -> Iterator[Episode]:
        """The episodes of `source`, at most one in memory at a time where the format allows it.

        Raises InputError, naming the file and the reason, where the recording is damaged or incomplete; what was
        yielded before is then of no use.
        """
        ...


def sources_of(folder: Path, paths: Iterable[Path]) -> list[Source]:
    """One source for each of `paths`, which lie in `folder`, sorted by name."""
    return [Source(path.relative_to(folder).as_posix(), path) for path in sorted(set(paths))]
