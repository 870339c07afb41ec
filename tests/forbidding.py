"""A world that raises where an action is done that its mask forbids."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from lssvwm.envs.factory import EnvConfig
from lssvwm.envs.policy import FrameArray

COUNT = 4
FORBIDDING = EnvConfig("forbidding:Forbidding-v0")
OBSERVED = EnvConfig("forbidding:Observed-v0")


def forbidding(fault: str) -> EnvConfig:
    """Its masks have this fault, see `Forbidding`."""
    return EnvConfig(FORBIDDING.id, options=f'{{"fault": "{fault}"}}')


class Forbidding(gym.Env[FrameArray, np.int64]):
    """Shows how many steps are left, of 3 to 6; one to four actions, drawn anew, are allowed. Nothing is at the end."""

    observation_space = gym.spaces.Box(0, 255, (16, 8, 3), np.uint8)
    action_space = gym.spaces.Discrete(COUNT, start=5)

    def __init__(self, fault: str = "") -> None:
        self.fault = fault

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FrameArray, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(3, 7))
        self.draw()
        return self.frame(), {} if self.fault in ("later", "unsaid") else self.info()

    def step(self, action: Any) -> tuple[FrameArray, float, bool, bool, dict[str, Any]]:
        number = int(action) - 5
        if not self.mask[number] and self.fault in ("", "unsaid"):
            raise AssertionError(f"{number} is forbidden by {self.mask}")
        self.left -= 1
        self.draw()
        return (
            self.frame(),
            float(number == 0),
            self.left == 0,
            False,
            {} if self.fault in ("first", "unsaid") else self.info(),
        )

    def draw(self) -> None:
        allowed = self.np_random.permutation(COUNT)[: int(self.np_random.integers(1, COUNT + 1))]
        self.mask = np.isin(np.arange(COUNT), allowed) & (self.left > 0)

    def info(self) -> dict[str, Any]:
        masks: dict[str, Any] = {
            "nothing": np.zeros(COUNT, np.int8),
            "shape": np.ones(COUNT + 1, np.int8),
            "values": np.full(COUNT, 2),
            "text": np.array(["yes"] * COUNT),
        }
        return {"action_mask": masks.get(self.fault, self.mask)}

    def frame(self) -> FrameArray:
        return np.full((16, 8, 3), 40 * self.left, np.uint8)


class Observed(gym.ObservationWrapper[Any, np.int64, FrameArray]):
    """The same with its mask in the observation, as board games have it."""

    def __init__(self) -> None:
        super().__init__(Forbidding("unsaid"))
        mask = gym.spaces.Box(0, 1, (COUNT,), np.int8)
        self.observation_space = gym.spaces.Dict({"image": Forbidding.observation_space, "action_mask": mask})

    def observation(self, observation: FrameArray) -> dict[str, Any]:
        return {"image": observation, "action_mask": self.env.unwrapped.mask.astype(np.int8)}  # type: ignore[attr-defined]


gym.register("Forbidding-v0", Forbidding)
gym.register("Observed-v0", Observed)
