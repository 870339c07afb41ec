"""One `make` for every real environment: frames (h, w, 3) uint8, and actions that can be told to a world model.

Frames come from image observations, or from the `image` entry of a dictionary; the other numbers of such a dictionary
travel in `info`. MiniGrid worlds are shown as the partial RGB view in front of the agent.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from PIL import Image

from envs.actions import spec_of
from envs.minigrid import MiniGridFrames
from envs.policy import FrameArray
from envs.rows import FrameVectorEnv as FrameVectorEnv
from envs.rows import LocalRows, ProcessRows, in_workers
from worldmodel.errors import InputError, require

FrameEnv = gym.Env[FrameArray, Any]
"""What `make` returns: observations (h, w, 3) uint8, actions as `envs.actions` knows them."""

_OURS = {"action", "reward", "terminated", "truncated", "seed", "recording", "first_frame", "goes_on", "file"}
"""Names in episode files that are not the environment's to give."""
_MINIGRID = ("MiniGrid-", "BabyAI-", "lssvwm/MiniGrid-")


@dataclass(frozen=True)
class EnvConfig:
    """Which environment, and how the model sees it. Survives JSON: `EnvConfig.from_dict(json.loads(json.dumps(...)))`.

    id: a Gymnasium id; `module:id` imports `module` first, as in `gymnasium.make`.
    size: side of the frame in pixels (>= 1); None keeps the environment's frame. The aspect ratio is not kept.
    actions: which of the environment's discrete actions 0..n-1 to offer, renumbered 0..len-1 in this order; None offers
        all.
    extra_obs: ask the environment for its extra observations (Memory Maze, MiniGrid: position, heading, layout), found
        in `info`.
    max_episode_steps: truncate after so many steps; a shorter limit of the environment's own still holds.
    options: what else the environment is made with, as a JSON object: '{"actions": "vpt"}'.
    """

    id: str
    size: int | None = None
    actions: tuple[int, ...] | None = None
    extra_obs: bool = False
    max_episode_steps: int | None = None
    options: str = ""

    def __post_init__(self) -> None:
        for name, value in (("size", self.size), ("max_episode_steps", self.max_episode_steps)):
            if value is not None and value < 1:
                raise InputError(f"EnvConfig.{name} is {value}: give a number of at least 1, or None")
        if self.actions is not None and (not self.actions or len(set(self.actions)) < len(self.actions)):
            raise InputError(
                f"EnvConfig.actions is {self.actions}: name at least one action, each once, or None for all"
            )
        self.arguments()

    def arguments(self) -> dict[str, Any]:
        """`options` as keyword arguments. Raises InputError for text that is no JSON object."""
        try:
            found = json.loads(self.options or "{}")
        except json.JSONDecodeError as error:
            raise InputError(f"EnvConfig.options is {self.options!r}: write a JSON object ({error})") from error
        if not isinstance(found, dict):
            raise InputError(f"EnvConfig.options is {self.options!r}: write a JSON object of keyword arguments")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, ready for JSON."""
        return {**asdict(self), "actions": None if self.actions is None else list(self.actions)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EnvConfig:
        """Inverse of `to_dict`. Raises InputError for keys it does not know."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown or "id" not in values:
            raise InputError(f"environment config has unknown keys {unknown} or no 'id': known keys are {known}")
        actions = values.get("actions")
        return cls(**{**values, "actions": None if actions is None else tuple(int(action) for action in actions)})


def make(config: EnvConfig, render_mode: str | None = None) -> FrameEnv:
    """The environment of `config` with observations Box (h, w, 3) uint8.

    Actions are Discrete(n), numbered from 0, or the environment's own where they are a Box with finite bounds,
    MultiDiscrete, MultiBinary or a flat Dict of these.

    Numeric entries of a dictionary observation besides `image` are moved into `info` of `reset` and `step` as arrays of
    fixed shape; `env.get_wrapper_attr("extra_keys")` names them. Text entries are left out.

    Raises InputError for an unknown id (naming near ones), for observations that are not RGB frames and for other
    actions; MissingExtraError when the id needs a package that is not installed.
    """
    return _build(_find(config.id), config, render_mode)


def trusted(config: EnvConfig, source: str) -> EnvConfig:
    """`config` as a file gave it. Raises InputError, naming `source`, where making it would import an unknown module.

    Modules of this package and those that the program has imported are known.
    """
    module = config.id.rpartition(":")[0]
    if module and module not in sys.modules and module.partition(".")[0] != "envs":
        raise InputError(
            f"{source} names the environment '{config.id}', and making it would run the module '{module}': import that "
            "module first, if you trust it"
        )
    return config


