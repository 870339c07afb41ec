"""Muon (Jordan et al. 2024): momentum whose update is orthogonalised, so that all directions of a matrix move alike.

Five steps of s <- a s + b s^3 + c s^5 (Newton-Schulz) bring all singular values s near 1. In float32 the steps run on
the small side alone: with X = P X_0, P a polynomial in G = X_0 X_0^T, each step changes P and A = X X^T = P G P. For a
matrix four times as long as wide that takes half of the multiplications, and all matrices of one small side are
stacked, whatever their long one. bfloat16 has too few digits for G, whose singular values are squares; there X itself
is iterated, matrices of one shape together.

torch.optim.Muon always computes in bfloat16, which a CPU without such units emulates at a hundredth of the speed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

A, B, C = 3.4445, -4.7750, 2.0315
"""Coefficients of the iteration: the steepest at zero for which singular values still end between 0.7 and 1.2."""
STEPS = 5
SMALLEST = 1e-7
"""Smallest number that a matrix is divided by to bring its norm to 1."""


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay, for parameters that are matrices.

    A step moves a matrix of (rows, columns) by lr * sqrt(max(1, rows / columns)) in every direction. A group may name
    `blocks`, numbers of rows: each block of rows of its matrices is then orthogonalised for itself. `dtype` is what the
    iteration computes in; None takes bfloat16 on CUDA devices and float32 elsewhere. States are those of
    `torch.optim.Muon`, which knows no blocks.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "blocks": None})
        self.dtype = dtype
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2:
                    raise ValueError(f"Muon moves matrices, got a parameter of shape {tuple(parameter.shape)}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every matrix that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not moved:
                continue
            for parameter in moved:
                if "momentum_buffer" not in self.state[parameter]:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            momenta = [self.state[parameter]["momentum_buffer"] for parameter in moved]
            gradients = [parameter.grad for parameter in moved]
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])
            torch._foreach_mul_(moved, 1 - group["lr"] * group["weight_decay"])
            parts, steps = ([b for m in v for b in m.split(group.get("blocks") or len(m))] for v in (moved, ahead))
            for part, update in zip(parts, orthogonalised(steps, self.dtype), strict=True):
                rows, columns = part.shape
                part.sub_(update.to(part.dtype), alpha=group["lr"] * max(1.0, rows / columns) ** 0.5)
        return loss


def orthogonalised(matrices: Sequence[Tensor], dtype: torch.dtype | None = None) -> list[Tensor]:
    """Every matrix with its singular values brought near 1, in the order given; computed in `dtype` as in `Muon`."""
    wide = [matrix if len(matrix) <= len(matrix.T) else matrix.T for matrix in matrices]
    groups: dict[Any, list[int]] = defaultdict(list)
    for index, matrix in enumerate(wide):
        chosen = dtype or (torch.bfloat16 if matrix.device.type == "cuda" else torch.float32)
        small = chosen in (torch.float32, torch.float64)
        groups[matrix.device, chosen, small, matrix.shape[0] if small else matrix.shape].append(index)
    done: dict[int, Tensor] = {}
    for (_, chosen, small, _), indices in groups.items():
        scaled = [normalised(wide[index].to(chosen)) for index in indices]
        done |= zip(indices, _by_gram(scaled) if small else iterate(torch.stack(scaled)).unbind(), strict=True)
    return [done[i] if wide[i] is matrix else done[i].T for i, matrix in enumerate(matrices)]


def normalised(matrix: Tensor) -> Tensor:
    """The matrix divided by its norm: no singular value is then larger than 1."""
    scaled: Tensor = matrix / matrix.norm().clamp(min=SMALLEST)
    return scaled


def iterate(X: Tensor) -> Tensor:
    """Newton-Schulz on matrices (..., m, n) themselves, m <= n."""
    for _ in range(STEPS):
        gram = X @ X.mT
        X = torch.baddbmm(X, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), X, beta=A)
    return X


def gram_factor(gram: Tensor) -> Tensor:
    """P (..., m, m) with P X the result of the iteration, for the Gram matrices X X^T (..., m, m)."""
    one = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    whole: Tensor = one.expand_as(gram)
    for step in range(STEPS):
        factor: Tensor = torch.baddbmm(gram, gram, gram, beta=B, alpha=C) + A * one
        whole = factor @ whole if step else factor
        if step < STEPS - 1:
            gram = factor @ gram @ factor  # all are polynomials in one symmetric matrix
    return whole


def _by_gram(matrices: list[Tensor]) -> list[Tensor]:
    factors = gram_factor(torch.stack([matrix @ matrix.T for matrix in matrices]))
    return [factor @ matrix for factor, matrix in zip(factors, matrices, strict=True)]
