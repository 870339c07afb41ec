"""One `make` for every real environment: frames (h, w, 3) uint8, and actions that can be told to a world model.

Frames come from images of any kind (`envs.spaces.observations`), from an entry of a dictionary, or from what is
rendered; the other numbers travel in `info`. MiniGrid worlds are shown as the partial RGB view in front of the agent.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from lssvwm.envs.config import EnvConfig as EnvConfig
from lssvwm.envs.layouts import Layouts, is_grid
from lssvwm.envs.policy import FrameArray
from lssvwm.envs.repeating import EveryNth
from lssvwm.envs.spaces.actions import spec_of
from lssvwm.envs.spaces.masks import MASK_KEY, mask_of
from lssvwm.envs.spaces.observations import FrameObservation as FrameObservation
from lssvwm.envs.spaces.observations import RenderedFrames, name_of
from lssvwm.envs.vector import FrameVectorEnv as FrameVectorEnv
from lssvwm.envs.vector import LocalRows, ProcessRows, in_workers
from lssvwm.envs.worlds.minigrid import MiniGridFrames
from lssvwm.envs.worlds.packages import PACKAGES
from lssvwm.worldmodel.common.errors import InputError, require

FrameEnv = gym.Env[FrameArray, Any]
"""What `make` returns: observations (h, w, 3) uint8, actions as `envs.spaces.actions` knows them."""

_PROGRAMS = frozenset({"python"})
"""Options of worlds that name what is run."""
_MINIGRID = ("MiniGrid-", "BabyAI-", "lssvwm/MiniGrid-")


def make(config: EnvConfig, render_mode: str | None = None) -> FrameEnv:
    """The environment of `config` with observations Box (h, w, 3) uint8.

    Actions are Discrete(n), numbered from 0, or the environment's own where they are a Box with finite bounds,
    MultiDiscrete, MultiBinary or a flat Dict of these.

    Numeric entries of a dictionary observation besides the image are moved into `info` of `reset` and `step` as arrays
    of fixed shape; `env.get_wrapper_attr("extra_keys")` names them; texts are moved as texts. What is done to images
    that are not RGB frames is logged.

    Raises InputError for an unknown id (naming the package to import, or near ones), for observations without an image
    and for other actions; MissingExtraError when the id needs a package that is not installed.
    """
    return _build(find_spec(config.id), config, render_mode)


def trusted(config: EnvConfig, source: str) -> EnvConfig:
    """`config` as a file gave it. Raises InputError, naming `source`, where making it would run what the file names.

    That is a program, or a module that is neither of this package nor imported already.
    """
    check_programs(config, source)
    module = module_of(config.id)
    if module and module not in sys.modules and module.partition(".")[0] != "lssvwm":
        raise InputError(
            f"{source} names the environment '{config.id}', and making it would run the module '{module}': import that "
            "module first, or name the environment yourself (--env), if you trust it"
        )
    return config


def check_programs(config: EnvConfig, source: str) -> None:
    """Raise InputError, naming `source`, where the options of `config`, which a file gave, name a program to run."""
    if programs := sorted(_PROGRAMS & config.arguments().keys()):
        raise InputError(
            f"{source} names the environment '{config.id}' with the option {programs[0]}, which is a program to run: "
            "take it out of that file, and name it yourself if you trust it (LSSVWM_MINERL_PYTHON)"
        )


def module_of(env_id: str) -> str:
    """The module that `module:id` has imported, "" for none.

    Files of before have our ids behind the module `envs`, which may now be another package's.
    """
    module, _, name = env_id.rpartition(":")
    return "lssvwm" if module == "envs" and name.startswith("lssvwm/") else module


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
    gymnasium's own classes, which another `autoreset_mode` gives, these leave the dictionary `options` as it is
    (gymnasium pops `reset_mask`, so using it twice would reset every row), and `info` then still holds what the other
    rows last had (gymnasium: zeros).

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
    return functools.partial(_build, find_spec(config.id), config, render_mode)


class DiscreteActions(gym.Wrapper[Any, np.int64, Any, Any], RecordConstructorArgs):
    """Offers only `actions` of a discrete action space, renumbered 0..len-1."""

    def __init__(self, env: gym.Env[Any, Any], actions: tuple[int, ...] | None = None) -> None:
        RecordConstructorArgs.__init__(self, actions=actions)
        super().__init__(env)
        space = env.action_space
        if not isinstance(space, spaces.Discrete):
            raise InputError(
                f"{name_of(env)} has the action space {space}: actions={actions} chooses among discrete ones"
            )
        count, start = int(space.n), int(space.start)
        offered = tuple(range(count)) if actions is None else actions
        if not all(0 <= action < count for action in offered):
            raise InputError(f"actions {offered} asked of {name_of(env)}, which has actions 0..{count - 1}")
        # Any, since gymnasium types the inner action like the outer one; environments want a plain int.
        self._table: list[Any] = [start + action for action in offered]
        self.action_space = spaces.Discrete(len(offered))
        self._count, self._offered = count, list(offered)
        self._masks = False  # whether the episode has them

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As of the environment, with the action mask in the new numbering, if there is one."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._masks = MASK_KEY in info
        return observation, self._renumbered(info, ended=False)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As of the environment, with `action` and the action mask in the new numbering."""
        if isinstance(action, bool | np.bool_) or not self.action_space.contains(action):
            raise gym.error.InvalidAction(f"{name_of(self.env)} has actions 0..{len(self._table) - 1}, got {action!r}")
        observation, reward, terminated, truncated, info = self.env.step(self._table[int(action)])
        return observation, reward, terminated, truncated, self._renumbered(info, ended=terminated or truncated)

    def _renumbered(self, info: dict[str, Any], *, ended: bool) -> dict[str, Any]:
        name = name_of(self.env)
        mask = mask_of(info, self._count, name, ended=ended)
        if (mask is not None) != self._masks:
            raise InputError(f'{name} has info["{MASK_KEY}"] with some frames of an episode only: give it with all')
        if mask is None:
            return info
        return {**info, MASK_KEY: mask_of({MASK_KEY: mask[self._offered]}, len(self._offered), name, ended=ended)}


