"""Videos of single environments through PyAV; Gymnasium's own recorder asks for moviepy, which pins an old Pillow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from lssvwm.worldmodel.common.errors import InputError, require
from lssvwm.worldmodel.reporting.video import write_mp4

__all__ = ["RecordVideo"]


class RecordVideo(gym.Wrapper[Any, Any, Any, Any]):
    """Writes `FOLDER/PREFIX-episode-N.mp4` for every episode N, from 0, of which `episode_trigger(N)` is true.

    An episode is everything from one `reset` to the next, or to `close`. By default those are recorded that Gymnasium's
    `RecordVideo` records: 0, 1, 8, 27, ..., 1000, and then every thousandth. `fps` is the environment's `render_fps`.

    Raises InputError for an environment that does not render frames (`render_mode="rgb_array"`) or names no rate,
    MissingExtraError without the extra `video`.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        video_folder: str | Path,
        episode_trigger: Callable[[int], bool] | None = None,
        *,
        name_prefix: str = "rl-video",
        fps: float | None = None,
    ) -> None:
        super().__init__(env)
        require("av", "video", "mp4 videos")
        if env.render_mode != "rgb_array":
            raise InputError(f"{env} renders {env.render_mode!r}: make it with render_mode='rgb_array' to record it")
        rate = fps or env.metadata.get("render_fps")
        if rate is None:
            raise InputError(f"{env} names no frames per second: give fps=")
        self.folder, self.prefix, self.fps = Path(video_folder), name_prefix, float(rate)
        self._wanted = episode_trigger or capped_cubic
        self._episode = -1
        self._frames: list[np.ndarray[Any, np.dtype[np.uint8]]] = []
        self.folder.mkdir(parents=True, exist_ok=True)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Write the episode before, and begin the next."""
        self._write()
        observation, info = self.env.reset(seed=seed, options=options)
        self._episode += 1
        self._see()
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step, and keep the frame."""
        stepped = self.env.step(action)
        self._see()
        return stepped

    def close(self) -> None:
        """Write the episode that was not ended by a reset, and close the environment."""
        self._write()
        self.env.close()

    def _see(self) -> None:
        if self._wanted(self._episode):
            self._frames.append(np.array(self.env.render(), np.uint8))

    def _write(self) -> None:
        if self._frames:
            write_mp4(self.folder / f"{self.prefix}-episode-{self._episode}.mp4", np.stack(self._frames), self.fps)
            self._frames = []


def capped_cubic(episode: int) -> bool:
    """Whether an episode is the cube of a number up to 1000, or a multiple of 1000 from there on."""
    return round(episode ** (1 / 3)) ** 3 == episode if episode < 1000 else episode % 1000 == 0
