"""What a `WorldModel` returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lssvwm.worldmodel.layers.memory import Memory


@dataclass(frozen=True)
class Losses:
    """Scalar training losses; `total` is what to minimise."""

    total: Tensor
    diffusion: Tensor
    reward: Tensor
    termination: Tensor
    memory: Memory | None = None  # after the clips, where it was asked for; detached


@dataclass(frozen=True)
class Counts:
    """How many frames carry each loss: what the sums are divided by. Scalars, which add up over parts of a batch."""

    diffusion: Tensor
    reward: Tensor
    termination: Tensor


@dataclass(frozen=True)
class Features:
    """What committed frames tell: features (B, T, F), reward (B, T) and termination probability (B, T) of each.

    `inputs` (B, T, I) is what the features are mixed from.
    """

    features: Tensor
    reward: Tensor
    termination: Tensor
    inputs: Tensor


@dataclass(frozen=True)
class Imagined:
    """One new frame per row, and what came with it. A model of chunks gives c frames: (B, c) instead of (B,)."""

    frame: Tensor  # (B, h, w, 3) uint8
    reward: Tensor  # (B,)
    termination: Tensor  # (B,) probability that the episode ended in this frame
    features: Tensor  # (B, F)
    memory: Memory
    inputs: Tensor | None = None  # (B, I), what the features are mixed from
