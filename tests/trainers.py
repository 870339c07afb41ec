"""Tiny trainings, and whether two of them stand at exactly the same point."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.model import WorldModel
from lssvwm.worldmodel.training import Trainer, TrainingConfig
from worlds import small_config

TRAINING = TrainingConfig(batch=3, length=5, warmup=4, fit_frames=40, save_seconds=1e9, seed=3)
WORLD = {"id": "tiny"}


def trainer(
    source: Any, out: Path, config: TrainingConfig = TRAINING, model: WorldModelConfig | None = None, seed: int = 0
) -> Trainer:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        world_model = WorldModel(model or small_config())
    return Trainer(world_model, source, config, out, world=WORLD)


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Every leaf of nested dictionaries and lists by its path."""
    if isinstance(value, Mapping):
        return {k: v for key, item in value.items() for k, v in flat(item, f"{name}/{key}").items()}
    if isinstance(value, list | tuple):
        return flat(dict(enumerate(value)), name)
    return {name: value.clone() if isinstance(value, torch.Tensor) else value}


def everything(trained: Trainer) -> dict[str, Any]:
    """A copy of all that decides how a training goes on, and what it has said so far."""
    parts = {
        "step": trained.step,
        "recent": trained.recent,
        "model": trained.model.state_dict(),
        "average": trained.average.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in trained.optimizers],
    }
    return flat(parts)


def assert_same_state(ours: Trainer | dict[str, Any], theirs: Trainer | dict[str, Any]) -> None:
    """Bit for bit."""
    found, expected = (everything(one) if isinstance(one, Trainer) else one for one in (ours, theirs))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert found[name].dtype == value.dtype, name
            assert torch.equal(found[name], value), name
        else:
            assert found[name] == value, name
