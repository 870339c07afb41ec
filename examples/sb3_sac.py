"""SAC or TD3 of Stable-Baselines3, for continuous actions: trained in the dream of a world model, judged for real.

python examples/sb3_sac.py --checkpoint runs/racing/world_model --total-timesteps 20000
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.vec_env import VecMonitor

from lssvwm.agents.adapters import for_stable_baselines
from lssvwm.agents.adapters.judging import Verdict, against_random
from lssvwm.envs.features import make_pair


@dataclass(frozen=True)
class Args:
    """SAC in the dream."""

    checkpoint: Path
    contexts: Path | None = None
    algorithm: Literal["sac", "td3"] = "sac"
    observation: Literal["frame", "features"] = "features"
    total_timesteps: int = 20_000
    num_envs: int = 16
    horizon: int = 64
    """Steps after which a dream is cut off."""
    gradient_steps: int = 4
    """For each step of all environments."""
    eval_episodes: int = 100
    seed: int = 0


def main(args: Args) -> Verdict:
    """Train, then print real returns."""
    pair = make_pair(
        args.checkpoint,
        args.num_envs,
        contexts=args.contexts,
        observation=args.observation,
        autoreset_mode="SameStep",
        max_episode_steps=args.horizon,
    )
    model = {"sac": SAC, "td3": TD3}[args.algorithm](
        "CnnPolicy" if args.observation == "frame" else "MlpPolicy",
        VecMonitor(for_stable_baselines(pair.dream)),
        buffer_size=20_000,
        learning_starts=256,
        train_freq=1,
        gradient_steps=args.gradient_steps,
        learning_rate=1e-3,
        gamma=0.9,
        seed=args.seed,
        verbose=1,
    )
    model.learn(args.total_timesteps)
    verdict = against_random(
        model, pair.real, episodes=args.eval_episodes, seed=args.seed + 1000, deterministic=args.algorithm == "td3"
    )
    print("real environment,", verdict)
    pair.real.close()
    return verdict


if __name__ == "__main__":
    main(tyro.cli(Args))
