"""A dream for other libraries: each adapter imports its library when it is called, and checks the autoreset mode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gymnasium.vector import AutoresetMode, VectorEnv

from worldmodel.errors import InputError, require

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv


def for_stable_baselines(envs: VectorEnv[Any, Any, Any]) -> VecEnv:
    """A vector environment in `AutoresetMode.SAME_STEP`, numpy output, as a `VecEnv` of Stable-Baselines3.

        dreams = gym.make_vec("envs:lssvwm/Dream-v0", num_envs=16, checkpoint=..., autoreset_mode="SameStep")
        PPO("CnnPolicy", VecMonitor(for_stable_baselines(dreams))).learn(100_000)

    Stable-Baselines3 wants finished rows reset within the step, their last observation in
    `info["terminal_observation"]` and the horizon told from an end in `info["TimeLimit.truncated"]`.

    Raises InputError for another autoreset mode, MissingExtraError without Stable-Baselines3.
    """
    mode = envs.metadata.get("autoreset_mode")
    if mode is not AutoresetMode.SAME_STEP:
        raise InputError(f"Stable-Baselines3 needs autoreset_mode='SameStep', these environments have {mode}")
    require("stable_baselines3", "sb3", "Adapters for Stable-Baselines3")
    from agents.stable_baselines import GymnasiumVecEnv

    adapted: VecEnv = GymnasiumVecEnv(envs)
    return adapted
