"""Environments: the real worlds and the learned simulator, all through Gymnasium.

Importing this package registers the ids (`gymnasium.make("lssvwm:lssvwm/MemoryMaze-9x9-v0")`) and nothing else; public
names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import gymnasium as gym

from lssvwm.worldmodel.common.lazy import lazily

if __name__ == "envs":
    from lssvwm.legacy import rename

    rename(__name__)

if TYPE_CHECKING:
    from lssvwm.envs.checker import check_vector_env as check_vector_env
    from lssvwm.envs.dream import DreamEnv as DreamEnv
    from lssvwm.envs.dream import DreamVectorEnv as DreamVectorEnv
    from lssvwm.envs.factory import EnvConfig as EnvConfig
    from lssvwm.envs.factory import make as make
    from lssvwm.envs.factory import make_vec as make_vec
    from lssvwm.envs.features import Pair as Pair
    from lssvwm.envs.features import WorldModelFeatures as WorldModelFeatures
    from lssvwm.envs.features import make_pair as make_pair
    from lssvwm.envs.memory_maze.environment import MemoryMaze as MemoryMaze
    from lssvwm.envs.policy import Policy as Policy
    from lssvwm.envs.recording.video import RecordVideo as RecordVideo

_EXPORTS = {
    "DreamEnv": "lssvwm.envs.dream",
    "DreamVectorEnv": "lssvwm.envs.dream",
    "EnvConfig": "lssvwm.envs.factory",
    "make": "lssvwm.envs.factory",
    "make_vec": "lssvwm.envs.factory",
    "Pair": "lssvwm.envs.features",
    "WorldModelFeatures": "lssvwm.envs.features",
    "make_pair": "lssvwm.envs.features",
    "MemoryMaze": "lssvwm.envs.memory_maze.environment",
    "Policy": "lssvwm.envs.policy",
    "RecordVideo": "lssvwm.envs.recording.video",
    "check_vector_env": "lssvwm.envs.checker",
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

__getattr__, __dir__ = lazily(__name__, _EXPORTS)


def _register() -> None:
    for size, steps in {"5x5": 500, "7x7": 500, "9x9": 1000, "11x11": 2000, "13x13": 3000, "15x15": 4000}.items():
        gym.register(
            f"lssvwm/MemoryMaze-{size}-v0",
            entry_point="lssvwm.envs.memory_maze.environment:MemoryMaze",
            max_episode_steps=steps,
            kwargs={"size": size},
        )
    gym.register("lssvwm/MiniGrid-Carpet-v0", entry_point="lssvwm.envs.worlds.minigrid_carpet:Carpet")
    gym.register("lssvwm/Crafter-v0", entry_point="lssvwm.envs.worlds.crafter:Crafter", max_episode_steps=10_000)
    for domain, tasks in importlib.import_module("lssvwm.envs.worlds.control").TASKS.items():
        for task in tasks:
            gym.register(
                f"lssvwm/Control-{domain}-{task}-v0",
                entry_point="lssvwm.envs.worlds.control:Control",
                kwargs={"domain": domain, "task": task},
            )
    gym.register(
        "lssvwm/Dream-v0",
        entry_point="lssvwm.envs.dream:DreamEnv",
        vector_entry_point="lssvwm.envs.dream:DreamVectorEnv",
        max_episode_steps=64,
    )
    for worlds in ("lssvwm.envs.minecraft.registration", "lssvwm.envs.minecraft.minerl.registration"):
        importlib.import_module(worlds)


if __name__ != "envs":
    _register()
