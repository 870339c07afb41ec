"""A recurrent PPO (sb3-contrib): trained in the dream of a world model, judged in the real environment.

python examples/sb3_recurrent_ppo.py --checkpoint runs/demo/world_model --total-timesteps 20000
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.vec_env import VecMonitor

from lssvwm.agents.adapters import for_stable_baselines
from lssvwm.agents.adapters.judging import against_random
from lssvwm.envs.features import make_pair


@dataclass(frozen=True)
class Args:
    """PPO with an LSTM in the dream."""

    checkpoint: Path
    contexts: Path | None = None
    observation: Literal["frame", "features"] = "frame"
    total_timesteps: int = 20_000
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
    model = RecurrentPPO(
        "CnnLstmPolicy" if args.observation == "frame" else "MlpLstmPolicy",
        VecMonitor(for_stable_baselines(pair.dream)),
        n_steps=64,
        batch_size=256,
        n_epochs=2,
        gamma=0.97,
        ent_coef=0.01,
        policy_kwargs={"lstm_hidden_size": 64},  # the default of 256 costs ten times as much
        seed=args.seed,
        verbose=1,
    )
    model.learn(args.total_timesteps)
    print("real environment,", against_random(model, pair.real, episodes=args.eval_episodes, seed=args.seed + 1000))
    pair.real.close()


if __name__ == "__main__":
    main(tyro.cli(Args))
