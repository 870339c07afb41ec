"""What happened on one side since its context began, on the project's time-line; saved to learn from, or to look at."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lssvwm.envs.config import EnvConfig
from lssvwm.envs.play.context import PlayContext
from lssvwm.envs.play.real_side import RealSide
from lssvwm.envs.policy import FrameArray
from lssvwm.envs.recording.provenance import SEED_KEY, Source, check_same_world, listed, told
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import NO_ACTION, Clips, Episode, EpisodeStore
from lssvwm.worldmodel.episodes.data import FPS_KEY
from lssvwm.worldmodel.reporting.video import Panel, marked, montage, write_mp4
from lssvwm.worldmodel.told import ToldPart, told_apart

LONGEST = 20_000
"""Frames that are kept, at most."""
DREAMT_KEY = "dreamt_from"
"""Extra of a saved dream: the first frame that is not real."""


class Trajectory:
    """Frames, and the actions and rewards that came with them; the first `given` are those of the context.

    `told` is what the world tells of its goal, as `info` of one row: that of the context's last frame throughout.
    """

    def __init__(self, context: Clips, parts: Sequence[ToldPart] = ()) -> None:
        self.frames: list[FrameArray] = list(context.frames[0].numpy())
        self.actions: list[int] = context.actions[0].tolist()
        self.rewards: list[float] = context.rewards[0].tolist()
        self.told = {} if context.told is None else told_apart(context.told[0, -1:].numpy(), parts)
        self.given = len(self.frames)
        self.terminated = self.truncated = False

    def __len__(self) -> int:
        return len(self.frames)

    def add(self, frame: FrameArray, action: int, reward: float, terminated: bool, truncated: bool) -> None:
        """Note one step."""
        self.frames.append(frame)
        self.actions.append(action)
        self.rewards.append(reward)
        self.terminated, self.truncated = terminated, truncated

    @property
    def ended(self) -> bool:
        """Whether it goes no further: the world said so, or `LONGEST` frames are kept."""
        return self.terminated or self.truncated or len(self) >= LONGEST

    @property
    def total(self) -> float:
        """Rewards since the context."""
        return sum(self.rewards[self.given :])

    def cut(self, length: int) -> None:
        """Forget what came after the first `length` frames."""
        for part in (self.frames, self.actions, self.rewards):
            del part[length:]
        self.terminated = self.truncated = False

    def episode(self, extras: Mapping[str, NDArray[Any]]) -> Episode:
        """All of it as an episode; one that did not end was truncated. Raises InputError for a single frame."""
        if len(self) < 2:
            raise InputError("there is one frame only: play a step before saving")
        last = np.arange(len(self)) == len(self) - 1
        return Episode(
            image=np.stack(self.frames),
            action=np.array([NO_ACTION, *self.actions[1:]], np.int64),
            reward=np.array([0.0, *self.rewards[1:]], np.float32),
            terminated=last & self.terminated,
            truncated=last & (not self.terminated),
            extras=dict(extras),
        )


class ByHand:
    """Who played; its name is written into episodes as the policy's."""


def save_episodes(
    out: Path,
    context: PlayContext,
    dream: Trajectory,
    real: Trajectory | None,
    side: RealSide | None,
    fps: float | None,
    world: EnvConfig | None,
) -> str:
    """Append the dream to the store `out/dream`, and what really happened to `out/real`.

    `fps` and `world` are of the dreamt world, frames per second and which it is, where that is known; the real one
    tells its own.
    Raises InputError where a store has episodes of another world.
    """
    where = {"episode": context.episode, "frames": context.frames}
    extras = {DREAMT_KEY: np.array(dream.given, np.int64), "past": np.array(json.dumps(where)), **_rate(fps)}
    episodes = [(out / "dream", dream.episode(extras), world)]
    if real is not None and side is not None and len(real) > 1:
        seed = context.number if context.seed is None else context.seed
        episode = real.episode({SEED_KEY: np.array(seed, np.int64), **_rate(side.fps)})
        episodes.append((out / "real", episode, side.config))
    checked = []  # all of them, before the first is written
    for folder, episode, config in episodes:
        store = EpisodeStore(folder, create=True)
        if config is not None:
            source = Source.of(config, ByHand())
            check_same_world(listed(store), source, store, range(0))
            episode = told(episode, source)
        checked.append((store, episode))
    saved = [store.append(episode) for store, episode in checked]
    return f"Saved {' and '.join(map(str, saved))}"


def _rate(fps: float | None) -> dict[str, NDArray[Any]]:
    return {} if fps is None else {FPS_KEY: np.array(float(fps))}


def save_video(out: Path, dream: Trajectory, real: Trajectory | None, fps: float) -> str:
    """Write both sides beside each other; frames of the context have a border."""
    sides = {"real": real, "dream": dream}
    panels = [
        Panel(label, marked(np.stack(side.frames), side.given if label == "dream" else len(side)))
        for label, side in sides.items()
        if side is not None
    ]
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**9:09d}.mp4"
    write_mp4(path, montage(panels), fps)
    return f"Saved {path}"
