"""The Memory Maze (Pasukonis et al. 2022, https://arxiv.org/abs/2210.13383) as a Gymnasium environment.

The package `memory_maze` speaks dm_env and registers itself with the abandoned `gym`; this adapter uses only its tasks.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import functools
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from envs.policy import FrameArray
from worldmodel.errors import InputError, require

_GL_LIBRARIES = {"osmesa": "OSMesa", "egl": "EGL"}


@dataclass(frozen=True)
class _Size:
    cells: int  # side of the maze without its outer wall
    targets: int


_SIZES = {"9x9": _Size(9, 3), "11x11": _Size(11, 4), "13x13": _Size(13, 5), "15x15": _Size(15, 6)}


class MemoryMaze(gym.Env[Any, np.int64]):
    """Walk to the ball whose color frames the image, again and again: reward 1 for each touch, then a new color.

    Observation: the view of the agent, (r, r, 3) uint8 with r = `camera_resolution`. With `extra_obs` a dictionary:

        image         (r, r, 3) uint8
        agent_pos     (2,) float64   x, y in cells; the center of cell k is k + 0.5
        agent_dir     (2,) float64   unit vector of the heading
        target_color  (3,) float64   in 0..1
        target_pos    (2,) float64   the wanted ball, in cells
        target_vec    (2,) float64   the same as seen from the agent
        targets_pos   (n, 2) float64 all balls, in cells
        targets_vec   (n, 2) float64 the same as seen from the agent
        maze_layout   (c, c) uint8   [y, x] with row 0 at the bottom, 1 is free and 0 is wall

    Actions: 0 wait, 1 forward, 2 left, 3 right, 4 forward and left, 5 forward and right. 4 steps are one second.
    An episode is never terminated; it is truncated after 1000, 2000, 3000 or 4000 steps, by size. `reset(seed=)`
    rebuilds the world, so layout, colors, start and the order of targets follow from the seed alone; further resets
    without a seed continue from there, reproducibly, at about half the time.

    size: "9x9", "11x11", "13x13" or "15x15", with n = 3, 4, 5, 6 balls.
    fast_contacts: find touched balls by one array comparison in place of a slow loop; same frames, rewards and
        positions to the last bit, several times faster.

    Rendering is by MuJoCo on the CPU through OSMesa, or EGL where only that is installed; the variable MUJOCO_GL
    decides otherwise. Raises InputError for an unknown size or when no such library is installed, MissingExtraError
    when the package `memory_maze` is not.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 (gymnasium declares it so)

    def __init__(
        self,
        size: str = "9x9",
        *,
        extra_obs: bool = False,
        camera_resolution: int = 64,
        fast_contacts: bool = True,
        render_mode: str | None = None,
    ) -> None:
        if size not in _SIZES:
            raise InputError(f"Memory Maze of size '{size}' does not exist: choose one of {', '.join(_SIZES)}")
        if render_mode not in (None, "rgb_array"):
            raise InputError(f"Memory Maze has no render mode '{render_mode}': choose rgb_array or None")
        if camera_resolution < 1:
            raise InputError(
                f"Memory Maze has camera_resolution {camera_resolution}: give the side in pixels, 1 or more"
            )
        self._build = functools.partial(
            getattr(_tasks(), f"memory_maze_{size}"),
            camera_resolution=camera_resolution,
            global_observables=extra_obs,
            image_only_obs=not extra_obs,
        )
        self._extra_obs = extra_obs
        self._fast_contacts = fast_contacts
        self._world: Any = None
        self._frame: FrameArray | None = None
        self._over = True
        self.render_mode = render_mode
        self.action_space = spaces.Discrete(6)
        self.observation_space = _observation_space(_SIZES[size], camera_resolution, extra_obs)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; with `seed` in a world that follows from it alone. No options, no info."""
        super().reset(seed=seed)
        if seed is not None or self._world is None:
            self._release()
            # The layout generator takes its seed only when it is built.
            self._world = self._build(seed=int(self.np_random.integers(2**32)))
            if self._fast_contacts:
                _speed_up(self._world)
        observation = self._observation(self._world.reset().observation)
        self._over = False
        return observation, {}

    def step(self, action: np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Act for a quarter of a second."""
        if self._over:
            # dm_env would start a new episode here without a word.
            raise gym.error.ResetNeeded("this episode is over or never began: call reset() before step()")
        if not self.action_space.contains(action):
            raise gym.error.InvalidAction(f"Memory Maze has actions 0..5, got {action}")
        time_step = self._world.step(int(action))
        self._over = time_step.last()
        return self._observation(time_step.observation), float(time_step.reward), False, self._over, {}

    def render(self) -> FrameArray | None:
        """The current frame (r, r, 3), or None without a render mode."""
        if self.render_mode is None:
            return None
        if self._frame is None:
            raise gym.error.ResetNeeded("there is no frame to render yet: call reset() first")
        return self._frame.copy()

    def close(self) -> None:
        """Free the world and its OpenGL context."""
        self._release()

    def _observation(self, observation: Any) -> Any:
        if not self._extra_obs:
            self._frame = observation
            return observation
        self._frame = observation["image"]
        # A unit vector may be longer than 1 by rounding, and so outside of its space.
        return {**observation, "agent_dir": np.clip(observation["agent_dir"], -1.0, 1.0)}

    def _release(self) -> None:
        if self._world is not None:
            self._world.close()
        self._world = None
        self._over = True


