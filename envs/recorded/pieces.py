"""From a recording to episodes: everything onto the project's time-line, long recordings cut into pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.recorded.frames import Frame, shrunk
from envs.recorded.interface import NONE, ReadOptions
from worldmodel.episodes import NO_ACTION, Episode
from worldmodel.errors import InputError

SOURCE, FIRST_FRAME = "source", "first_frame"
"""Extras of every episode: the name of its recording, and where in the recording it begins."""

Actions = NDArray[np.int64] | NDArray[np.float32]


@dataclass(frozen=True)
class Track:
    """All of a recording but its frames: T + 1 entries each, entry t for frame t, as in an Episode."""

    action: Actions
    reward: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    extras: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def led_here(taken: NDArray[Any]) -> Actions:
    """Actions in the order in which they were taken, (T,) integers or (T, A) floats, as what led to each frame.

    The first action taken led to frame 1; nothing led to frame 0.
    """
    if taken.ndim == 1:
        return np.concatenate(([NO_ACTION], taken)).astype(np.int64)
    return np.concatenate((np.full((1, taken.shape[1]), np.nan), taken)).astype(np.float32)


def came_with(received: NDArray[Any]) -> NDArray[np.float32]:
    """Rewards of T steps, (T,), as what came with each of T + 1 frames; with frame 0 came none."""
    return np.concatenate(([0.0], received)).astype(np.float32)


def ended(frames: int, terminated: bool) -> NDArray[np.bool_]:
    """(frames,): whether the episode ended of itself, in its last frame."""
    flags: NDArray[np.bool_] = (np.arange(frames) == frames - 1) & terminated
    return flags


def untold(frames: int) -> Track:
    """The track of a video of which nothing else is known: no actions, no rewards, and cut off at its end."""
    return Track(np.full(frames, NO_ACTION, np.int64), np.zeros(frames, np.float32), np.zeros(frames, np.bool_))


def cut(frames: Iterable[Frame], track: Track | None, source: str, options: ReadOptions) -> Iterator[Episode]:
    """Episodes of at most `options.max_frames` frames of `options.size`; only one is held in memory.

    Each begins with the last frame of the one before, so every action is in exactly one of them. All are truncated in
    their last frame, but for the end of a recording that ended of itself. Extras with an entry per frame are cut too,
    others are in every piece. Without a track, or with `options.actions` "none", no action is known.

    Raises InputError, naming `source`, for less than 2 frames and where frames and track differ in number.
    """
    held: list[Frame] = []
    count = 0
    for frame in frames:
        count += 1
        if track is not None and count > len(track.reward):
            raise InputError(f"{source} has more frames than the {len(track.reward)} that actions are recorded for")
        held.append(shrunk(frame, options.size, source))
        if len(held) == options.max_frames:
            yield _piece(held, track, count - len(held), source, options)
            held = held[-1:]
    if count < 2:
        raise InputError(f"{source} has {count} frames: an episode needs at least 2")
    if track is not None and count < len(track.reward):
        raise InputError(f"{source} has {count} frames, but actions are recorded for {len(track.reward)}")
    if len(held) > 1:
        yield _piece(held, track, count - len(held), source, options)


def _piece(frames: list[Frame], track: Track | None, first: int, source: str, options: ReadOptions) -> Episode:
    length = len(frames)
    part = untold(length) if track is None else _part(track, slice(first, first + length))
    action = untold(length).action if options.actions == NONE else part.action
    action[0] = NO_ACTION if action.ndim == 1 else np.nan
    part.reward[0] = 0.0
    last = np.arange(length) == length - 1
    return Episode(
        image=np.stack(frames),
        action=action,
        reward=part.reward,
        terminated=part.terminated,
        truncated=last & ~part.terminated,
        extras={**part.extras, SOURCE: np.array(source), FIRST_FRAME: np.array(first, np.int64)},
    )


def _part(track: Track, frames: slice) -> Track:
    whole = track.reward.shape
    return Track(
        track.action[frames].copy(),
        track.reward[frames].copy(),
        track.terminated[frames],
        {key: value[frames] if value.shape[:1] == whole else value for key, value in track.extras.items()},
    )
