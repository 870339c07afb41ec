"""The ids of the Minetest worlds. Importing this registers them and starts nothing."""

from __future__ import annotations

import gymnasium as gym

MINETEST_STEPS = {"Treechop": 1000, "Explore": 1000, "LookAway": 128, "Retrace": 256, "Craft": 1000}
"""Steps after which an episode of each task is truncated; 20 are a second."""

for _task, _steps in MINETEST_STEPS.items():
    gym.register(
        f"lssvwm/Minetest-{_task}-v0",
        entry_point="lssvwm.envs.minecraft.minetest.env:MinetestEnv",
        max_episode_steps=_steps,
        nondeterministic=_task not in ("Craft", "LookAway"),  # docs/minetest.md: not all frames come out alike
        kwargs={"task": _task.lower()},
    )
