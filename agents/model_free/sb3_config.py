"""What Stable-Baselines3 is told; apart from `agents.model_free.sb3`, which cannot be imported without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Name = Literal["sb3-ppo", "sb3-maskable-ppo", "sb3-recurrent-ppo", "sb3-dqn", "sb3-sac", "sb3-td3"]


@dataclass(frozen=True)
class SB3Config:
    """Where Stable-Baselines3's own defaults are changed; they are for one environment and a million steps."""

    rows: int = 16
    """Environments at a time."""
    rollout: int = 128
    """Steps of every row in a rollout (PPO, MaskablePPO, RecurrentPPO)."""
    batch: int = 256
    """Steps per gradient step (rl-zoo3, Atari)."""
    epochs: int = 4
    """Times that a rollout is learned from (rl-zoo3, Atari)."""
    lr: float = 2.5e-4
    """Learning rate (rl-zoo3, Atari)."""
    entropy: float = 0.01
    """Weight of the entropy bonus (rl-zoo3, Atari)."""
    discount: float = 0.99
    """What a reward one step later is worth."""
    hidden: int = 128
    """Width of the recurrent state (RecurrentPPO)."""
    buffer: int = 20_000
    """Steps that DQN, SAC and TD3 keep."""
    exploration: float = 0.2
    """Share of DQN's steps in which its exploration falls to its end."""
    save_seconds: float = 60.0
    """Time between checkpoints."""
    seed: int = 0
    """Which episodes are played and which actions are drawn, and the first weights."""
