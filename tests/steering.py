"""A tiny world for every kind of action: a point in the unit square, shown as a colour, wants to be at its target."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from lssvwm.envs.factory import EnvConfig

STEPS = 10
TARGET = np.array([0.75, 0.35])
SPACES: dict[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(4),
    "box": spaces.Box(np.float32([-0.3, -0.2]), np.float32([0.2, 0.3])),
    "tall": spaces.Box(-0.1, 0.3, (2, 1), np.float64),
    "choices": spaces.MultiDiscrete([3, 5]),
    "bits": spaces.MultiBinary(4),
    "dict": spaces.Dict(
        {"camera": spaces.Box(-0.3, 0.3, (2,)), "gear": spaces.Discrete(3), "keys": spaces.MultiBinary(2)}
    ),
}


def moved(kind: str, action: Any) -> NDArray[np.float64]:
    """How far an action moves the point, (2,)."""
    if kind == "discrete":
        return 0.2 * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])[int(action)]
    if kind in ("box", "tall"):
        return np.asarray(action, np.float64).ravel()
    if kind == "choices":
        return np.array([0.2 * (action[0] - 1), 0.1 * (action[1] - 2)])
    if kind == "bits":
        return np.array([0.2, 0.1]) * (action[:2].astype(float) - action[2:])
    return action["camera"] * action["gear"] * (1 - action["keys"])


class Steering(gym.Env[Any, Any]):
    """Reward 1 less twice the distance to the target, along both axes; truncated after `STEPS` steps."""

    def __init__(self, kind: str = "box", size: int = 8) -> None:
        self.kind, self.shape = kind, (2 * size, size, 3)
        self.observation_space = spaces.Box(0, 255, self.shape, np.uint8)
        self.action_space = SPACES[kind]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.point, self.steps = self.np_random.random(2), 0
        return self._frame(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.point = np.clip(self.point + moved(self.kind, action), 0, 1)
        self.steps += 1
        reward = 1 - 2 * float(np.abs(self.point - TARGET).sum())
        return self._frame(), reward, False, self.steps == STEPS, {}

    def _frame(self) -> NDArray[np.uint8]:
        return np.broadcast_to(np.append(255 * self.point, 128), self.shape).astype(np.uint8)


def steering(kind: str = "box") -> EnvConfig:
    return EnvConfig("steering:Steering-v0", options=f'{{"kind": "{kind}"}}')


gym.register("Steering-v0", Steering, kwargs={})
