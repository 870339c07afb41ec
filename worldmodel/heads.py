"""What heads read from a frame's features, and the distribution in which scalars are predicted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lssvwm.worldmodel.common.precision import Full
from lssvwm.worldmodel.layers.fused import rms_norm

LIMIT = 10.0
"""Deviations from the mean at which standardised values end: what never moved in training would else be multiplied by a
thousand where it moves for the first time."""


class TwoHot(nn.Module):
    """Scalars as a distribution over fixed bins (DreamerV3, section "Critic learning"): symmetric, symlog-spaced.

    A target becomes weight on the two bins around it; the prediction is the mean over the bins, taken in raw units, so
    that it is the expectation also where outcomes are two-sided (success or failure).
    """

    bins: Tensor

    def __init__(self, count: int = 127, limit: float = 6.0) -> None:
        super().__init__()
        # Mirrored, so that zero is a bin exactly.
        positive = torch.linspace(0, limit, count // 2 + 1).expm1()
        self.register_buffer("bins", torch.cat([-positive.flip(0)[:-1], positive]), persistent=False)

    @property
    def count(self) -> int:
        """Number of bins, the width of the logits."""
        return self.bins.shape[0]

    def mean(self, logits: Tensor) -> Tensor:
        """Logits (..., bins) -> expected values (...)."""
        # No matrix product: autocast would round both to 8 bits, and hundreds have to cancel out.
        return (logits.to(self.bins.dtype).softmax(-1) * self.bins).sum(-1)

    def encode(self, values: Tensor) -> Tensor:
        """Values (...) -> two-hot weights (..., bins). Values past the outer bins count as those."""
        values = values.to(self.bins.dtype).clamp(self.bins[0], self.bins[-1])[..., None]
        above = torch.searchsorted(self.bins, values.contiguous()).clamp(1, self.count - 1)
        low, high = self.bins[above - 1], self.bins[above]
        weight = (values - low) / (high - low)
        target = torch.zeros(*values.shape[:-1], self.count, dtype=values.dtype, device=values.device)
        return target.scatter(-1, above - 1, 1 - weight).scatter(-1, above, weight)

    def loss(self, logits: Tensor, values: Tensor) -> Tensor:
        """Cross-entropy with the two-hot target: logits (..., bins), values (...) -> (...)."""
        return -(self.encode(values) * functional.log_softmax(logits.to(self.bins.dtype), -1)).sum(-1)


@dataclass(frozen=True)
class FutureRewards:
    """Rewards of a frame and of those after it, (B, T, n), and which of them exist within the clip."""

    rewards: Tensor
    exists: Tensor


def future_rewards(rewards: Tensor, exists: Tensor, horizon: int) -> FutureRewards:
    """Entry [b, t, j] is the reward of frame t + j. `exists` (B, T) marks frames that carry a reward."""
    padded = functional.pad(rewards, (0, horizon - 1))
    padded_exists = functional.pad(exists, (0, horizon - 1))
    return FutureRewards(padded.unfold(1, horizon, 1), padded_exists.unfold(1, horizon, 1))


class RMSNorm(nn.RMSNorm):
    """`nn.RMSNorm` with eps 1e-5, by `layers.fused`."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return rms_norm(x, self.weight, 1e-5)


