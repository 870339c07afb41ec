"""DQN of Stable-Baselines3: trained in the dream of a world model, judged in the real environment.

python examples/sb3_dqn.py --checkpoint runs/demo/world_model --total-timesteps 40000
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from stable_baselines3 import DQN
from stable_baselines3.common.vec_env import VecMonitor

from lssvwm.agents.adapters import for_stable_baselines
from lssvwm.agents.adapters.judging import against_random
from lssvwm.envs.features import make_pair


@dataclass(frozen=True)
class Args:
    """DQN in the dream, by default on the features of the world model: the replay buffer stays small."""

    checkpoint: Path
    contexts: Path | None = None
    observation: Literal["frame", "features"] = "features"
    total_timesteps: int = 40_000
    num_envs: int = 16
    horizon: int = 64
    """Steps after which a dream is cut off."""
    eval_episodes: int = 100
    seed: int = 0


def main(args: Args) -> None:
    """Train, then print real returns."""
    pair = make_pair(
        args.checkpoint,
        args.num_envs,
        contexts=args.contexts,
        observation=args.observation,
        autoreset_mode="SameStep",
        max_episode_steps=args.horizon,
    )
    model = DQN(
        "CnnPolicy" if args.observation == "frame" else "MlpPolicy",
        VecMonitor(for_stable_baselines(pair.dream)),
        buffer_size=20_000,
        learning_starts=500,
        batch_size=128,
        gamma=0.97,
        train_freq=4,
        gradient_steps=8,
        target_update_interval=1_000,
        exploration_fraction=0.5,
        seed=args.seed,
        verbose=1,
    )
    model.learn(args.total_timesteps)
    print("real environment,", against_random(model, pair.real, episodes=args.eval_episodes, seed=args.seed + 1000))
    pair.real.close()


if __name__ == "__main__":
    main(tyro.cli(Args))
