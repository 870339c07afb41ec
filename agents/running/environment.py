"""Which real environment, and what it shows and takes, found by making it once."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, fields

import numpy as np

from lssvwm.envs.factory import EnvConfig, make
from lssvwm.envs.spaces.actions import spec_of
from lssvwm.worldmodel.actions import ActionSpec
from lssvwm.worldmodel.common.errors import InputError


@dataclass(frozen=True)
class EnvOptions:
    """Which real environment is played, and how it is seen."""

    env: str | None = "MiniGrid-MemoryS7-v0"
    """Gymnasium id of the real environment; `module:id` imports a module first. None only where nothing is played."""
    size: int | tuple[int, int] | None = None
    """Side of the frames in pixels, or their height and width; None keeps the environment's own."""
    image_key: str | None = None
    """Entry of a dictionary observation that is the image, with dots where it is nested; None finds it."""
    from_render: bool = False
    """Show what the environment renders, where what it observes is no image; recordings keep that as extras."""
    actions: tuple[int, ...] | None = None
    """Which of the environment's discrete actions to use; None uses all."""
    layouts: tuple[int, int] | None = None
    """Of a procedurally made world, the first and how many of its layouts to record; None draws from all."""
    extra_obs: bool = False
    """Ask for the environment's extra observations; the oracle needs them, recordings keep them."""
    max_episode_steps: int | None = None
    """Truncate real episodes after so many steps; None keeps the environment's own limit."""
    env_options: str = ""
    """What else the environment is made with, as a JSON object: '{"actions": "vpt"}'."""
    every: int = 1
    """Act at every n-th frame of the environment only, repeating the action and adding up the rewards."""

    @property
    def env_config(self) -> EnvConfig:
        """The real environment as the model sees it."""
        if self.env is None:
            raise InputError("no environment is named: add --env ID")
        given = {one.name: getattr(self, one.name) for one in fields(EnvConfig) if one.name not in ("id", "options")}
        return EnvConfig(self.env, options=self.env_options, **given)


@dataclass(frozen=True)
class Probe:
    """What an environment shows and takes."""

    frame: tuple[int, int]
    actions: ActionSpec
    extras: tuple[tuple[str, int], ...] = field(default=(), compare=False)
    """Names of what else it tells, and how many numbers each has."""


@functools.cache
def probe(config: EnvConfig) -> Probe:
    """Make the environment once and look."""
    env = make(config)
    try:
        height, width, _ = env.observation_space.shape or ()
        _, info = env.reset(seed=0)
        extras = tuple((key, np.size(info[key])) for key in env.get_wrapper_attr("extra_keys"))
        return Probe((height, width), spec_of(env.action_space, config.id), extras=extras)
    finally:
        env.close()
