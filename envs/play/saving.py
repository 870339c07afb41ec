"""What was played, on disk: episodes that can be learned from, or a video to look at."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lssvwm.envs.play.beginning import Beginning
from lssvwm.envs.play.real_side import RealSide
from lssvwm.envs.play.record import Record
from lssvwm.envs.recording.provenance import SEED_KEY, Source, told
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.episodes.data import FPS_KEY
from lssvwm.worldmodel.reporting.video import Panel, marked, montage, write_mp4

DREAMT_KEY = "dreamt_from"
"""Extra of a saved dream: the first frame that is not real."""


class ByHand:
    """Who played; its name is written into episodes as the policy's."""


def save_episodes(
    out: Path,
    beginning: Beginning,
    dreamt: Record,
    happened: Record | None,
    real: RealSide | None,
    fps: float | None,
) -> str:
    """Append the dream to the store `out/dream`, and what really happened to `out/real`.

    `fps`: frames per second of the dreamt world, where it is known; the real one tells its own.
    """
    where = {"episode": beginning.episode, "frames": beginning.frames}
    extras = {DREAMT_KEY: np.array(dreamt.given, np.int64), "past": np.array(json.dumps(where)), **_rate(fps)}
    saved = [EpisodeStore(out / "dream", create=True).append(dreamt.episode(extras))]
    if happened is not None and real is not None and len(happened) > 1:
        seed = beginning.number if beginning.seed is None else beginning.seed
        episode = happened.episode({SEED_KEY: np.array(seed, np.int64), **_rate(real.fps)})
        saved.append(EpisodeStore(out / "real", create=True).append(told(episode, Source.of(real.config, ByHand()))))
    return f"Saved {' and '.join(map(str, saved))}"


def _rate(fps: float | None) -> dict[str, NDArray[Any]]:
    return {} if fps is None else {FPS_KEY: np.array(float(fps))}


def save_video(out: Path, dreamt: Record, happened: Record | None, fps: float) -> str:
    """Write both sides beside each other; frames of the past have a border."""
    sides = {"real": happened, "dream": dreamt}
    panels = [
        Panel(label, marked(np.stack(side.frames), side.given if label == "dream" else len(side)))
        for label, side in sides.items()
        if side is not None
    ]
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**9:09d}.mp4"
    write_mp4(path, montage(panels), fps)
    return f"Saved {path}"
