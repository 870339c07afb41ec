"""A finished world model trained on to dream in one step: its weights under a configuration with `shortcut`."""

from __future__ import annotations

from pathlib import Path

import torch

from lssvwm.worldmodel.checkpoint import CONFIG, load_checkpoint
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.model import WorldModel

STEP = "backbone.condition.step.weight"
"""What a plain model lacks: the embedding of the step sizes, which begins at zero."""

MAY_DIFFER = (
    *("shortcut", "shortcut_share", "context_prob", "context_noise", "action_dropout", "reward_weight"),
    *("forcing", "noise_mean", "noise_std", "min_noise", "weight"),
)
"""Settings that say how a model is trained, not what its weights compute."""


def distilled(folder: Path, config: WorldModelConfig) -> WorldModel:
    """A model of `config`, which has `shortcut`, with the weights of the checkpoint in `folder`: it computes what that
    one does, bit for bit; a plain one's whatever size of step it is told.

    There is no teacher beside it: of the steps that it learns the larger follow from the finer, and the finest, which
    it knows, goes on to learn from the frames. Raises InputError where the checkpoint is none of the same world, size
    and tokenizer, naming what differs.
    """
    if not config.shortcut:
        raise InputError(f"distilling {folder} needs steps to teach: set shortcut to a power of two, such as 4")
    found = load_checkpoint(folder).model
    model = WorldModel(config)
    there, here = found.config.to_dict(), model.config.to_dict()
    differing = [
        f"{name} ({there[name]!r} there, {here[name]!r} here)"
        for name in here
        if name not in MAY_DIFFER and there[name] != here[name]
    ]
    if differing:
        raise InputError(
            f"{folder / CONFIG} is of another world or size: {', '.join(differing)}; name the environment or the "
            "episodes that it was trained on, and leave the options of its model as they are"
        )
    if found.config.shortcut not in (0, config.shortcut):
        raise InputError(
            f"{folder / CONFIG} has shortcut={found.config.shortcut} already, not {config.shortcut}: keep it, or "
            "distil the plain model"
        )
    model.load_state_dict({STEP: torch.zeros_like(model.state_dict()[STEP]), **found.state_dict()})
    return model
