"""Which real environment, and what it shows and takes, found by making it once."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import numpy as np

from lssvwm.envs.config import EnvConfig
from lssvwm.envs.factory import make
from lssvwm.envs.spaces.actions import spec_of
from lssvwm.worldmodel.actions import ActionSpec


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
