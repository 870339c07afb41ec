"""Two worlds that only a memory can solve, known by hand: one shows its cue first, the other before the beginning."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from lssvwm.envs.factory import EnvConfig
from lssvwm.envs.policy import FrameArray

DELAY = 3
RECALL = EnvConfig("Recall-v0")
"""The cue is a dark or a bright first frame; the action that names it earns 1 if taken as number `DELAY`."""


def grey(level: float, *lead: int) -> FrameArray:
    return np.full((*lead, 8, 8, 3), round(200 * level), np.uint8)


class Recall(gym.Env[FrameArray, np.int64]):
    observation_space = gym.spaces.Box(0, 255, (8, 8, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FrameArray, dict[str, Any]]:
        super().reset(seed=seed)
        self.cue, self.left = int(self.np_random.integers(2)), DELAY
        return grey(self.cue), {}

    def step(self, action: Any) -> tuple[FrameArray, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        over = self.left == 0
        return grey(0.5), float(over and action == self.cue), over, False, {}


gym.register("Recall-v0", entry_point="recall:Recall")


class Hinted(VectorEnv[Any, Any, Any]):
    """Episodes of one step. The context is the cue, a grey frame, and the observation, grey too; `hints` shows it."""

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012

    def __init__(self, rows: int, *, hints: bool = True, as_tensors: bool = False) -> None:
        self.num_envs, self.hints, self.as_tensors = rows, hints, as_tensors
        self.single_observation_space = gym.spaces.Box(0, 255, (8, 8, 3), np.uint8)
        self.single_action_space = gym.spaces.Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, rows)
        self.action_space = batch_space(self.single_action_space, rows)
        self.cues = np.zeros(rows, np.int64)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        mask = options["reset_mask"]
        for row in np.flatnonzero(mask):
            self.cues[row] = np.random.default_rng(seed[row]).integers(2)
        if not self.hints:
            return self.out(grey(0.5, self.num_envs)), {}
        frames = grey(0.5, self.num_envs, 3)
        frames[:, 0] = (200 * self.cues[:, None, None, None]).astype(np.uint8)
        frames[~mask] = 77  # of rows that do not begin nothing may be read
        actions = np.tile([-1, 0, 1], (self.num_envs, 1))
        lengths = np.full(self.num_envs, frames.shape[1])
        parts = {"context_frames": frames, "context_actions": actions, "context_length": lengths}
        info = {**parts, **{f"_{name}": mask for name in parts}}
        return self.out(grey(0.5, self.num_envs)), {key: self.out(value) for key, value in info.items()}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        assert isinstance(actions, torch.Tensor) == self.as_tensors
        rewards = (np.asarray(actions) == self.cues).astype(np.float64)
        over = np.ones(self.num_envs, np.bool_)
        return *map(self.out, (grey(0.5, self.num_envs), rewards, over, ~over)), {}

    def out(self, value: Any) -> Any:
        return torch.tensor(value) if self.as_tensors else value
