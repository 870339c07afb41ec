"""A tiny world in which only the goal says what is right: every frame looks alike, whatever is to be done."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from lssvwm.envs.factory import EnvConfig

COLORS = ("red", "blue", "green")
CODES = {color: np.array([number, -number]) for number, color in enumerate(COLORS)}


class Doors(gym.Env[Any, Any]):
    """Reward 1 for the door that the mission names, and the end with any; `code` tells the same in numbers.

    changing: there are two doors to open, one after the other, and what is told changes with it.
    """

    def __init__(self, changing: bool = False, size: int = 8) -> None:
        self.changing, self.shape = changing, (size, size, 3)
        self.observation_space = spaces.Dict(
            {
                "image": spaces.Box(0, 255, self.shape, np.uint8),
                "mission": spaces.Text(40),
                "code": spaces.Box(-9, 9, (2,), np.int64),
            }
        )
        self.action_space = spaces.Discrete(len(COLORS))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        # Not the first draw: a policy of the same seed would draw the same, and be right by chance every time.
        self.door, self.steps = int(self.np_random.integers(len(COLORS), size=5)[-1]), 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward, self.steps = float(action == self.door), self.steps + 1
        if self.changing:
            self.door = (self.door + 1) % len(COLORS)
        return self._seen(), reward, self.steps == 1 + self.changing, False, {}

    def _seen(self) -> dict[str, Any]:
        image: NDArray[np.uint8] = np.full(self.shape, 90 + 60 * self.steps, np.uint8)
        color = COLORS[self.door]
        return {"image": image, "mission": f"open the {color} door, now", "code": CODES[color]}


def color_of(told: Any) -> str:
    """The color that a mission or a code names."""
    return str(told).split()[2] if isinstance(told, str) else COLORS[int(told[0])]


def doors(changing: bool = False) -> EnvConfig:
    return EnvConfig("doors:Doors-v0", options=f'{{"changing": {str(changing).lower()}}}')


gym.register("Doors-v0", Doors)
