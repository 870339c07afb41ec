"""Shortcut forcing: a model that is told how far it goes at once learns to dream a frame in one step.

Frans et al. 2024, "One Step Diffusion via Shortcut Models"; Dreamer 4, section 3.2. A step that covers 2^-h of the
whole path has h halvings: 0 is the whole path at once, log2(`shortcut`) the finest step. The finest ones learn from the
frames themselves, every larger one that it should arrive where two of half its size do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.common.rng import Generators, uniform
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.diffusion.noise import Draw

Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The prediction of x_0 (B, T, S, C) from x of the same shape, its levels and its halvings, both (B, T)."""


def finest(shortcut: int) -> int:
    """Halvings of the finest step of a model with this `shortcut`, a power of two."""
    return shortcut.bit_length() - 1


def halvings_of(steps: int, shortcut: int) -> int | None:
    """Halvings of the steps of a dream in `steps` steps; None for a plain model, which is told nothing.

    The finest step is learned as the limit of small ones, so any number of steps from `shortcut` on takes it. Raises
    InputError for numbers below that are no power of two: the model has learned no step of that size.
    """
    if not shortcut:
        return None
    if steps < shortcut and steps.bit_count() != 1:
        learned = ", ".join(str(2**h) for h in range(finest(shortcut)))
        raise InputError(f"steps={steps}: this world model dreams in {learned} steps, or in {shortcut} or more")
    return min(finest(shortcut), finest(steps))


def with_steps(drawn: Draw, generators: Generators, config: WorldModelConfig) -> Draw:
    """`drawn` with the halvings of every frame's step; the noise levels of a share of the clips become those of steps.

    In `shortcut_share` of the clips every noised frame draws a size, the finest too, and then a level that a step of
    this size may begin at, up to 1, where dreams begin: both uniformly (Dreamer 4, equation 4). Each frame draws its
    own, as it does its noise, so that every clip teaches all sizes and no frame tells of another's; the frames of a
    chunk, which are dreamt jointly, share theirs. All other frames keep their level and take the finest step.
    """
    like, (batch, frames) = drawn.level, drawn.level.shape
    chosen = uniform((batch, 1), generators, like) < config.shortcut_share
    sizes = uniform((batch, -(-frames // config.chunk), 2), generators, like)
    size, place = sizes.repeat_interleave(config.chunk, 1)[:, :frames].unbind(-1)
    stepped = chosen & ~drawn.clean
    most = finest(config.shortcut)
    halvings = torch.where(stepped, (size * (most + 1)).floor(), most)
    starts = 2.0**halvings
    level = torch.where(stepped, ((place * starts).floor() + 1) / starts, drawn.level)
    return replace(drawn, level=level, halvings=halvings.long())


def two_half_steps(denoise: Denoise, x: Tensor, level: Tensor, halvings: Tensor, big: Tensor) -> Tensor:
    """The x_0 that a step has to predict to arrive where two of half its size do: (B, T, S, C), no gradient.

    x (B, T, S, C) at `level` (B, T), a multiple of the step's size. All frames where `big` (B, T) take their steps at
    once, as in Dreamer 4, equation 7; with diffusion forcing what they are at half the way is the context of those
    after them. The others stay where they are, and what is returned for them means nothing.

    The mean of both velocities, (noise - x_0 of the half step), is the velocity of the whole one; on the linear path
    x - level * velocity is the x_0 that has it. So the error of x_0 under the weight of the ordinary loss is the
    velocity's wherever the ordinary one is, and both kinds of frames count alike.
    """
    with torch.no_grad():
        size = torch.where(big, 2.0**-halvings, 0.0).to(level.dtype)
        start = torch.where(big, level, 1.0)  # clean frames are at 0, which nothing can be divided by
        middle = start - size / 2
        finer = halvings + big.long()
        first = (x - denoise(x, level, finer)) / _wide(start)
        halfway = x - _wide(size / 2) * first
        second = (halfway - denoise(halfway, torch.where(big, middle, level), finer)) / _wide(middle)
        return x - _wide(start) * (first + second) / 2


def _wide(values: Tensor) -> Tensor:
    return values[..., None, None]