class Readout(nn.Module):
    """All tokens of a frame, and what the tiles of every scan recalled there, to one feature vector.

    Tokens alone are not enough: a clean frame's tokens are trained for what comes next, and hold of the past only what
    that needs, while the scan's state holds it all. A linear probe for the cue of a memory task, seven frames later,
    finds it in the recall every time and in the tokens hardly at all; R2I (Samsami et al. 2024) found the same for
    policies that read a state-space model's state. `scans` gives (tiles, channels) of every layer that has a scan.
    """

    def __init__(self, tokens: int, dim: int, scans: Sequence[tuple[int, int]], features: int) -> None:
        super().__init__()
        narrow = max(4, 512 // tokens)
        self.squeeze = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, narrow), nn.SiLU())
        widths = [max(4, 256 // tiles) for tiles, _ in scans]
        self.recalls = nn.ModuleList(
            nn.Sequential(RMSNorm(channels), nn.Linear(channels, width))
            for (_, channels), width in zip(scans, widths, strict=True)
        )
        inputs = tokens * narrow + sum(tiles * width for (tiles, _), width in zip(scans, widths, strict=True))
        self.standardise = Standardise(inputs)
        self.mix = Full(nn.Linear(inputs, features), nn.LayerNorm(features))

    def forward(self, tokens: Tensor, recall: Sequence[Tensor], measure: Tensor | None = None) -> Tensor:
        """Tokens (..., S, D) and one recall (..., N, channels) per scan -> (..., F).

        `measure` (...) bool marks the frames whose figures `standardise` is to note, while training.
        """
        inputs = self.inputs(tokens, recall)
        if measure is not None:
            self.standardise.measure(inputs.detach()[measure])
        return self.features(inputs)

    def inputs(self, tokens: Tensor, recall: Sequence[Tensor]) -> Tensor:
        """Everything that the features are mixed from, side by side, (..., I)."""
        parts = [self.squeeze(tokens), *(read(r) for read, r in zip(self.recalls, recall, strict=True))]
        return torch.cat([part.flatten(-2) for part in parts], -1)

    def features(self, inputs: Tensor) -> Tensor:
        """Inputs (..., I) -> (..., F)."""
        mixed: Tensor = self.mix(self.standardise(inputs))
        return mixed


class Standardise(nn.Module):
    """Subtract the running mean and divide by the running deviation of every entry, in training as in use.

    What a frame shows outweighs what it remembers by far; without this, heads see the remembered part as noise. The
    running figures are the same for every frame, so unlike those of a batch they leave a dream's rows independent.
    They move between steps of training, not within, so they do not depend on how a step's clips were parted.
    """

    mean: Tensor
    variance: Tensor
    measured: Tensor

    def __init__(self, size: int, momentum: float = 0.01, floor: float = 1e-3) -> None:
        super().__init__()
        self.momentum, self.floor = momentum, floor
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))
        self.register_buffer("measured", torch.zeros((), dtype=torch.int64))
        self.pending: Tensor | None = None  # (1 + 2 * size,): how many values, their sum, that of their squares

    @torch.no_grad()
    def measure(self, values: Tensor) -> None:
        """Note values (n, size) for the next `update`."""
        # Around the mean so far, or little would be left of the squares of what is large and hardly varies.
        values = values - self.mean
        parts = [part.sum(0, dtype=torch.float64) for part in (torch.ones_like(values[:, :1]), values, values.square())]
        self.pending = torch.cat(parts) if self.pending is None else self.pending + torch.cat(parts)

    @torch.no_grad()
    def update(self, total: Callable[[Tensor], Tensor] = torch.clone) -> None:
        """Move the running figures towards those of what was noted since the last time; the first few count in full.

        `total` adds up what several processes have noted: then all have to call this.
        """
        empty = torch.zeros(1 + 2 * len(self.mean), dtype=torch.float64, device=self.mean.device)
        pending, self.pending = total(empty if self.pending is None else self.pending), None
        count, shift, squares = pending.split([1, len(self.mean), len(self.mean)])
        if count < 2:
            return
        shift, squares = shift / count, squares / count
        self.measured += 1
        weight = max(self.momentum, 1 / int(self.measured))
        self.mean += weight * shift
        # The mean square around the new mean, from that around the old one; rounding alone can make it negative.
        around = (squares - weight * (2 - weight) * shift.square()).clamp(min=0)
        self.variance.lerp_(around.to(self.variance), weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) -> (..., size)."""
        return ((x - self.mean) / (self.variance.sqrt() + self.floor)).clamp(-LIMIT, LIMIT)


def mlp(inputs: int, hidden: int, outputs: int, *, layers: int = 1) -> Full:
    """Linear, RMSNorm, SiLU blocks and a last linear layer that starts at zero, so that first outputs are neutral."""
    blocks: list[nn.Module] = []
    for i in range(layers):
        blocks += [nn.Linear(inputs if i == 0 else hidden, hidden), nn.RMSNorm(hidden, eps=1e-5), nn.SiLU()]
    last = nn.Linear(hidden if layers else inputs, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return Full(*blocks, last)
