"""Which optimiser moves which weight, and how fast at which step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lssvwm.worldmodel.layers.attention import FrameLocalAttention
from lssvwm.worldmodel.layers.mamba import BlockwiseMamba
from lssvwm.worldmodel.model import WorldModel
from lssvwm.worldmodel.training.config import TrainingConfig
from lssvwm.worldmodel.training.muon import Muon


def make_optimizers(model: WorldModel, config: TrainingConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, the read-out and the heads; AdamW for everything else.

    Everything else is what sees raw conditions (the modulation), inputs and outputs. Muon moves all directions of a
    matrix alike, the weak ones that carry memory too: a head learned a rule over two remembered bits with it where
    AdamW did not.

    Weight decay is for matrices of linear layers. A time constant that decays towards zero forgets: in 150,000 steps at
    a rate of 1e-3 a memory of 512 frames would have become one of 5.
    """
    blocks = {id(weight): rows for weight, rows in blocks_of(model)}
    linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    matrices: dict[tuple[int, ...] | None, list[nn.Parameter]] = defaultdict(list)
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        hidden = name.startswith(("backbone.layers.", "readout.", "reward_head.0.", "termination_head.0."))
        if hidden and parameter.ndim == 2 and ".modulation." not in name:
            matrices[blocks.get(id(parameter))].append(parameter)
        else:
            (decayed if id(parameter) in linear else others).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizers: list[torch.optim.Optimizer] = [
        Muon(
            [{"params": params, "blocks": rows} for rows, params in matrices.items()],
            lr=config.muon_lr,
            weight_decay=config.weight_decay,
        ),
        torch.optim.AdamW(groups, lr=config.adam_lr, betas=(0.9, 0.99), fused=True),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def blocks_of(model: WorldModel) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
    """Projections to several things at once, and the rows of each: gate, x, B, C and dt; query, key and value.

    Muon moves each as the matrix of its own that it is. On the carpet world (docs/results.md), after 600 steps of two
    seeds, retrieval came to 23.7 and 24.8 dB that way, to 23.2 and 24.5 dB with projections moved as a whole.
    """
    for module in model.modules():
        if isinstance(module, BlockwiseMamba):
            yield module.project_in.weight, tuple(size for size in module.blocks if size)
        if isinstance(module, FrameLocalAttention):
            yield module.qkv.weight, (module.qkv.in_features,) * 3


def rate(step: int, config: TrainingConfig) -> float:
    """Share of the full learning rates at step `step` (from 0): it rises over the warm-up and falls at the end."""
    share = min(1.0, (step + 1) / max(1, config.warmup))
    if config.decay:
        share *= min(1.0, (config.steps - step) / (config.decay * config.steps))
    return share