def is_minigrid(env_id: str) -> bool:
    """Whether `env_id`, with or without a module to import, names a world of MiniGrid."""
    return env_id.rpartition(":")[2].startswith(_MINIGRID)


def make_vec(
    config: EnvConfig,
    num_envs: int,
    *,
    processes: bool = True,
    render_mode: str | None = None,
    autoreset_mode: AutoresetMode = AutoresetMode.DISABLED,
) -> FrameVectorEnv:
    """`num_envs` copies of `make(config)` stepped together, never reset by themselves unless `autoreset_mode` says so.

    With `processes` and more than one copy each lives in its own process (`AsyncVectorEnv`, frames in shared memory),
    else all in this one (`SyncVectorEnv`). Finished rows must be reset before the next `step`:
    `venv.reset(seed=[...], options={"reset_mask": mask})` with `mask` bool (N,) and at least one True. Other than
    gymnasium's own classes, these leave the dictionary `options` as it is (gymnasium pops `reset_mask`, so using it
    twice would reset every row), and `info` then still holds what the other rows last had (gymnasium: zeros).

    Processes start clean, they do not fork: put what a script does under `if __name__ == "__main__":`.
    """
    if num_envs < 1:
        raise InputError(f"make_vec needs num_envs of at least 1, got {num_envs}")
    create = maker(config, render_mode)
    together = not processes or num_envs == 1
    if autoreset_mode is not AutoresetMode.DISABLED:
        if together:
            return SyncVectorEnv([create] * num_envs, autoreset_mode=autoreset_mode)
        return AsyncVectorEnv(in_workers(create, num_envs), context="forkserver", autoreset_mode=autoreset_mode)
    return LocalRows(create, num_envs) if together else ProcessRows(create, num_envs)


def maker(config: EnvConfig, render_mode: str | None = None) -> Callable[[], FrameEnv]:
    """What makes `make(config)` in another process too. Raises InputError for an unknown id."""
    # The spec travels instead of the id: what was registered in this process is known to the workers too.
    return functools.partial(_build, _find(config.id), config, render_mode)


class FrameObservation(gym.Wrapper[FrameArray, Any, Any, Any], RecordConstructorArgs):
    """Shows the frame (h, w, 3) uint8 alone, resized to `size` x `size`; other numbers move into `info`.

    `extra_keys`: the names of those numbers, sorted; those that episodes have of their own get the prefix `obs_`.
    """

    extra_keys: tuple[str, ...]

    def __init__(self, env: gym.Env[Any, Any], size: int | None = None) -> None:
        RecordConstructorArgs.__init__(self, size=size)
        super().__init__(env)
        space = env.observation_space
        self._extras: dict[str, tuple[str, np.dtype[Any]]] = {}  # the key in the observation, by name
        self._is_dict = isinstance(space, spaces.Dict)
        if isinstance(space, spaces.Dict):
            if "image" not in space.spaces:
                raise InputError(f"{_name(env)} observes a dictionary without 'image': its keys are {sorted(space)}")
            numeric = (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete)
            for key, part in sorted(space.spaces.items()):
                if key != "image" and isinstance(part, numeric):
                    assert part.dtype is not None
                    name = f"obs_{key}" if key in _OURS else key.replace("/", ".")
                    if name in self._extras:
                        raise InputError(f"{_name(env)} observes '{key}' and '{self._extras[name][0]}': rename one")
                    self._extras[name] = (key, part.dtype)
            space = space["image"]
        self.extra_keys = tuple(self._extras)
        shape = _frame_shape(space, _name(env))
        self._size = None if size is None or shape == (size, size, 3) else size
        side = shape if self._size is None else (self._size, self._size, 3)
        self.observation_space = spaces.Box(0, 255, side, np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FrameArray, dict[str, Any]]:
        """As of the environment, with the frame alone as observation."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._frame(observation), self._info(observation, info)

    def step(self, action: Any) -> tuple[FrameArray, float, bool, bool, dict[str, Any]]:
        """As of the environment, with the frame alone as observation."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._frame(observation), float(reward), terminated, truncated, self._info(observation, info)

    def _frame(self, observation: Any) -> FrameArray:
        frame: FrameArray = observation["image"] if self._is_dict else observation
        if self._size is None:
            return np.array(frame)  # environments may write the next frame into the same array
        # BOX is the mean over the area when it shrinks and the nearest pixel when it grows.
        return np.array(Image.fromarray(frame).resize((self._size, self._size), Image.Resampling.BOX))

    def _info(self, observation: Any, info: dict[str, Any]) -> dict[str, Any]:
        # Arrays even for single numbers: gymnasium's vector environments batch arrays with their dtype.
        extras = {name: np.array(observation[key], dtype) for name, (key, dtype) in self._extras.items()}
        return {**info, **extras}


