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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from lssvwm.envs.keys import MEMORY_MAZE, to_gymnasium
from lssvwm.envs.policy import FrameArray
from lssvwm.worldmodel.common.errors import InputError, require

_SMALLEST = 64  # below, the package draws a border of no pixels, which it then paints over the whole frame
_GL_LIBRARIES = {"osmesa": "OSMesa", "egl": "EGL"}


@dataclass(frozen=True)
class _Size:
    cells: int  # side of the maze without its outer wall
    targets: int
    rooms: tuple[int, int] = (3, 5)  # their smallest and largest side


_SIZES = {
    "5x5": _Size(5, 2, rooms=(1, 3)),  # each room holds one ball, and two of 3 cells do not fit
    "7x7": _Size(7, 2),
    "9x9": _Size(9, 3),
    "11x11": _Size(11, 4),
    "13x13": _Size(13, 5),
    "15x15": _Size(15, 6),
}
_SMALL = ("5x5", "7x7")  # which the package does not publish
_SMALL_SECONDS = 125  # of their episodes; as 9x9 has half of those of 11x11


class MemoryMaze(gym.Env[Any, np.int64]):
    """Walk to the ball whose color frames the image, again and again: reward 1 for each touch, then a new color.

    Observation: the view of the agent, (r, r, 3) uint8, r = `camera_resolution` >= 64. With `extra_obs` a dictionary:

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
    An episode is never terminated; it is truncated after 500, 1000, 2000, 3000 or 4000 steps, by size. `reset(seed=)`
    rebuilds the world, so layout, colors, start and the order of targets follow from the seed alone; further resets
    without a seed continue from there, reproducibly, at about half the time.

    size: "5x5", "7x7", "9x9", "11x11", "13x13" or "15x15", with n = 2, 2, 3, 4, 5, 6 balls. The package publishes all
        from 9x9 on; the smaller ones are the same task with fewer cells (5x5 also with smaller rooms, of 1 to 3 cells
        a side), for machines that 9x9 is too much for.
    maze_seed: 0 to 2**32 - 1; walls and their colors follow from it alone, for every episode, whatever the seeds of
        `reset`, from which starts and balls follow: one of each in every room, anywhere in it.
    stock: play through dm_control, ten times slower, with the same frames, rewards and positions to the last bit.

    Rendering is by MuJoCo on the CPU through OSMesa, or EGL where only that is installed; the variable MUJOCO_GL
    decides otherwise, and LP_NUM_THREADS how many threads each process draws with (0, in the one that steps, unless
    set). Raises InputError for an unknown size, a smaller frame or when no such library is installed, MissingExtraError
    when the package `memory_maze` is not.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 (gymnasium declares it so)

    def __init__(
        self,
        size: str = "9x9",
        *,
        extra_obs: bool = False,
        camera_resolution: int = 64,
        maze_seed: int | None = None,
        stock: bool = False,
        render_mode: str | None = None,
    ) -> None:
        if size not in _SIZES:
            raise InputError(f"Memory Maze of size '{size}' does not exist: choose one of {', '.join(_SIZES)}")
        if render_mode not in (None, "rgb_array"):
            raise InputError(f"Memory Maze has no render mode '{render_mode}': choose rgb_array or None")
        if camera_resolution < _SMALLEST:
            raise InputError(
                f"Memory Maze has camera_resolution {camera_resolution}: give the side in pixels, {_SMALLEST} or more, "
                "and EnvConfig.size (--size) for smaller frames"
            )
        self.maze_seed = _maze_seed(maze_seed)
        self._build = functools.partial(
            _task(size),
            camera_resolution=camera_resolution,
            global_observables=stock and extra_obs,
            image_only_obs=not (stock and extra_obs),
        )
        simulation = importlib.import_module("lssvwm.envs.memory_maze.simulation")
        self._world: Any = simulation.StockWorld() if stock else simulation.FastWorld(camera_resolution, extra_obs)
        self._loaded = False
        self._extra_obs = extra_obs
        self._frame: FrameArray | None = None
        self._seen: Any = None
        self._over = True
        self.drawing = True
        self.render_mode = render_mode
        self.action_space = spaces.Discrete(6)
        self.observation_space = _observation_space(_SIZES[size], camera_resolution, extra_obs)

    def get_keys_to_action(self) -> dict[tuple[int, ...], int]:
        """Which keys are which action, for `gymnasium.utils.play`."""
        return to_gymnasium(MEMORY_MAZE)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; with `seed` in a world that follows from it alone. No info.

        With `options={"maze_seed": k}` that is the maze from now on.
        """
        super().reset(seed=seed)
        before, self.maze_seed = self.maze_seed, _maze_seed((options or {}).get("maze_seed", self.maze_seed))
        if seed is not None or not self._loaded or self.maze_seed != before:
            # The layout generator takes its seed only when it is built.
            episodes = int(self.np_random.integers(2**32))
            walls = episodes if self.maze_seed is None else self.maze_seed
            self._world.load(functools.partial(self._build, seed=walls))
            self._loaded = True
            if self.maze_seed is not None:
                self._world.environment._random_state = np.random.RandomState(episodes)
                _keep_walls(self._world.environment.task, self.maze_seed)
        self._seen = self._observation(self._world.reset())
        self._over = False
        return self._seen, {}

    def step(self, action: np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Act for a quarter of a second."""
        if self._over:
            # dm_env would start a new episode here without a word.
            raise gym.error.ResetNeeded("this episode is over or never began: call reset() before step()")
        if not self.action_space.contains(action):
            raise gym.error.InvalidAction(f"Memory Maze has actions 0..5, got {action}")
        outcome = self._world.step(int(action))
        self._over = outcome.over
        return self.look() if self.drawing else self._seen, outcome.reward, False, self._over, {}

    def look(self) -> Any:
        """What is seen now, after a step that was not drawn."""
        self._seen = self._observation(self._world.look())
        return self._seen

    def render(self) -> FrameArray | None:
        """The current frame (r, r, 3), or None without a render mode."""
        if self.render_mode is None:
            return None
        if self._frame is None:
            raise gym.error.ResetNeeded("there is no frame to render yet: call reset() first")
        return self._frame.copy()

    def close(self) -> None:
        """Free the world and its OpenGL context."""
        self._world.close()
        self._loaded, self._over = False, True

    def _observation(self, observation: Any) -> Any:
        # `render` shows the frame as it was, whatever is written into the observation.
        if not self._extra_obs:
            self._frame = observation.copy()
            return observation
        self._frame = observation["image"].copy()
        # A unit vector may be longer than 1 by rounding, and so outside of its space.
        return {**observation, "agent_dir": np.clip(observation["agent_dir"], -1.0, 1.0)}


def _maze_seed(given: Any) -> int | None:
    if given is None:
        return None
    whole = isinstance(given, int | np.integer) and not isinstance(given, bool)
    if not (whole and 0 <= given < 2**32):
        raise InputError(f"Memory Maze has maze_seed {given}: give an integer from 0 to 2**32 - 1, or None")
    return int(given)


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
    if sys.version_info >= (3, 13) and importlib.util.find_spec("memory_maze") is None:
        raise InputError("the Memory Maze needs labmaze, which there is for Python 3.11 and 3.12: use one of these")
    choose_renderer("the Memory Maze")
    # One line on stderr for every reset, of no use to anybody.
    logging.getLogger("absl").addFilter(lambda record: "Cannot set velocity on Entity" not in record.getMessage())
    with _gymnasium_as_gym():
        return require("memory_maze.tasks", "memory-maze", "Memory Maze environments")


def _task(size: str) -> Callable[..., Any]:
    """What builds a maze of `size`: the package's function for that, or the one that these all call."""
    tasks = _tasks()
    if size in _SMALL:
        small = _SIZES[size]
        least, most = small.rooms
        arguments = (small.cells, small.targets, _SMALL_SECONDS)
        return functools.partial(tasks._memory_maze, *arguments, room_min_size=least, room_max_size=most)
    found: Callable[..., Any] = getattr(tasks, f"memory_maze_{size}")
    return found


def choose_renderer(world: str) -> None:
    """Let MuJoCo draw on the CPU. Raises InputError, which names `world`, where no library for that is installed."""
    if importlib.util.find_spec("triton"):
        # It brings an LLVM of its own, as OSMesa does; loaded after OSMesa it crashes, and torch loads it unasked.
        importlib.import_module("triton")
    # Both are read once: by dm_control when it is imported, by Mesa when it first draws.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    asked = os.environ.get("MUJOCO_GL")
    if asked is not None and asked not in _GL_LIBRARIES:
        return
    for name in _GL_LIBRARIES if asked is None else (asked,):
        if ctypes.util.find_library(_GL_LIBRARIES[name]):
            os.environ["MUJOCO_GL"] = name
            return
    wanted = "OSMesa or EGL, and neither" if asked is None else f"{_GL_LIBRARIES[asked]} (MUJOCO_GL={asked}), which"
    raise InputError(f"{world} renders through {wanted} is installed: apt-get install libosmesa6 (or libegl1)")


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


def _keep_walls(task: Any, maze_seed: int) -> None:
    """Let every episode of `task`, built with `maze_seed`, have the walls of the first, and draw starts and balls."""
    arena = task._maze_arena
    maze, regenerate = arena.maze, arena.regenerate
    rooms: list[NDArray[np.int64]] = []
    # Each ball lies in a room of its own, and somewhere there is a cell left to start from.
    while len(rooms) < task.n_targets or max(map(len, rooms)) < 2:
        maze.regenerate()
        names = [str(name) for name in np.unique(np.asarray(maze.variations_layer)) if name not in " *."]
        free = np.isin(maze.entity_layer, (" ", "P", "G"))
        rooms = [np.argwhere(free & (maze.variations_layer == name)) for name in names]
    walls = maze.entity_layer.copy()
    walls[np.isin(walls, ("P", "G"))] = " "

    def furnish(random: np.random.RandomState) -> None:
        maze.entity_layer[...] = walls
        for cells in rooms:
            *start, ball = cells[random.choice(len(cells), min(2, len(cells)), replace=False)]
            maze.entity_layer[tuple(ball)] = "G"
            for cell in start:  # none in a room of a single cell
                maze.entity_layer[tuple(cell)] = "P"
        regenerate(np.random.RandomState(maze_seed))

    maze.regenerate = lambda: None
    arena.regenerate = furnish