def _observation_space(size: _Size, resolution: int, extra_obs: bool) -> spaces.Space[Any]:
    image = spaces.Box(0, 255, (resolution, resolution, 3), np.uint8)
    if not extra_obs:
        return image

    def box(low: float, high: float, *shape: int) -> spaces.Box:
        return spaces.Box(low, high, shape, np.float64)

    reach = 1.5 * size.cells  # a little more than the diagonal
    return spaces.Dict(
        {
            "image": image,
            "agent_pos": box(0, size.cells, 2),
            "agent_dir": box(-1, 1, 2),
            "target_color": box(0, 1, 3),
            "target_pos": box(0, size.cells, 2),
            "target_vec": box(-reach, reach, 2),
            "targets_pos": box(0, size.cells, size.targets, 2),
            "targets_vec": box(-reach, reach, size.targets, 2),
            "maze_layout": spaces.Box(0, 1, (size.cells, size.cells), np.uint8),
        }
    )


@functools.cache
def _tasks() -> Any:
    """The module `memory_maze.tasks`, imported without `gym` and without changing Gymnasium's registry."""
    _choose_renderer()
    if importlib.util.find_spec("triton"):
        # It brings an LLVM of its own, as OSMesa does; loaded after OSMesa it crashes, and torch loads it unasked.
        importlib.import_module("triton")
    # One line on stderr for every reset, of no use to anybody.
    logging.getLogger("absl").addFilter(lambda record: "Cannot set velocity on Entity" not in record.getMessage())
    with _gymnasium_as_gym():
        return require("memory_maze.tasks", "memory-maze", "Memory Maze environments")


def _choose_renderer() -> None:
    # dm_control reads MUJOCO_GL once, when it is first imported.
    asked = os.environ.get("MUJOCO_GL")
    if asked is not None and asked not in _GL_LIBRARIES:
        return
    for name in _GL_LIBRARIES if asked is None else (asked,):
        if ctypes.util.find_library(_GL_LIBRARIES[name]):
            os.environ["MUJOCO_GL"] = name
            return
    wanted = "OSMesa or EGL, and neither" if asked is None else f"{_GL_LIBRARIES[asked]} (MUJOCO_GL={asked}), which"
    raise InputError(f"the Memory Maze renders through {wanted} is installed: apt-get install libosmesa6 (or libegl1)")


@contextlib.contextmanager
def _gymnasium_as_gym() -> Iterator[None]:
    """Let `import gym` find Gymnasium, with a `register` that does nothing; afterwards all is as before."""
    registration = ModuleType("gym.envs.registration")
    registration.register = lambda *args, **kwargs: None  # type: ignore[attr-defined]
    stand_ins = {
        "gym": gym,
        "gym.envs": gym.envs,
        "gym.envs.registration": registration,
        "gym.spaces": gym.spaces,
    }
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _speed_up(world: Any) -> None:
    """Replace the touch test of every ball of this world by an equal one.

    dm_control loops over MuJoCo's contact list, which ends each loop by a C++ exception: 0.1 ms for a single contact,
    for every ball in every physics step, about two thirds of the time of an environment step.
    """
    for ball in world.task._targets:
        ball._update_activation = functools.partial(_update_activation, ball)


def _update_activation(ball: Any, physics: Any) -> None:
    """As `TargetSphere._update_activation` for balls that anything may touch, which these are."""
    if ball._activated:
        return
    data = physics.data.ptr
    if (data.contact.geom[: data.ncon] == ball._geom_id).any():
        ball._activated = True
        physics.bind(ball._material).rgba[-1] = 0
