"""Whether a policy meets in real play what it was trained on: how far features lie from those of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

RATE = 0.01
"""How fast the statistics follow, per batch; debiased as Adam's moments are."""
BUCKETS = (0, 50, 200, 500)
"""Steps of an episode at which a figure of its own begins."""


class Familiarity(nn.Module):
    """Mean and spread of the features (F,) that a policy was trained on, and how far those lay from their mean."""

    mean: Tensor
    square: Tensor
    usual: Tensor
    updates: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        for name in ("mean", "square"):
            self.register_buffer(name, torch.zeros(features))
        self.register_buffer("usual", torch.zeros(()))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, features: Tensor, weights: Tensor) -> None:
        """Follow a batch of training features (..., F), each counting by its weight (...)."""
        flat, share = features.flatten(0, -2), (weights / weights.sum()).flatten()
        self.updates += 1
        rate = RATE / (1 - (1 - RATE) ** self.updates)
        self.mean += rate * (share @ flat - self.mean)
        self.square += rate * (share @ flat.square() - self.square)
        self.usual += rate * (share @ self._deviations(flat) - self.usual)

    @torch.no_grad()
    def distance(self, features: Tensor) -> Tensor:
        """How far features (..., F) lie from the mean, by the mean |z| over F, (...): 1 is as far as in training.

        NaN before the first update.
        """
        return torch.where(self.updates > 0, self._deviations(features) / self.usual, torch.nan)

    def _deviations(self, features: Tensor) -> Tensor:
        spread = (self.square - self.mean.square()).clamp(min=1e-8).sqrt()
        return ((features - self.mean) / spread).abs().mean(-1)


def by_step(distances: Sequence[Sequence[float]]) -> Mapping[str, float]:
    """Mean distance in each bucket of steps, over all episodes; entry t of each came with its step t.

    Buckets that no episode reached are left out, and all of them where the policy noted nothing.
    """
    found = {}
    for begin, end in pairwise([*BUCKETS, None]):
        within = [value for each in distances for value in each[begin:end] if value == value]
        if within:
            found[f"{begin}+" if end is None else f"{begin}-{end - 1}"] = float(np.mean(within))
    return found
