"""A small learned world on disk, and how the tests of its environment make, drive and compare it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from lssvwm.envs.dream import DreamVectorEnv
from lssvwm.worldmodel.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from worlds import random_model, small_config, small_store

ID = "lssvwm:lssvwm/Dream-v0"
MODES = list(AutoresetMode)
ALWAYS, NEVER = 30.0, -30.0  # logits of the termination head


def dream_folder(folder: Path) -> Path:
    """A world model with random weights in `folder/model`, and the episodes that it names."""
    small_store(folder / "episodes")
    model = random_model(small_config(), 0).float()
    with torch.no_grad():
        model.reward_head[-1].weight.mul_(0.01)  # rewards of everyday size
    save_checkpoint(folder / "model", model, world={"num_actions": 3, "episodes": "../episodes"}, step=0)
    return folder


def vec(folder: Path, rows: int = 3, **options: Any) -> DreamVectorEnv:
    options = {"checkpoint": str(folder / "model"), "context_length": 3, **options}
    return gym.make_vec(ID, num_envs=rows, **options)  # type: ignore[return-value]


def certain(folder: Path, logit: float) -> Checkpoint:
    """The checkpoint with a termination head that says the same everywhere."""
    loaded = load_checkpoint(folder / "model")
    last = loaded.model.termination_head[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.fill_(logit)
    return loaded


def exact(folder: Path) -> Checkpoint:
    """The checkpoint in float64, in which rows compute alike whatever the size of the batch."""
    loaded = load_checkpoint(folder / "model")
    return replace(loaded, model=loaded.model.double())


def actions_of(rows: int, steps: int) -> Any:
    return np.random.default_rng(1).integers(3, size=(steps, rows))


def roll(env: DreamVectorEnv, seed: Any, actions: Any) -> tuple[Any, Any]:
    """Frames (T + 1, N, ...) and rewards (T, N)."""
    frames, _ = env.reset(seed=seed)
    steps = [env.step(action) for action in actions]
    return np.stack([frames, *(step[0] for step in steps)]), np.stack([step[1] for step in steps])
