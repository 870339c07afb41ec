"""What a return is worth: those of random, human and all-knowing players of the same world, each with its source."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lssvwm.envs.factory import EnvConfig
from lssvwm.worldmodel.reporting.statistics import Interval

Kind = Literal["random", "human", "oracle"]

_MAZES: Mapping[str, tuple[int, float, float]] = {
    "9x9": (1000, 26.4, 34.8),
    "11x11": (2000, 44.3, 58.0),
    "13x13": (3000, 55.5, 74.5),
    "15x15": (4000, 67.7, 87.7),
}
"""Steps of an episode, mean score of the human player, and of the oracle that knows the maze. Nothing is published for
random actions: play them beside (`--policies random`)."""

_MAZE_SOURCE = "Pasukonis et al. 2022, arXiv 2210.13383"


@dataclass(frozen=True)
class Anchor:
    """A mean return that others are seen against, and who says so."""

    kind: Kind
    value: float
    source: str


@dataclass(frozen=True)
class Normalised:
    """A return on the scale on which random play is 0 and the anchor `by` is 1."""

    by: Kind
    mean: float
    low: float
    high: float


def published(config: EnvConfig) -> tuple[Anchor, ...]:
    """Anchors from the literature for an environment as `config` makes it; none where episodes are cut shorter."""
    size = _maze(config.id)
    if size is None:
        return ()
    steps, human, oracle = _MAZES[size]
    if config.max_episode_steps is not None and config.max_episode_steps < steps:
        return ()
    return Anchor("human", human, _MAZE_SOURCE), Anchor("oracle", oracle, _MAZE_SOURCE)


def measured(name: str, interval: Interval) -> Anchor | None:
    """The anchor that a policy of this name becomes when it has been played; None for one that is no anchor."""
    kinds: Mapping[str, Kind] = {"random": "random", "oracle": "oracle"}
    if name not in kinds:
        return None
    return Anchor(kinds[name], interval.mean, f"played here, {interval.count} episodes")


def merged(known: Sequence[Anchor], played: Sequence[Anchor]) -> tuple[Anchor, ...]:
    """One anchor of each kind; one that was played here, on the same seeds, before one from the literature."""
    by_kind = {anchor.kind: anchor for anchor in (*known, *played)}
    return tuple(by_kind.values())


def normalised(interval: Interval, anchors: Sequence[Anchor]) -> Normalised | None:
    """Human-normalised where a human anchor is there, or else by the oracle.

    None without either, without random, and where random play earned no less than they: too few episodes to tell. The
    interval is that of the return alone, anchors are taken as they are.
    """
    values = {anchor.kind: anchor.value for anchor in anchors}
    top: Kind = "human" if "human" in values else "oracle"
    if "random" not in values or top not in values:
        return None
    bottom, span = values["random"], values[top] - values["random"]
    if span <= 0:
        return None
    mean, low, high = ((value - bottom) / span for value in (interval.mean, interval.low, interval.high))
    return Normalised(top, mean, low, high)


def has_success(config: EnvConfig) -> bool:
    """Whether an episode can be a success: the Memory Maze goes on until its time is over, whatever is found."""
    return "MemoryMaze-" not in config.id


def _maze(env_id: str) -> str | None:
    found = re.search(r"MemoryMaze-(\d+x\d+)-", env_id)
    return found.group(1) if found and found.group(1) in _MAZES else None
