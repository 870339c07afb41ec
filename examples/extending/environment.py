"""A world of your own: any Gymnasium environment that shows an image. This one is recorded, learned and dreamt.

python examples/extending/environment.py runs/lamps
"""

import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

import train_wm


class Lamps(gym.Env[NDArray[np.uint8], np.int64]):
    """Six lamps in a row, of which one is lit. Actions light the one to its left or right; the last one pays."""

    observation_space = gym.spaces.Box(0, 255, (16, 48, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Any lamp but the last is lit."""
        super().reset(seed=seed)  # seeds self.np_random, from which all chance has to come
        self.lit = int(self.np_random.integers(5))
        return self.shown(), {}

    def step(self, action: np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Its end is `terminated`; that time is up is said by the limit below."""
        self.lit = max(0, self.lit + (1 if action else -1))
        return self.shown(), float(self.lit == 5), self.lit == 5, False, {}

    def shown(self) -> NDArray[np.uint8]:
        """The frame, (16, 48, 3)."""
        frame = np.full((16, 48, 3), 30, np.uint8)
        frame[4:12, 8 * self.lit : 8 * self.lit + 8] = 255
        return frame


gym.register("Lamps-v0", Lamps, max_episode_steps=12)  # worker processes import a module: --env my_module:Lamps-v0


if __name__ == "__main__":
    settings = ("--preset", "smoke", "--env", "Lamps-v0", "--model.patch", "8", "--model.latent-channels", "32")
    train_wm.main([*settings, "--out", *sys.argv[1:]])
    dream = gym.make("lssvwm:lssvwm/Dream-v0", checkpoint=Path(sys.argv[1]) / "world_model")
    dream.reset(seed=0)
    ended, rewards = False, []
    while not ended:
        _, reward, terminated, truncated, _ = dream.step(np.int64(1))
        ended, rewards = terminated or truncated, [*rewards, round(float(reward), 2)]
    print("rewards of a dream in which it only goes right:", rewards)
