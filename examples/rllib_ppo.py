"""PPO of RLlib, trained in the dream of a world model.

    python examples/rllib_ppo.py --checkpoint runs/demo/world_model --total-timesteps 8000

RLlib has an environment of its own (`make test-integrations`): it needs gymnasium 1.2.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import ray
import tyro
from ray.rllib.algorithms.ppo import PPOConfig
from ray.tune.registry import register_env

from lssvwm.agents.adapters import for_rllib


@dataclass(frozen=True)
class Args:
    """PPO in the dream."""

    checkpoint: Path
    contexts: Path | None = None
    observation: Literal["frame", "features"] = "features"
    total_timesteps: int = 8_000
    num_envs: int = 16
    horizon: int = 64
    seed: int = 0


def make(args: Args, num_envs: int) -> gym.vector.VectorEnv[Any, Any, Any]:
    """Dreams in the mode that RLlib expects without saying so."""
    return gym.make_vec(
        *("lssvwm:lssvwm/Dream-v0", num_envs),
        checkpoint=args.checkpoint.resolve(),
        contexts=args.contexts,
        observation=args.observation,
        max_episode_steps=args.horizon,
        autoreset_mode="NextStep",
    )


def main(args: Args) -> None:
    """Train, and print the mean return of the dreams of every iteration."""
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    register_env("dream", for_rllib(partial(make, args)))
    batch = min(1024, args.total_timesteps)
    config = (
        PPOConfig()
        .environment("dream")
        .env_runners(
            num_env_runners=0,
            num_envs_per_env_runner=args.num_envs,
            gym_env_vectorize_mode="vector_entry_point",
        )
        .learners(num_learners=0)
        .training(train_batch_size_per_learner=batch, minibatch_size=min(256, batch), num_epochs=4, lr=5e-4, gamma=0.97)
        .debugging(seed=args.seed)
    )
    algorithm = config.build_algo()
    steps = 0
    while steps < args.total_timesteps:
        told = algorithm.train()["env_runners"]
        steps = int(told["num_env_steps_sampled_lifetime"])
        print(f"{steps} steps, mean dreamt return {told.get('episode_return_mean', float('nan')):.3f}", flush=True)
    algorithm.stop()
    ray.shutdown()


if __name__ == "__main__":
    main(tyro.cli(Args))
