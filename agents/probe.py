"""What an environment shows and takes, found by making it once."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import gymnasium as gym
import numpy as np

from envs.factory import EnvConfig, make


@dataclass(frozen=True)
class Probe:
    """What an environment shows and takes."""

    frame: tuple[int, int]
    num_actions: int
    action_size: int = 0
    """Numbers of a continuous action, in recordings; environments here take discrete ones."""
    extras: tuple[tuple[str, int], ...] = field(default=(), compare=False)
    """Names of what else it tells, and how many numbers each has."""


@functools.cache
def probe(config: EnvConfig) -> Probe:
    """Make the environment once and look."""
    env = make(config)
    try:
        height, width, _ = env.observation_space.shape or ()
        assert isinstance(env.action_space, gym.spaces.Discrete)
        _, info = env.reset(seed=0)
        extras = tuple((key, np.size(info[key])) for key in env.get_wrapper_attr("extra_keys"))
        return Probe((height, width), int(env.action_space.n), extras=extras)
    finally:
        env.close()
