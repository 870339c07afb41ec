"""The DeepMind Control Suite (Tassa et al. 2018, https://arxiv.org/abs/1801.00690) as pixels, through Gymnasium."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from lssvwm.envs.memory_maze.environment import choose_renderer
from lssvwm.envs.policy import FrameArray
from lssvwm.worldmodel.common.errors import InputError, require

TASKS = {
    "acrobot": (
        "swingup",
        "swingup_sparse",
    ),
    "ball_in_cup": ("catch",),
    "cartpole": (
        "balance",
        "balance_sparse",
        "swingup",
        "swingup_sparse",
    ),
    "cheetah": ("run",),
    "finger": (
        "spin",
        "turn_easy",
        "turn_hard",
    ),
    "fish": (
        "upright",
        "swim",
    ),
    "hopper": (
        "stand",
        "hop",
    ),
    "humanoid": (
        "stand",
        "walk",
        "run",
    ),
    "manipulator": ("bring_ball",),
    "pendulum": ("swingup",),
    "point_mass": ("easy",),
    "reacher": (
        "easy",
        "hard",
    ),
    "swimmer": (
        "swimmer6",
        "swimmer15",
    ),
    "walker": (
        "stand",
        "walk",
        "run",
    ),
}
"""The suite's benchmark: the tasks of each domain. Each is registered as `lssvwm/Control-DOMAIN-TASK-v0`."""


class Control(gym.Env[Any, NDArray[np.float32]]):
    """A task of the suite, seen through a camera.

    Observation: (size, size, 3) uint8. With `extra_obs` a dictionary of `image` and `state`, which is the dictionary
    that the task observes, of float64. Actions: Box of float32, with the task's bounds, each held for `repeat` steps of
    the task, whose rewards (0..1 each) are added. Episodes are truncated after 1,000 of those steps, or terminated
    where the task ends them. Start and noise follow from the seed of `reset`.

    Raises InputError for an unknown task, MissingExtraError when dm_control is not installed.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (gymnasium declares it so)

    def __init__(
        self,
        domain: str,
        task: str,
        *,
        extra_obs: bool = False,
        size: int = 64,
        camera: int = 0,
        repeat: int = 2,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise InputError(f"the Control Suite has no render mode '{render_mode}': choose rgb_array or None")
        if size < 1 or repeat < 1:
            raise InputError(f"the Control Suite has size {size} and repeat {repeat}: give 1 or more")
        choose_renderer("the Control Suite")
        suite = require("dm_control.suite", "memory-maze", "the DeepMind Control Suite")
        if (domain, task) not in suite.ALL_TASKS:
            known = [other for one, other in suite.ALL_TASKS if one == domain] or sorted(
                {one for one, _ in suite.ALL_TASKS}
            )
            raise InputError(f"the Control Suite has no task {domain}-{task}: choose one of {', '.join(known)}")
        self._task = suite.load(domain, task)
        self._size, self._camera, self._repeat, self._extra_obs = size, camera, repeat, extra_obs
        self.render_mode, self._begun, self._over = render_mode, False, True
        self.metadata = {**self.metadata, "render_fps": round(1 / (self._task.control_timestep() * repeat))}
        asked = self._task.action_spec()
        self.action_space = spaces.Box(
            np.full(asked.shape, asked.minimum, np.float32), np.full(asked.shape, asked.maximum, np.float32)
        )
        image = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.observation_space: spaces.Space[Any] = image
        if extra_obs:
            state: dict[str, spaces.Space[Any]] = {
                name: spaces.Box(-math.inf, math.inf, part.shape, np.float64)
                for name, part in self._task.observation_spec().items()
            }
            self.observation_space = spaces.Dict({"image": image, "state": spaces.Dict(state)})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; with `seed` one that follows from it alone. No options, no info."""
        super().reset(seed=seed)
        self._task.task._random = np.random.RandomState(int(self.np_random.integers(2**32)))
        self._begun, self._over = True, False
        return self._observation(self._task.reset()), {}

    def step(self, action: NDArray[np.float32]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Hold `action` for `repeat` steps of the task, or to its end."""
        if self._over:
            raise gym.error.ResetNeeded("this episode is over or never began: call reset() before step()")
        if not self.action_space.contains(action):
            raise gym.error.InvalidAction(f"the Control Suite has actions {self.action_space}, got {action}")
        reward = 0.0
        for _ in range(self._repeat):
            outcome = self._task.step(action)
            reward += float(outcome.reward)
            if outcome.last():
                break
        self._over = bool(outcome.last())
        terminated = self._over and outcome.discount == 0
        return self._observation(outcome), reward, terminated, self._over and not terminated, {}

    def render(self) -> FrameArray | None:
        """The current frame (size, size, 3), or None without a render mode."""
        if self.render_mode is None:
            return None
        if not self._begun:
            raise gym.error.ResetNeeded("there is no frame to render yet: call reset() first")
        return self._frame()

    def close(self) -> None:
        """Free the simulation and its OpenGL context."""
        self._task.close()
        self._over = True

    def _frame(self) -> FrameArray:
        frame: FrameArray = self._task.physics.render(self._size, self._size, camera_id=self._camera)
        return frame.copy()  # a view from the bottom up, which torch does not take

    def _observation(self, outcome: Any) -> Any:
        if not self._extra_obs:
            return self._frame()
        state = {name: np.array(value, np.float64) for name, value in outcome.observation.items()}
        return {"image": self._frame(), "state": state}
