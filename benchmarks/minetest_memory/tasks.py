"""The memory tasks: what is played there, and what is asked of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents.minetest_policies import Onlooker
from envs.factory import EnvConfig
from envs.minecraft.actions import action_set
from envs.policy import FrameArray, IntArray, Policy
from envs.recording import record
from worldmodel import EpisodeStore

SIZE, STEPS = 32, 96
"""Side of the frames in pixels, and steps of an episode."""
POSE = ("agent_pos", "agent_dir")
"""Tells which views are the same. The models are not told it."""
CONTEXT = 32


@dataclass(frozen=True)
class MemoryTask:
    """A world, who plays it, and how many frames after the turning point are asked for."""

    id: str
    actions: str
    policy: Callable[[], Policy]
    horizon: int

    @property
    def env(self) -> EnvConfig:
        return EnvConfig(self.id, size=SIZE, extra_obs=True, max_episode_steps=STEPS)


class Stroller:
    """Plays Retrace by `stroll`."""

    def __init__(self) -> None:
        self._set = action_set("walk")
        self._plans: dict[int, Iterator[str]] = {}

    def reset(self, rows: IntArray, seeds: IntArray) -> None:
        for row, seed in zip(rows.tolist(), seeds.tolist(), strict=True):
            self._plans[row] = stroll(np.random.default_rng(seed))

    def act(self, frames: FrameArray, info: Mapping[str, Any]) -> IntArray:
        return np.array([self._set.index(next(self._plans[row])) for row in range(len(frames))], np.int64)


def stroll(random: np.random.Generator) -> Iterator[str]:
    """Actions of "walk": as `agents.minetest_policies.retrace_plan`, but out for 12 to 24 steps only."""
    yield from ["noop"] * int(random.integers(1, 9))
    steps = int(random.integers(12, 25))
    rest = ["noop"] * int(random.integers(10, 17))  # to come to a stand takes about ten
    yield from ["forward"] * steps + rest
    if random.random() < 0.5:
        yield from ["back"] * steps + rest
    else:
        turn = [str(random.choice(["left", "right"]))] * 12
        yield from turn + ["forward"] * steps + rest + turn
    yield from itertools.repeat("noop")


TASKS: Mapping[str, MemoryTask] = {
    "LookAway": MemoryTask("lssvwm/Minetest-LookAway-v0", "turns", lambda: Onlooker(len(action_set("turns"))), 16),
    "Retrace": MemoryTask("lssvwm/Minetest-Retrace-v0", "walk", Stroller, 24),
}


def record_episodes(folder: Path, task: MemoryTask, episodes: int, seed: int, engines: int) -> None:
    """What is there already is not played again."""
    store = EpisodeStore(folder, create=True)
    if len(store) < episodes:
        policy = task.policy()
        record(task.env, store, policy, episodes=episodes, num_envs=engines, processes=engines > 1, seed=seed)
