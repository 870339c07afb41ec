"""Which frames of a continuation show a view that was seen before, how long ago, and which clips ask for that."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.evaluation import Windows

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

NEAR, ASKEW = 0.1, np.deg2rad(1.0)
"""Nodes and radians within which two poses show the same view; a walk makes 0.2 nodes per step."""
NOOP = 0
"""The action that stays as it is, in both worlds."""


class Bands(NamedTuple):
    """Which frames (clips, horizon) were last seen `beyond` the reach of the window, `within` it, or `never`."""

    beyond: BoolArray
    within: BoolArray
    never: BoolArray


def gaps(pose: FloatArray, context: int) -> IntArray:
    """How many frames ago each frame's view was last seen among the first `context` frames, 0 for never.

    What comes after the context is imagined, so it shows nobody what the world is like.

    pose: (clips, T, 6) position in nodes and the unit vector of the view, as `agent_pos` and `agent_dir`. Returns
    (clips, T - context).
    """
    away = pose[:, context:, None] - pose[:, None, :context]  # (clips, T - context, context, 6)
    same = (np.linalg.norm(away[..., :3], axis=-1) <= NEAR) & (np.linalg.norm(away[..., 3:], axis=-1) <= ASKEW)
    last = context - 1 - same[..., ::-1].argmax(-1)
    frame = np.arange(context, pose.shape[1])
    ago: IntArray = np.where(same.any(-1), frame - last, 0)
    return ago


def bands(ago: IntArray, reach: int) -> Bands:
    """The frames by their `gaps`."""
    return Bands(ago > reach, (ago > 0) & (ago <= reach), ago == 0)


def turning_points(actions: IntArray) -> IntArray:
    """The frames after which an episode changes its way: before an action that is not the one done last.

    Standing still, before or after, changes nothing. actions: (T,), where actions[t] led to frame t.
    """
    acted = np.flatnonzero(actions > NOOP)
    changed = actions[acted[1:]] != actions[acted[:-1]]
    points: IntArray = acted[1:][changed] - 1
    return points


def windows_of_return(store: EpisodeStore, context: int, horizon: int, reach: int) -> Windows:
    """From every episode the clip whose context ends at a turning point after which most is seen `beyond` the reach.

    Of equals the first one; episodes that have no such clip of whole length are left out. Where an episode turns but
    never comes back, its clip asks for what nobody has seen.
    """
    episodes, starts = [], []
    for index, name in enumerate(store.names):
        points = turning_points(store.read(name).action.astype(np.int64))
        begins = points + 1 - context
        begins = begins[(begins >= 0) & (begins + context + horizon <= store.lengths[index])]
        if len(begins):
            clips = store.gather(np.full(len(begins), index), begins, context + horizon)
            assert clips.pose is not None
            far = bands(gaps(clips.pose.double().numpy(), context), reach).beyond.sum(1)
            episodes.append(index)
            starts.append(int(begins[far.argmax()]))
    return Windows(np.array(episodes, np.int64), np.array(starts, np.int64), context + horizon)
