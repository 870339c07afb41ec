"""Muon: equal to torch's where that computes in bfloat16, and to the iteration on the matrices themselves."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lssvwm.worldmodel.training.muon import Muon, gram_factor, iterate, normalised, orthogonalised

SHAPES = [(12, 40), (40, 12), (12, 12), (12, 40), (7, 5), (1, 9), (9, 1)]


def matrices(shapes: list[tuple[int, int]] = SHAPES, seed: int = 0, **kind: Any) -> list[Tensor]:
    """With singular values over five decades, as gradients have them."""
    generator = torch.Generator().manual_seed(seed)
    drawn = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return [(m * torch.logspace(0, -5, m.shape[1], dtype=torch.float64)).to(**kind) for m in drawn]


def moved(optimizer: Any, steps: int = 4, **options: Any) -> list[Tensor]:
    """Parameters after steps of `optimizer` along gradients that differ by step."""
    parameters = [nn.Parameter(torch.ones(shape)) for shape in SHAPES]
    muon = optimizer(parameters, lr=0.1, weight_decay=0.05, **options)
    for step in range(steps):
        for parameter, gradient in zip(parameters, matrices(seed=step, dtype=torch.float32), strict=True):
            parameter.grad = gradient
        muon.step()
    return [parameter.detach() for parameter in parameters]


def difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Largest relative norm of the difference of two moves from ones."""
    pairs = zip(ours, theirs, strict=True)
    return max(float((mine - its).norm() / (its - 1).norm()) for mine, its in pairs)


@pytest.mark.parametrize(("dtype", "within"), [(torch.bfloat16, 2e-3), (torch.float32, 2e-2)])
def test_moves_as_torchs_does(dtype: torch.dtype, within: float) -> None:
    """In the precision that torch's has to the last digits; in float32 as far as those digits go."""
    assert difference(moved(Muon, dtype=dtype), moved(torch.optim.Muon)) < within


def test_float32_is_what_a_cpu_computes_in_and_is_right_to_its_digits() -> None:
    assert difference(moved(Muon), moved(Muon, dtype=torch.float32)) == 0
    assert 0 < difference(moved(Muon), moved(Muon, dtype=torch.float64)) < 1e-3


@pytest.mark.parametrize("shape", [(6, 6), (6, 31)])
def test_the_factor_does_what_the_iteration_does(shape: tuple[int, int]) -> None:
    X = torch.stack([normalised(matrix) for matrix in matrices([shape] * 3, dtype=torch.float64)])
    torch.testing.assert_close(gram_factor(X @ X.mT) @ X, iterate(X), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_singular_values_come_near_one_and_directions_stay(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    given = [torch.randn(shape, generator=generator) for shape in ((16, 50), (50, 16))]
    for before, after in zip(given, orthogonalised(given, dtype), strict=True):
        u, _, v = torch.linalg.svd(before, full_matrices=False)
        within = u.T @ after.float() @ v.T
        assert 0.6 < float(within.diagonal().min()) <= float(within.diagonal().max()) < 1.3
        assert float((within - within.diagonal().diag()).abs().max()) < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_matrix_is_moved_for_itself(dtype: torch.dtype) -> None:
    """Stacked with others or alone: in the order given, and a zero gradient beside others stays zero."""
    given = [*matrices(dtype=torch.float32), torch.zeros(12, 40)]
    together = orthogonalised(given, dtype)
    assert [tuple(matrix.shape) for matrix in together] == [*SHAPES, (12, 40)]
    for matrix, result in zip(given, together, strict=True):
        torch.testing.assert_close(result, orthogonalised([matrix], dtype)[0], rtol=1e-3, atol=1e-4)
    assert not together[-1].any()


def test_blocks_of_rows_are_moved_as_matrices_of_their_own() -> None:
    """Each with its own factor for its shape."""
    gradient = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    whole = nn.Parameter(torch.zeros(10, 4))
    parts = [nn.Parameter(torch.zeros(rows, 4)) for rows in (7, 3)]
    whole.grad = gradient
    for part, its in zip(parts, gradient.split((7, 3)), strict=True):
        part.grad = its.clone()
    Muon([{"params": [whole], "blocks": (7, 3)}], lr=0.1).step()
    Muon(parts, lr=0.1).step()
    torch.testing.assert_close(whole, torch.cat(parts))


def test_what_has_no_gradient_stays() -> None:
    still, other = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(3, 4))
    muon = Muon([still, other], lr=0.1)
    muon.step()
    other.grad = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    muon.step()
    assert torch.equal(still, torch.ones(3, 4))
    assert not torch.equal(other, torch.ones(3, 4))


def test_takes_matrices_alone() -> None:
    with pytest.raises(ValueError, match=r"Muon moves matrices, got a parameter of shape \(3,\)"):
        Muon([nn.Parameter(torch.ones(3))])


def test_goes_on_from_a_state_of_torchs() -> None:
    """Runs that began with `torch.optim.Muon` keep their momentum."""
    first, second = (torch.randn(4, 6, generator=torch.Generator().manual_seed(seed)) for seed in range(2))
    weight, twin = nn.Parameter(torch.ones(4, 6)), nn.Parameter(torch.ones(4, 6))
    theirs, ours = torch.optim.Muon([weight], lr=0.1), Muon([twin], lr=0.1, dtype=torch.bfloat16)
    weight.grad = first
    theirs.step()
    twin.data.copy_(weight)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    weight.grad, twin.grad = second, second
    theirs.step()
    ours.step()
    torch.testing.assert_close(twin, weight, rtol=1e-3, atol=1e-3)
