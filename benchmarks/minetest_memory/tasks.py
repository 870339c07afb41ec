"""The memory tasks: what is played there, and what is asked of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lssvwm.agents.policies.minetest import Onlooker, Returner
from lssvwm.envs.factory import EnvConfig
from lssvwm.envs.minecraft.actions import action_set
from lssvwm.envs.policy import Policy
from lssvwm.envs.recording.recorder import record
from lssvwm.worldmodel import EpisodeStore

SIZE, STEPS = 32, 96
"""Side of the frames in pixels, and steps of an episode."""
POSE, POSE_SIZE = ("agent_pos", "agent_dir"), 6
"""Says where the player is and where it looks: what the models are told, and which views are the same."""
CONTEXT = 32
OUT = (12, 24)
"""Steps that Retrace is walked out, at least and at most: way and return fit into a clip."""


@dataclass(frozen=True)
class MemoryTask:
    """A world, who plays it, and how many frames after the turning point are asked for."""

    id: str
    actions: str
    player: Callable[[int], Policy]
    horizon: int

    @property
    def env(self) -> EnvConfig:
        return EnvConfig(self.id, size=SIZE, extra_obs=True, max_episode_steps=STEPS)


TASKS: Mapping[str, MemoryTask] = {
    "LookAway": MemoryTask("lssvwm/Minetest-LookAway-v0", "turns", Onlooker, 16),
    "Retrace": MemoryTask("lssvwm/Minetest-Retrace-v0", "walk", functools.partial(Returner, steps=OUT), 24),
}


def record_episodes(folder: Path, task: MemoryTask, episodes: int, seed: int, engines: int) -> None:
    """What is there already is not played again."""
    store = EpisodeStore(folder, create=True)
    if len(store) < episodes:
        policy = task.player(len(action_set(task.actions)))
        record(task.env, store, policy, episodes=episodes, num_envs=engines, processes=engines > 1, seed=seed)
