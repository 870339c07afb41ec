"""What an environment shows and takes, found by making it once."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import gymnasium as gym

from envs.factory import EnvConfig, make


@dataclass(frozen=True)
class Probe:
    """What an environment shows and takes."""

    frame: tuple[int, int]
    num_actions: int


@functools.cache
def probe(config: EnvConfig) -> Probe:
    """Make the environment once and look."""
    env = make(config)
    try:
        height, width, _ = env.observation_space.shape or ()
        assert isinstance(env.action_space, gym.spaces.Discrete)
        return Probe((height, width), int(env.action_space.n))
    finally:
        env.close()
