"""Worlds of the Minetest engine as a Gymnasium environment. Minetest is not Minecraft: docs/minetest.md has both."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from lssvwm.envs.minecraft.actions import CRAFTS, action_set, dict_action_space, full_action
from lssvwm.envs.minecraft.minetest.config import EngineConfig
from lssvwm.envs.minecraft.minetest.engine import Engine, EngineError, Tick
from lssvwm.envs.minecraft.minetest.tasks import RECIPES, find_task, place_space
from lssvwm.envs.policy import FrameArray
from lssvwm.worldmodel.common.errors import InputError


class MinetestEnv(gym.Env[Any, Any]):
    """One task in a voxel world, seen through the player's eyes, 20 steps a second of its own time.

    Observation: the frame, (height, width, 3) uint8. With `extra_obs` a dictionary:

        image        (height, width, 3) uint8
        agent_pos    (3,) float64   x, y, z of the feet in nodes, y is up
        agent_dir    (3,) float64   unit vector of the view
        inventory    (n,) int64     how many of each of the task's items (`TaskKind.items`), where it has any
        ...                         the extras of the task, see `envs.minecraft.minetest.tasks`

    Actions: Discrete over `action_set(actions)`, or with `actions="dict"` MineRL's dictionary (`dict_action_space`),
    in Craft with `craft` besides: 0 for nothing, k for the k-th of `CRAFTS`. The world has no use for ESC, inventory,
    drop, pickItem and swapHands, and ignores them.

    Start, scene and trees of an episode follow from the seed of `reset`. An engine that crashes or hangs ends the
    episode: truncated, reward 0, the frame before, and the reason as `info["error"]`; the next `reset` starts another.

    task: "treechop", "explore", "lookaway", "retrace" or "craft". size: side of the frame in pixels, or (width,
    height). actions: an action set, "dict", or None for the task's own. world_seed: of the terrain. engine: all other
    settings of the engine.

    Raises InputError for an unknown task, action set or render mode; at the first `reset`, when something that the
    engine needs is not installed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 (gymnasium declares it so)

    def __init__(
        self,
        task: str = "treechop",
        *,
        size: int | tuple[int, int] = 64,
        actions: str | None = None,
        world_seed: int = 0,
        extra_obs: bool = False,
        engine: EngineConfig | None = None,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise InputError(f"Minetest has no render mode '{render_mode}': choose rgb_array or None")
        width, height = (size, size) if isinstance(size, int) else size
        self._config = replace(engine or EngineConfig(), width=width, height=height, seed=world_seed)
        self._kind = find_task(task)
        self._name, self._task = task, self._kind.create()
        self._extra_obs = extra_obs
        self._engine: Engine | None = None
        self._last: Any = None
        self._over = True
        self.render_mode = render_mode
        actions = actions or self._kind.actions
        self._set = None if actions == "dict" else action_set(actions)
        if self._set is None:
            crafts = [("craft", spaces.Discrete(len(CRAFTS) + 1))] if task == "craft" else []
            self.action_space = spaces.Dict(OrderedDict([*dict_action_space().spaces.items(), *crafts]))
        else:
            if task != "craft" and any("craft" in action for action in self._set.actions):
                raise InputError(f"the task '{task}' crafts nothing: choose another action set than '{actions}'")
            self.action_space = spaces.Discrete(len(self._set))
        self.observation_space = self._observation_space()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode. No options, no info. The first one starts the engine, which takes seconds.

        An engine that fails is restarted, with a RuntimeWarning. Raises EngineError when that fails too.
        """
        super().reset(seed=seed)
        episode = int(self.np_random.integers(2**31))
        try:
            tick = self._start(episode)
        except EngineError as error:
            warnings.warn(f"Minetest is restarted: {error}", RuntimeWarning, stacklevel=2)
            self.close()
            tick = self._start(episode)
        self._task.begin(tick.state)
        self._last = self._observe(tick)
        self._over = False
        return deepcopy(self._last), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Act for one step of the engine, a twentieth of a second."""
        if self._over or self._engine is None:
            raise gym.error.ResetNeeded("this episode is over or never began: call reset() before step()")
        pressed = self._pressed(action)
        craft = pressed.pop("craft", None)
        try:
            if craft is not None:
                self._engine.command("craft", grid=list(RECIPES[craft]))
            tick = self._engine.step(pressed)
        except EngineError as error:
            self.close()
            return deepcopy(self._last), 0.0, False, True, {"error": str(error)}
        outcome = self._task.advance(tick.state)
        self._over = outcome.terminated
        self._last = self._observe(tick)
        return deepcopy(self._last), outcome.reward, outcome.terminated, False, {}

    def render(self) -> FrameArray | None:
        """The current frame (height, width, 3), or None without a render mode."""
        if self.render_mode is None:
            return None
        if self._last is None:
            raise gym.error.ResetNeeded("there is no frame to render yet: call reset() first")
        frame: FrameArray = self._last["image"] if self._extra_obs else self._last
        return frame.copy()

    def close(self) -> None:
        """Stop the engine."""
        self._over = True
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _start(self, episode: int) -> Tick:
        if self._engine is None:
            self._engine = Engine(self._config)
        self._engine.command("reset", task=self._name, seed=episode)
        self._engine.command("begin")
        return self._engine.step({})

    def _pressed(self, action: Any) -> dict[str, Any]:
        if not self.action_space.contains(action):
            raise gym.error.InvalidAction(f"Minetest's {self._name} has the actions {self.action_space}, got {action}")
        if self._set is not None:
            return dict(self._set[int(action)])
        pressed: dict[str, Any] = full_action({key: value for key, value in action.items() if key != "craft"})
        if action.get("craft", 0):
            pressed["craft"] = CRAFTS[int(action["craft"]) - 1]
        return pressed

    def _observe(self, tick: Tick) -> Any:
        if not self._extra_obs:
            return tick.frame
        state = tick.state
        yaw, pitch = np.deg2rad([state["yaw"], state["pitch"]])
        observation: dict[str, Any] = {
            "image": tick.frame,
            "agent_pos": np.array(state["pos"], np.float64),
            "agent_dir": np.array([np.sin(yaw) * np.cos(pitch), -np.sin(pitch), np.cos(yaw) * np.cos(pitch)]),
            **{key: _as_entry(value) for key, value in self._task.observe(state).items()},
        }
        if self._kind.items:
            observation["inventory"] = np.array(
                [state["inventory"].get(item, 0) for item in self._kind.items], np.int64
            )
        return observation

    def _observation_space(self) -> spaces.Space[Any]:
        image = spaces.Box(0, 255, (self._config.height, self._config.width, 3), np.uint8)
        if not self._extra_obs:
            return image
        entries: Mapping[str, spaces.Space[Any]] = {
            "image": image,
            "agent_pos": place_space(),
            "agent_dir": spaces.Box(-1, 1, (3,), np.float64),
            **self._task.extras,
        }
        count = len(self._kind.items)
        inventory = {"inventory": spaces.Box(0, 100_000, (count,), np.int64)} if count else {}
        return spaces.Dict({**entries, **inventory})


def _as_entry(value: Any) -> Any:
    return np.int64(value) if isinstance(value, int) else value
