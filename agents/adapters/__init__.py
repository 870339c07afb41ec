"""A dream for other libraries: each adapter imports its library when it is called, and checks what it is given.

CleanRL's scripts need none: they take what `gymnasium.make_vec` makes, with `autoreset_mode="SameStep"`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gymnasium.vector import AutoresetMode, VectorEnv

from lssvwm.agents.adapters.needs import check
from lssvwm.worldmodel.common.errors import require

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv
    from tianshou.env import BaseVectorEnv
    from torchrl.envs import EnvBase


def for_stable_baselines(envs: VectorEnv[Any, Any, Any]) -> VecEnv:
    """A vector environment in `AutoresetMode.SAME_STEP`, numpy output, as a `VecEnv` of Stable-Baselines3.

        dreams = gym.make_vec("lssvwm:lssvwm/Dream-v0", num_envs=16, checkpoint=..., autoreset_mode="SameStep")
        PPO("CnnPolicy", VecMonitor(for_stable_baselines(dreams))).learn(100_000)

    Stable-Baselines3 wants finished rows reset within the step, their last observation in
    `info["terminal_observation"]` and the horizon told from an end in `info["TimeLimit.truncated"]`.

    Raises InputError for another autoreset mode or output, MissingExtraError without Stable-Baselines3.
    """
    check(envs, "Stable-Baselines3", AutoresetMode.SAME_STEP, "numpy")
    require("stable_baselines3", "sb3", "Adapters for Stable-Baselines3")
    from lssvwm.agents.adapters.stable_baselines import GymnasiumVecEnv

    adapted: VecEnv = GymnasiumVecEnv(envs)
    return adapted


def for_torchrl(envs: VectorEnv[Any, Any, Any], *, masks: bool = False) -> EnvBase:
    """A vector environment in `AutoresetMode.DISABLED`, torch output, as an `EnvBase` of TorchRL on its device.

        dreams = gym.make_vec("lssvwm:lssvwm/Dream-v0", num_envs=64, checkpoint=..., device="cuda",
                              autoreset_mode="Disabled", output="torch")
        Collector(for_torchrl(dreams), policy, frames_per_batch=1024, total_frames=100_000)

    `batch_size` is (N,). Keys as TorchRL's own wrappers name them: `pixels` for frames (N, h, w, 3) uint8,
    `observation` for features (N, F) float32, the keys of a dictionary as they are; `action` as
    the space has it, so (N,) int64 where it is Discrete; `reward` (N, 1) float32. TorchRL resets finished rows through
    `_reset`, or leaves them alone through `_step`. With `masks`, which real worlds may give in `info["action_mask"]`,
    `action_mask` (N, n) bool stands beside them, where TorchRL's transform `ActionMask` looks for it.

    Raises InputError for another autoreset mode or output, and for `masks` where there are none; MissingExtraError
    without TorchRL.
    """
    check(envs, "TorchRL", AutoresetMode.DISABLED, "torch")
    require("torchrl", "torchrl", "Adapters for TorchRL")
    from lssvwm.agents.adapters.torchrl import TorchRLEnv

    adapted: EnvBase = TorchRLEnv(envs, masks=masks)
    return adapted


def for_tianshou(envs: VectorEnv[Any, Any, Any]) -> BaseVectorEnv:
    """A dream in `AutoresetMode.DISABLED`, numpy output, as a `BaseVectorEnv` of Tianshou 2.

        dreams = gym.make_vec("lssvwm:lssvwm/Dream-v0", num_envs=16, checkpoint=..., autoreset_mode="Disabled")
        Collector(policy, for_tianshou(dreams), VectorReplayBuffer(20_000, 16))

    Tianshou resets finished rows by number, and steps the rows it still needs: `envs.step` has to take a `mask`.

    Raises InputError for another autoreset mode or output or without masked steps, MissingExtraError without Tianshou.
    """
    check(envs, "Tianshou", AutoresetMode.DISABLED, "numpy", masked_steps=True)
    require("tianshou", "tianshou", "Adapters for Tianshou")
    from lssvwm.agents.adapters.tianshou import TianshouEnv

    adapted: BaseVectorEnv = TianshouEnv(envs)
    return adapted


def for_rllib(
    make: Callable[[int], VectorEnv[Any, Any, Any]], *, masks: bool = False
) -> Callable[..., VectorEnv[Any, Any, Any]]:
    """What `ray.tune.registry.register_env` takes, for `make(num_envs)` in `AutoresetMode.NEXT_STEP`, numpy output.

        register_env("dream", for_rllib(lambda rows: gym.make_vec("lssvwm:lssvwm/Dream-v0", rows, checkpoint=...)))
        PPOConfig().environment("dream").env_runners(
            num_envs_per_env_runner=16, gym_env_vectorize_mode="vector_entry_point")

    RLlib does not check the mode and drops transitions in another one; here it raises InputError, once environments
    are made. So do observations that RLlib's networks do not take, such as a dictionary. Frames become float32, 0..1.
    With `masks`, for worlds that give `info["action_mask"]`, observations are {"action_mask": (N, n) float32,
    "observations": ...}, which needs a module that looks at them, as RLlib's example of action masking has one.
    """
    from lssvwm.agents.adapters.rllib import creator

    return creator(make, masks)
