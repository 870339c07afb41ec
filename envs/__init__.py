"""Environments: the real worlds and the learned simulator, all through Gymnasium.

Importing this package registers the ids (`gymnasium.make("envs:lssvwm/MemoryMaze-9x9-v0")`) and nothing else; public
names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import gymnasium as gym

if TYPE_CHECKING:
    from envs.checker import check_vector_env as check_vector_env
    from envs.dream import DreamEnv as DreamEnv
    from envs.dream import DreamVectorEnv as DreamVectorEnv
    from envs.factory import EnvConfig as EnvConfig
    from envs.factory import make as make
    from envs.factory import make_vec as make_vec
    from envs.features import Pair as Pair
    from envs.features import WorldModelFeatures as WorldModelFeatures
    from envs.features import make_pair as make_pair
    from envs.memory_maze import MemoryMaze as MemoryMaze
    from envs.policy import Policy as Policy
    from envs.record_video import RecordVideo as RecordVideo

_EXPORTS = {
    "DreamEnv": "envs.dream",
    "DreamVectorEnv": "envs.dream",
    "EnvConfig": "envs.factory",
    "make": "envs.factory",
    "make_vec": "envs.factory",
    "Pair": "envs.features",
    "WorldModelFeatures": "envs.features",
    "make_pair": "envs.features",
    "MemoryMaze": "envs.memory_maze",
    "Policy": "envs.policy",
    "RecordVideo": "envs.record_video",
    "check_vector_env": "envs.checker",
}

__all__ = [
    "DreamEnv",
    "DreamVectorEnv",
    "EnvConfig",
    "MemoryMaze",
    "Pair",
    "Policy",
    "RecordVideo",
    "WorldModelFeatures",
    "check_vector_env",
    "make",
    "make_pair",
    "make_vec",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'envs' has no attribute '{name}'")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])


def _register() -> None:
    for size, steps in {"7x7": 500, "9x9": 1000, "11x11": 2000, "13x13": 3000, "15x15": 4000}.items():
        gym.register(
            f"lssvwm/MemoryMaze-{size}-v0",
            entry_point="envs.memory_maze:MemoryMaze",
            max_episode_steps=steps,
            kwargs={"size": size},
        )
    gym.register("lssvwm/MiniGrid-Carpet-v0", entry_point="envs.carpet:Carpet")
    gym.register("lssvwm/Crafter-v0", entry_point="envs.crafter:Crafter", max_episode_steps=10_000)
    for domain, tasks in importlib.import_module("envs.control").TASKS.items():
        for task in tasks:
            gym.register(
                f"lssvwm/Control-{domain}-{task}-v0",
                entry_point="envs.control:Control",
                kwargs={"domain": domain, "task": task},
            )
    gym.register(
        "lssvwm/Dream-v0",
        entry_point="envs.dream:DreamEnv",
        vector_entry_point="envs.dream:DreamVectorEnv",
        max_episode_steps=64,
    )
    for worlds in ("envs.minecraft.registration", "envs.minecraft.minerl.registration"):
        importlib.import_module(worlds)


_register()
