"""Which optimiser moves which weight, and how fast at which step."""

from __future__ import annotations

import torch
from torch import nn

from worldmodel.model import WorldModel
from worldmodel.training.config import TrainingConfig


def make_optimizers(model: WorldModel, config: TrainingConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, the read-out and the heads; AdamW for everything else.

    Everything else is what sees raw conditions (the modulation), inputs and outputs. Muon moves all directions of a
    matrix alike, the weak ones that carry memory too: a head learned a rule over two remembered bits with it where
    AdamW did not.
    """
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        hidden = name.startswith(("backbone.layers.", "readout.", "reward_head.0.", "termination_head.0."))
        inner = hidden and parameter.ndim == 2 and ".modulation." not in name
        (matrices if inner else rest).append(parameter)
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=config.muon_lr, weight_decay=config.weight_decay),
        torch.optim.AdamW(rest, lr=config.adam_lr, betas=(0.9, 0.99), weight_decay=config.weight_decay, fused=True),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def rate(step: int, config: TrainingConfig) -> float:
    """Share of the full learning rates at step `step` (from 0): it rises over the warm-up and falls at the end."""
    share = min(1.0, (step + 1) / max(1, config.warmup))
    if config.decay:
        share *= min(1.0, (config.steps - step) / (config.decay * config.steps))
    return share
