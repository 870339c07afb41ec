"""The ids of the MineRL tasks. Importing this registers them and starts nothing."""

from __future__ import annotations

import gymnasium as gym

from lssvwm.envs.minecraft.minerl.ids import TASKS

for _name in TASKS:
    gym.register(
        f"lssvwm/MineRL-{_name}-v0",
        entry_point="lssvwm.envs.minecraft.minerl.env:MineRLEnv",
        kwargs={"task": _name},
        nondeterministic=True,  # Minecraft's mobs and timing do not follow from the seed
    )