def find_spec(env_id: str) -> EnvSpec:
    """The registered environment that `id` or `module:id` names; the module is imported first.

    Raises InputError where there is no such module or id, MissingExtraError where an extra of ours would bring it.
    """
    module, name = module_of(env_id), env_id.rpartition(":")[2]
    if is_minigrid(env_id):
        require("minigrid", "minigrid", "MiniGrid environments")
    if module:
        if not all(part.isidentifier() for part in module.split(".")):
            raise InputError(f"environment id '{env_id}' names no module before the colon: write 'module:id'")
        try:
            with _on_a_display(env_id):
                importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise
            raise InputError(f"environment id '{env_id}' names the module '{module}', which cannot be found") from error
    try:
        return gym.spec(name)
    except gym.error.Error as error:
        package = next((known for known in PACKAGES if name.startswith(known.ids)), None)
        if package is not None:
            raise InputError(f"unknown environment id '{env_id}': {package.hint(name)}") from error
        near = difflib.get_close_matches(name, list(gym.registry), n=3, cutoff=0.5)
        hint = (
            f"did you mean {', '.join(near)}?" if near else "write 'module:id' to import the module that registers it"
        )
        raise InputError(f"unknown environment id '{env_id}': {hint}") from error


@contextlib.contextmanager
def _on_a_display(env_id: str) -> Iterator[None]:
    """Say what to do where pyglet finds no screen, which it looks for when it is imported or when a world is made."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ == "NoSuchDisplayException":
            raise InputError(f"{env_id} needs a display: run the command under `xvfb-run -a`") from error
        raise


def _build(spec: EnvSpec, config: EnvConfig, render_mode: str | None) -> FrameEnv:
    options = {**config.arguments(), "disable_env_checker": True}  # the wrappers below check the spaces
    if config.from_render and render_mode not in (None, "rgb_array"):
        raise InputError(
            f"from_render shows what '{config.id}' renders as rgb_array: leave out render_mode='{render_mode}'"
        )
    if config.from_render:
        render_mode = "rgb_array"
    if render_mode is not None:
        options["render_mode"] = render_mode
    if config.max_episode_steps is not None:
        options["max_episode_steps"] = min(config.max_episode_steps, spec.max_episode_steps or config.max_episode_steps)
    if config.extra_obs and not is_minigrid(spec.id):
        options["extra_obs"] = True
    try:
        with _on_a_display(config.id):
            env: gym.Env[Any, Any] = gym.make(spec, **options)
    except TypeError as error:
        if config.extra_obs and "extra_obs" in str(error):
            raise InputError(f"{config.id} has no extra observations: set extra_obs=False") from error
        if any(f"argument '{name}'" in str(error) for name in config.arguments()):
            raise InputError(f"{config.id} cannot be made with the options {config.options}: {error}") from error
        if config.from_render and "argument 'render_mode'" in str(error):
            raise InputError(f"{config.id} renders nothing: it cannot be made with from_render") from error
        raise
    except gym.error.DependencyNotInstalled as error:
        raise InputError(f"{config.id} cannot be made: {error}") from error
    if config.layouts is not None:
        env = Layouts(env, *config.layouts)
    if is_grid(env):
        env = MiniGridFrames(env, config.extra_obs)
    if config.every > 1:
        env = EveryNth(env, config.every)
    try:
        if config.from_render:
            env = RenderedFrames(env)
        shown = FrameObservation(env, config.size, config.image_key)
        if config.actions is not None or isinstance(shown.action_space, spaces.Discrete):
            return DiscreteActions(shown, config.actions)
        spec_of(shown.action_space, name_of(env))
        return shown
    except InputError:
        env.close()
        raise
