"""What heads read from a frame's features, and the distribution in which scalars are predicted."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class TwoHot(nn.Module):
    """Scalars as a distribution over fixed bins (DreamerV3, section "Critic learning"): symmetric, symlog-spaced.

    A target becomes weight on the two bins around it; the prediction is the mean over the bins, taken in raw units, so
    that it is the expectation also where outcomes are two-sided (success or failure).
    """

    bins: Tensor

    def __init__(self, count: int = 127, limit: float = 6.0) -> None:
        super().__init__()
        spaced = torch.linspace(-limit, limit, count)
        self.register_buffer("bins", spaced.sign() * spaced.abs().expm1(), persistent=False)

    @property
    def count(self) -> int:
        """Number of bins, the width of the logits."""
        return self.bins.shape[0]

    def mean(self, logits: Tensor) -> Tensor:
        """Logits (..., bins) -> expected values (...)."""
        return logits.softmax(-1) @ self.bins

    def encode(self, values: Tensor) -> Tensor:
        """Values (...) -> two-hot weights (..., bins). Values past the outer bins count as those."""
        values = values.clamp(self.bins[0], self.bins[-1])[..., None]
        above = torch.searchsorted(self.bins, values.contiguous()).clamp(1, self.count - 1)
        low, high = self.bins[above - 1], self.bins[above]
        weight = (values - low) / (high - low)
        target = torch.zeros(*values.shape[:-1], self.count, dtype=values.dtype, device=values.device)
        return target.scatter(-1, above - 1, 1 - weight).scatter(-1, above, weight)

    def loss(self, logits: Tensor, values: Tensor) -> Tensor:
        """Cross-entropy with the two-hot target: logits (..., bins), values (...) -> (...)."""
        return -(self.encode(values) * functional.log_softmax(logits, -1)).sum(-1)


class Readout(nn.Module):
    """All tokens of a frame to one feature vector: squeeze every token, then mix the places."""

    def __init__(self, tokens: int, dim: int, features: int) -> None:
        super().__init__()
        squeezed = max(4, 512 // tokens)
        self.squeeze = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, squeezed), nn.SiLU())
        self.mix = nn.Sequential(nn.Linear(tokens * squeezed, features), nn.LayerNorm(features))

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., S, D) -> (..., F)."""
        mixed: Tensor = self.mix(self.squeeze(hidden).flatten(-2))
        return mixed


def mlp(inputs: int, hidden: int, outputs: int, *, layers: int = 1) -> nn.Sequential:
    """Linear, RMSNorm, SiLU blocks and a last linear layer that starts at zero, so that first outputs are neutral."""
    blocks: list[nn.Module] = []
    for i in range(layers):
        blocks += [nn.Linear(inputs if i == 0 else hidden, hidden), nn.RMSNorm(hidden, eps=1e-5), nn.SiLU()]
    last = nn.Linear(hidden if layers else inputs, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*blocks, last)
