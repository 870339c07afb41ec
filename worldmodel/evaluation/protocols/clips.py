"""Which clips are judged: whole windows of recorded episodes, the same ones for every model."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import Clips, EpisodeStore

IntArray = NDArray[np.int64]


class Windows(NamedTuple):
    """Windows of `length` frames: which episode each lies in, and where it begins. Both (n,)."""

    episodes: IntArray
    starts: IntArray
    length: int

    def rows(self, part: slice) -> Windows:
        """Some of them."""
        return Windows(self.episodes[part], self.starts[part], self.length)


def draw_windows(
    store: EpisodeStore,
    count: int,
    length: int,
    generator: np.random.Generator,
    *,
    start: Literal["any", "episode"] = "any",
    among: IntArray | None = None,
) -> Windows:
    """Draw `count` different windows, or all where there are fewer; every one that fits has the same chance.

    `start="episode"`: only those that begin with their episode. `among`: indices of the episodes that may be used, all
    by default. Raises InputError where no episode is long enough.
    """
    if count < 1 or length < 1:
        raise InputError(f"{count} clips of {length} frames asked for: use at least one of either")
    among = np.arange(len(store)) if among is None else among
    possible = np.maximum(store.lengths[among] - length + 1, 0)
    if start == "episode":
        possible = np.minimum(possible, 1)
    ends = np.cumsum(possible)
    if not len(ends) or not ends[-1]:
        longest = store.lengths[among].max(initial=0)
        raise InputError(
            f"{store.root}: clips of {length} frames (context and horizon together) are asked for, but the longest "
            f"episode has {longest}: use a shorter context or horizon, or record longer episodes"
        )
    drawn = generator.choice(ends[-1], size=min(count, int(ends[-1])), replace=False)
    at = np.searchsorted(ends, drawn, side="right")
    return Windows(among[at], drawn - (ends - possible)[at], length)


def read_windows(store: EpisodeStore, windows: Windows) -> Clips:
    """The clips of these windows, with poses where the store has them."""
    return store.gather(*windows)
