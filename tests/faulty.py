"""A world whose faults are chosen: slow resets, steps that fail, hang, take a second, kill the process,
end the episode with an error or show what they may not."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from lssvwm.envs.policy import FrameArray


class Faulty(gym.Env[FrameArray, np.int64]):
    """Frames tell seed and step, the reward is the action. In step 3 of `seeds`, `fault` happens; `once` if it is a
    file, which is then deleted. `close` makes the file `closed`.
    """

    def __init__(
        self,
        length: int = 6,
        reset_seconds: float = 0.0,
        fault: str = "",
        seeds: tuple[int, ...] = (),
        once: str = "",
        make_seconds: float = 0.0,
        closed: str = "",
    ) -> None:
        time.sleep(make_seconds)
        self.closed = closed
        self.length, self.reset_seconds, self.fault, self.seeds, self.once = length, reset_seconds, fault, seeds, once
        self.observation_space = spaces.Box(0, 255, (8, 8, 3), np.uint8)
        self.action_space = spaces.Discrete(5)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FrameArray, dict[str, Any]]:
        super().reset(seed=seed)
        time.sleep(self.reset_seconds)
        self.seed, self.at = seed, 0
        return self._frame(), {}

    def step(self, action: np.int64) -> tuple[FrameArray, float, bool, bool, dict[str, Any]]:
        self.at += 1
        frame, reward = self._frame(), float(action)
        if self.at == 3 and self.seed in self.seeds and (not self.once or Path(self.once).exists()):
            if self.once:
                Path(self.once).unlink()
            if self.fault == "raise":
                raise RuntimeError("out of marbles")
            if self.fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "hang":
                time.sleep(1000)
            if self.fault == "error":
                return np.full((8, 8, 3), 0, np.uint8), 0.0, False, True, {"error": "lost its engine"}
            if self.fault == "slow":
                time.sleep(1)
            reward = float("nan") if self.fault == "nan" else reward
            frame = frame[:4] if self.fault == "shape" else frame
        return frame, reward, self.at == self.length, False, {}

    def close(self) -> None:
        if self.closed:
            Path(self.closed).touch()

    def _frame(self) -> FrameArray:
        return np.full((8, 8, 3), ((self.seed or 0) * 16 + self.at % 16) % 256, np.uint8)


gym.register("Faulty-v0", entry_point="faulty:Faulty")
gym.register("Faulty-Other-v0", entry_point="faulty:Faulty")
