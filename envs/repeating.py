"""Worlds at a lower rate: the agent acts at every n-th frame, and sees no others."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from lssvwm.envs.spaces.masks import MASK_KEY, mask_of
from lssvwm.envs.spaces.observations import name_of
from lssvwm.worldmodel.common.errors import InputError


@runtime_checkable
class Unseen(Protocol):
    """A world that can act without drawing what nobody will see."""

    drawing: bool
    """Whether steps draw what they lead to. Those that do not give the observation before."""

    def look(self) -> Any:
        """What is seen now."""
        ...


class EveryNth(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Repeats each action for `every` steps, or until the episode ends: rewards are summed, the last step is told.

    An action mask that forbids to repeat it further ends that too. A world that is `Unseen`, such as the Memory Maze,
    draws only the frames that are shown.

    Time limits go on counting the environment's own steps; `render_fps` is `every` times lower.
    """

    def __init__(self, env: gym.Env[Any, Any], every: int) -> None:
        RecordConstructorArgs.__init__(self, every=every)
        super().__init__(env)
        if every < 1:
            raise InputError(f"every={every}: repeat actions 1 or more times")
        self.every = every
        world = env.unwrapped
        # What wrappers make of an observation is not to be had from the world.
        same = env.observation_space == world.observation_space
        self._unseen = world if isinstance(world, Unseen) and same else None
        if fps := env.metadata.get("render_fps"):
            self.metadata = {**env.metadata, "render_fps": fps / every}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As of the environment, after `every` steps."""
        total, world = 0.0, self._unseen
        for left in reversed(range(self.every)):
            if world is not None:
                world.drawing = left == 0
            try:
                observation, reward, terminated, truncated, info = self.env.step(action)
            finally:
                if world is not None:
                    world.drawing = True
            total += float(reward)
            if terminated or truncated or self._forbidden(action, observation, info):
                break
        if left and world is not None:
            observation = world.look()
        return observation, total, terminated, truncated, info

    def _forbidden(self, action: Any, observation: Any, info: dict[str, Any]) -> bool:
        space = self.action_space
        if not isinstance(space, spaces.Discrete):
            return False
        told = observation if isinstance(observation, dict) and MASK_KEY in observation else info
        mask = mask_of(told, int(space.n), name_of(self.env))
        return mask is not None and not mask[int(action) - int(space.start)]