class DiscreteActions(gym.Wrapper[Any, np.int64, Any, Any], RecordConstructorArgs):
    """Offers only `actions` of a discrete action space, renumbered 0..len-1."""

    def __init__(self, env: gym.Env[Any, Any], actions: tuple[int, ...] | None = None) -> None:
        RecordConstructorArgs.__init__(self, actions=actions)
        super().__init__(env)
        space = env.action_space
        if not isinstance(space, spaces.Discrete):
            raise InputError(
                f"{_name(env)} has the action space {space}: actions={actions} chooses among discrete ones"
            )
        count, start = int(space.n), int(space.start)
        offered = tuple(range(count)) if actions is None else actions
        if not all(0 <= action < count for action in offered):
            raise InputError(f"actions {offered} asked of {_name(env)}, which has actions 0..{count - 1}")
        # Any, since gymnasium types the inner action like the outer one; environments want a plain int.
        self._table: list[Any] = [start + action for action in offered]
        self.action_space = spaces.Discrete(len(offered))

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As of the environment, with `action` in the new numbering."""
        if isinstance(action, bool | np.bool_) or not self.action_space.contains(action):
            raise gym.error.InvalidAction(f"{_name(self.env)} has actions 0..{len(self._table) - 1}, got {action!r}")
        return self.env.step(self._table[int(action)])


def _find(env_id: str) -> EnvSpec:
    module, _, name = env_id.rpartition(":")
    if is_minigrid(env_id):
        require("minigrid", "minigrid", "MiniGrid environments")
    if module:
        if not all(part.isidentifier() for part in module.split(".")):
            raise InputError(f"environment id '{env_id}' names no module before the colon: write 'module:id'")
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise
            raise InputError(f"environment id '{env_id}' names the module '{module}', which cannot be found") from error
    try:
        return gym.spec(name)
    except gym.error.Error as error:
        near = difflib.get_close_matches(name, list(gym.registry), n=3, cutoff=0.5)
        hint = (
            f"did you mean {', '.join(near)}?" if near else "write 'module:id' to import the module that registers it"
        )
        raise InputError(f"unknown environment id '{env_id}': {hint}") from error


def _build(spec: EnvSpec, config: EnvConfig, render_mode: str | None) -> FrameEnv:
    options = {**config.arguments(), "disable_env_checker": True}  # the wrappers below check the spaces
    if render_mode is not None:
        options["render_mode"] = render_mode
    if config.max_episode_steps is not None:
        options["max_episode_steps"] = min(config.max_episode_steps, spec.max_episode_steps or config.max_episode_steps)
    if config.extra_obs and not is_minigrid(spec.id):
        options["extra_obs"] = True
    try:
        env: gym.Env[Any, Any] = gym.make(spec, **options)
    except TypeError as error:
        if config.extra_obs and "extra_obs" in str(error):
            raise InputError(f"{config.id} has no extra observations: set extra_obs=False") from error
        if any(f"argument '{name}'" in str(error) for name in config.arguments()):
            raise InputError(f"{config.id} cannot be made with the options {config.options}: {error}") from error
        raise
    minigrid = sys.modules.get("minigrid.minigrid_env")
    if minigrid is not None and isinstance(env.unwrapped, minigrid.MiniGridEnv):
        env = MiniGridFrames(env, config.extra_obs)
    try:
        shown = FrameObservation(env, config.size)
        if config.actions is not None or isinstance(shown.action_space, spaces.Discrete):
            return DiscreteActions(shown, config.actions)
        spec_of(shown.action_space, _name(env))
        return shown
    except InputError:
        env.close()
        raise


def _frame_shape(space: spaces.Space[Any], name: str) -> tuple[int, int, int]:
    if isinstance(space, spaces.Box) and space.dtype == np.uint8:
        if len(space.shape) == 3 and space.shape[2] == 3:
            return (space.shape[0], space.shape[1], 3)
        if len(space.shape) == 2 or (len(space.shape) == 3 and space.shape[2] == 1):
            raise InputError(f"{name} observes grey frames {space.shape}: repeat the channel to (h, w, 3) in a wrapper")
    raise InputError(f"{name} observes {space}: frames of shape (h, w, 3) and dtype uint8 are needed")


def _name(env: gym.Env[Any, Any]) -> str:
    return type(env.unwrapped).__name__ if env.spec is None else env.spec.id
