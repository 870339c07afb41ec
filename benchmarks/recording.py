"""Steps per second of a recording whose resets are slow: how far it stays behind what its processes could do.

python -m benchmarks.recording --processes 1 2 8
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import tyro
from gymnasium import spaces

from lssvwm.envs.factory import EnvConfig
from lssvwm.envs.policy import FrameArray, IntArray
from lssvwm.envs.recording.recorder import record
from lssvwm.worldmodel.episodes import EpisodeStore

STEP, RESET = 0.01, 1.0  # seconds
SHORTEST, LONGEST = 50, 150  # steps of an episode


class Slow(gym.Env[FrameArray, np.int64]):
    """Steps of 10 ms, resets of a second, episodes of 50 to 150 steps; frames of noise, which compress badly."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
        self.action_space = spaces.Discrete(3)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FrameArray, dict[str, Any]]:
        """Wait for a second."""
        super().reset(seed=seed)
        time.sleep(RESET)
        self.left = int(self.np_random.integers(SHORTEST, LONGEST, endpoint=True))
        return self._frame(), {}

    def step(self, action: np.int64) -> tuple[FrameArray, float, bool, bool, dict[str, Any]]:
        """Wait for 10 ms."""
        time.sleep(STEP)
        self.left -= 1
        return self._frame(), 0.0, self.left == 0, False, {}

    def _frame(self) -> FrameArray:
        return self.np_random.integers(0, 64, (64, 64, 3), np.uint8)


class Still:
    """Always action 0."""

    def reset(self, rows: IntArray, seeds: IntArray) -> None:
        """Nothing to do."""

    def act(self, frames: FrameArray, info: Mapping[str, Any]) -> IntArray:
        """Zeros."""
        return np.zeros(len(frames), np.int64)


if "Slow-v0" not in gym.registry:  # this file is run and imported
    gym.register("Slow-v0", entry_point="benchmarks.recording:Slow")


def main(processes: tuple[int, ...] = (1, 2, 8), episodes: int = 6) -> None:
    """`episodes` for each process. The ideal is that no process ever waits for another."""
    steps = (SHORTEST + LONGEST) / 2
    alone = steps / (steps * STEP + RESET)
    for count in processes:
        with tempfile.TemporaryDirectory() as folder:
            store = EpisodeStore(folder, create=True)
            config = EnvConfig("benchmarks.recording:Slow-v0")
            done = record(config, store, Still(), episodes=episodes * count, num_envs=count, seed=0, progress=False)
        ideal = count * alone
        share = done.steps_per_second / ideal
        print(f"{count} processes: {done.steps_per_second:5.1f} steps/s of {ideal:5.1f} possible ({share:.0%})")


if __name__ == "__main__":
    tyro.cli(main)
