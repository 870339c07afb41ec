"""Noise on the linear path: every frame has its own level (Chen et al. 2024; paper, section 3.2).

    x_level = (1 - level) * x_0 + level * noise,    level in [0, 1], 0 = clean

The network predicts x_0, the velocity noise - x_0 of the path, or the noise; one follows from another (`clean_from`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lssvwm.worldmodel.common.rng import Generators, normal, uniform
from lssvwm.worldmodel.config import Target, Weight, WorldModelConfig

MOST_NOISE = 0.98
"""Highest level at which predicted noise still says anything about x_0: they are divided by 1 - level."""


@dataclass(frozen=True)
class Draw:
    """What chance decides about a batch of clips in training."""

    level: Tensor  # (B, T) noise level, 0 in the clean context
    clean: Tensor  # (B, T) bool, the clean context; none with teacher forcing, where every frame has a clean copy
    noise: Tensor  # (B, T, S, C)
    withheld: Tensor  # (B, T) bool, frames whose action is not told
    halvings: Tensor | None = None  # (B, T) int64, the size of every frame's step (`worldmodel.diffusion.shortcut`)
    context: Tensor | None = None  # (B,) noise level at which the clip enters memory


def draw(shape: tuple[int, ...], generators: Generators, like: Tensor, config: WorldModelConfig) -> Draw:
    """What a training step draws for latents of `shape` (B, T, S, C), on the device and in the dtype of `like`.

    Levels are sigmoid(normal(mean, std)), independent per frame. With teacher forcing all frames are noised. With
    diffusion forcing, in a share `context_prob` of the clips, a prefix longer than half stays clean, so that gradients
    reach through a long memory (paper, long-context training); in chunks the prefix ends with one.
    """
    batch, frames = shape[:2]
    level = torch.sigmoid(normal((batch, frames), generators, like) * config.noise_std + config.noise_mean)
    if config.target == "eps":
        level = level.clamp(max=MOST_NOISE)
    chosen = uniform((batch, 2), generators, like)
    shortest, longest = frames // 2 + 1, max(frames - 1, frames // 2 + 1)
    cut = shortest + (chosen[:, 1] * (longest - shortest + 1)).floor()
    last = max(frames // config.chunk - 1, 1) * config.chunk  # or short clips would be clean to their end
    cut = ((cut / config.chunk).ceil() * config.chunk).clamp(max=last)
    share = config.context_prob if config.forcing == "diffusion" else 0.0
    clean = (chosen[:, :1] < share) & (torch.arange(frames, device=like.device) < cut[:, None])
    withheld = uniform((batch, frames), generators, like) < config.action_dropout
    noise = normal(shape, generators, like)
    context = uniform((batch,), generators, like) * config.context_noise if config.context_noise else None
    return Draw(level.masked_fill(clean, 0.0), clean, noise, withheld, context=context)


def add_noise(latents: Tensor, level: Tensor, noise: Tensor) -> Tensor:
    """x_level of the linear path: latents and noise (B, T, S, C), level (B, T)."""
    return torch.lerp(latents, noise, level[..., None, None])


def clean_from(output: Tensor, x: Tensor, level: Tensor, target: Target) -> Tensor:
    """The prediction of x_0 in the network's output: output and x = x_level (B, T, S, C), level (B, T)."""
    if target == "x":
        return output
    level = level[..., None, None]
    if target == "v":
        return x - level * output
    return (x - level * output) / (1 - level).clamp(min=1 - MOST_NOISE)


def loss_weight(level: Tensor, weight: Weight, floor: float) -> Tensor:
    """What the squared error of x_0 counts at a level, so that it becomes that of another target.

    On the linear path the velocity's error is that of x_0 divided by the level, the noise's that times (1 - level);
    "sigmoid" is the noise's error times sigmoid(-1 - log SNR) (Song et al. 2025, DFoT). `floor` bounds the division.
    """
    if weight == "x":
        return torch.ones_like(level)
    velocity = level.clamp(min=floor) ** -2
    if weight == "velocity":
        return velocity
    noise = velocity * (1 - level) ** 2
    if weight == "eps":
        return noise
    log_snr = 2 * ((1 - level).clamp(min=1e-6).log() - level.clamp(min=1e-6).log())
    return noise * torch.sigmoid(-1 - log_snr)


def euler_levels(steps: int, target: Target = "x") -> list[float]:
    """The K + 1 levels that K steps visit, down to 0. On the linear path an Euler step and a DDIM step are the same."""
    most = MOST_NOISE if target == "eps" else 1.0
    return [most * (1 - step / steps) for step in range(steps + 1)]


def euler_step(x: Tensor, prediction: Tensor, level: float, target: float) -> Tensor:
    """Move x along the line through `prediction` (of x_0) from `level` down to `target`; exact at target 0."""
    return prediction + (x - prediction) * (target / level)


def fourier(values: Tensor, bands: int, longest: float, shortest: float) -> Tensor:
    """Sines and cosines of values with periods from `longest` to `shortest`: (...) -> (..., 2 * bands)."""
    periods = torch.linspace(math.log(longest), math.log(shortest), bands, device=values.device, dtype=values.dtype)
    angles = values[..., None] * (2 * math.pi / periods.exp())
    return torch.cat([angles.sin(), angles.cos()], -1)
