"""DQN of Tianshou 2, trained in the dream of a world model on the features of the model.

    python examples/tianshou_dqn.py --checkpoint runs/demo/world_model --total-timesteps 8000

Tianshou has an environment of its own (`make test-integrations`): it needs an older pandas.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import torch
import tyro
from tianshou.algorithm.modelfree.dqn import DQN, DiscreteQLearningPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import BaseVectorEnv
from tianshou.trainer import OffPolicyTrainerParams
from tianshou.utils.net.common import Net

from lssvwm.agents.adapters import for_tianshou


@dataclass(frozen=True)
class Args:
    """DQN in the dream."""

    checkpoint: Path
    contexts: Path | None = None
    total_timesteps: int = 8_000
    num_envs: int = 16
    horizon: int = 64
    test_episodes: int = 24
    """Dreams to judge by: not a multiple of num_envs, so that Tianshou steps some rows and not others."""
    seed: int = 0


def dreams(args: Args) -> BaseVectorEnv:
    """Rows that Tianshou resets."""
    envs = gym.make_vec(
        *("lssvwm:lssvwm/Dream-v0", args.num_envs),
        checkpoint=args.checkpoint,
        contexts=args.contexts,
        observation="features",
        max_episode_steps=args.horizon,
        autoreset_mode="Disabled",
    )
    adapted = for_tianshou(envs)
    adapted.seed(args.seed)
    return adapted


def main(args: Args) -> None:
    """Train; print the mean dreamt return before and after."""
    torch.manual_seed(args.seed)
    training, test = dreams(args), dreams(args)
    observations, actions = training.observation_space[0], training.action_space[0]
    network = Net(state_shape=observations.shape, action_shape=actions.n, hidden_sizes=(128, 128))
    policy = DiscreteQLearningPolicy(model=network, action_space=actions, eps_training=0.2, eps_inference=0.05)
    algorithm = DQN(
        policy=policy, optim=AdamOptimizerFactory(lr=5e-4), gamma=0.97, n_step_return_horizon=3, target_update_freq=200
    )
    collector = Collector(policy, training, VectorReplayBuffer(20_000, args.num_envs), exploration_noise=True)
    judge = Collector(policy, test)
    judge.reset()
    before = judge.collect(n_episode=args.test_episodes)
    collector.reset()
    told = algorithm.run_training(
        OffPolicyTrainerParams(
            training_collector=collector,
            max_epochs=1,
            epoch_num_steps=args.total_timesteps,
            collection_step_num_env_steps=8 * args.num_envs,
            update_step_num_gradient_steps_per_sample=0.25,
            batch_size=128,
            show_progress=False,
            verbose=False,
        )
    )
    judge.reset()
    after = judge.collect(n_episode=args.test_episodes)
    print(f"{told.train_step} steps, {told.train_episode} dreams, {told.update_step} updates")
    print(f"mean dreamt return before {before.returns.mean():.3f}, after {after.returns.mean():.3f}")


if __name__ == "__main__":
    main(tyro.cli(Args))
