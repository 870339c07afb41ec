"""From a recording to episodes: everything onto the project's time-line, long recordings cut into pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lssvwm.envs.recorded.frames import Frame, shrunk
from lssvwm.envs.recorded.interface import NONE, ReadOptions
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import NO_ACTION, Episode
from lssvwm.worldmodel.episodes.data import FPS_KEY

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


def thinned(track: Track, every: int, source: str) -> tuple[Track, NDArray[np.int64]]:
    """The track of every `every`-th frame, and which these are; the one in which an episode ended of itself too.

    What led from one to the next is one action: the same throughout, or the mean of vectors. Rewards are summed. Raises
    InputError, naming `source`, for numbered actions that differ in between: they have no mean.
    """
    whole = len(track.reward)
    kept = np.arange(0, whole, every)
    if track.terminated[-1] and kept[-1] != whole - 1:
        kept = np.append(kept, whole - 1)
    if len(kept) < 2:
        raise InputError(f"{source} has {whole} frames, of which --every {every} keeps 1: an episode needs at least 2")
    begins, end = kept[:-1] + 1, kept[-1] + 1
    taken = track.action[:end]
    least, most = np.minimum.reduceat(taken, begins), np.maximum.reduceat(taken, begins)
    if taken.ndim == 1:
        if differ := np.flatnonzero(least != most)[:1].tolist():
            raise InputError(
                f"{source} has different numbered actions before frame {kept[differ[0] + 1]}, which --every {every} "
                "would make one: use --actions none, or an --every at which they are repeated"
            )
        led = led_here(most)
    else:
        mean = np.add.reduceat(taken.astype(np.float64), begins) / np.diff(kept)[:, None]
        led = led_here(np.where(least == most, most, mean))
    extras = {key: value[kept] if value.shape[:1] == (whole,) else value for key, value in track.extras.items()}
    reward = came_with(np.add.reduceat(track.reward[:end], begins))
    return Track(led, reward, track.terminated[kept], extras), kept


def cut(
    frames: Iterable[Frame], track: Track | None, source: str, options: ReadOptions, rate: float | None = None
) -> Iterator[Episode]:
    """Episodes of at most `options.max_frames` frames of `options.size`; only one is held in memory.

    Each begins with the last frame of the one before, so every action is in exactly one of them. All are truncated in
    their last frame, but for the end of a recording that ended of itself. Extras with an entry per frame are cut too,
    others are in every piece. Without a track, or with `options.actions` "none", no action is known. `rate` is that of
    the recording, in frames per second, where it is known; of its frames only each `options.every`-th is kept.

    Raises InputError, naming `source`, for less than 2 frames and where frames and track differ in number.
    """
    held: list[Frame] = []
    count, kept, every = 0, 0, options.every
    recorded = None if track is None else len(track.reward)
    last = recorded - 1 if track is not None and recorded is not None and track.terminated[-1] else None
    if track is not None and every > 1:
        if options.actions == NONE:
            track = replace(track, action=untold(len(track.reward)).action)
        track, _ = thinned(track, every, source)
    facts = {} if rate is None else {FPS_KEY: np.array(rate / every)}
    for frame in frames:
        count += 1
        if recorded is not None and count > recorded:
            raise InputError(f"{source} has more frames than the {recorded} that actions are recorded for")
        if (count - 1) % every and count - 1 != last:
            continue
        kept += 1
        held.append(shrunk(frame, options.size, source, options.fit))
        if len(held) == options.max_frames:
            yield _piece(held, track, kept - len(held), source, options, facts)
            held = held[-1:]
    if kept < 2:
        raise InputError(f"{source} has {count} frames: an episode needs at least 2{f', {every} apart' * (every > 1)}")
    if recorded is not None and count < recorded:
        raise InputError(f"{source} has {count} frames, but actions are recorded for {recorded}")
    if len(held) > 1:
        yield _piece(held, track, kept - len(held), source, options, facts)


def _piece(
    frames: list[Frame],
    track: Track | None,
    first: int,
    source: str,
    options: ReadOptions,
    facts: Mapping[str, NDArray[Any]],
) -> Episode:
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
        extras={
            **part.extras,
            **facts,
            SOURCE: np.array(source),
            FIRST_FRAME: np.array(first * options.every, np.int64),
        },
    )


def _part(track: Track, frames: slice) -> Track:
    whole = track.reward.shape
    return Track(
        track.action[frames].copy(),
        track.reward[frames].copy(),
        track.terminated[frames],
        {key: value[frames] if value.shape[:1] == whole else value for key, value in track.extras.items()},
    )
