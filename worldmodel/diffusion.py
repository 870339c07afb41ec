"""Diffusion forcing on the linear path: every frame has its own noise level (Chen et al. 2024; paper, section 3.2).

    x_level = (1 - level) * x_0 + level * noise,    level in [0, 1], 0 = clean

The network predicts x_0; the velocity of the path is then (x_level - x_0) / level.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class NoiseLevels(NamedTuple):
    """Level of every frame (B, T) and which frames are the clean context (B, T) bool; clean means level 0."""

    level: Tensor
    clean: Tensor


def draw_levels(
    batch: int, frames: int, generator: torch.Generator, *, mean: float, std: float, context_prob: float
) -> NoiseLevels:
    """Noise levels for training, drawn independently per frame: sigmoid(normal(mean, std)).

    With probability `context_prob` a prefix longer than half of the clip stays clean, so that gradients reach through a
    long memory (paper, long-context training); otherwise all frames are noised.
    """
    device = generator.device
    level = torch.sigmoid(torch.randn(batch, frames, generator=generator, device=device) * std + mean)
    has_context = torch.rand(batch, generator=generator, device=device) < context_prob
    cut = torch.randint(frames // 2 + 1, max(frames, frames // 2 + 2), (batch,), generator=generator, device=device)
    clean = has_context[:, None] & (torch.arange(frames, device=device) < cut[:, None])
    return NoiseLevels(level.masked_fill(clean, 0.0), clean)


def add_noise(latents: Tensor, level: Tensor, noise: Tensor) -> Tensor:
    """x_level of the linear path: latents and noise (B, T, S, C), level (B, T)."""
    return torch.lerp(latents, noise, level[..., None, None])


def loss_weight(level: Tensor, floor: float) -> Tensor:
    """Weight of the squared error of x_0: 1 / level^2 turns it into the velocity error, floored near clean frames."""
    return level.clamp(min=floor) ** -2


def euler_levels(steps: int) -> Tensor:
    """The K + 1 levels that K Euler steps visit, from 1 down to 0."""
    return torch.linspace(1, 0, steps + 1)


def euler_step(x: Tensor, prediction: Tensor, level: float, target: float) -> Tensor:
    """Move x along the line through `prediction` (of x_0) from `level` down to `target`; exact at target 0."""
    return prediction + (x - prediction) * (target / level)
