"""Parts of a layer with gradients of their own, against the compositions of torch's functions that they replace."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lssvwm.worldmodel.layers.fused import convolve, gated_rms_norm, gelu, rms_norm, rotate
from worlds import generator


def drawn(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    source = generator(0)
    return [2 * torch.randn(shape, generator=source, dtype=torch.float64).to(dtype) for shape in shapes]


def convolved(past: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    joined = torch.cat([past, x], 1).transpose(1, 2)
    return functional.conv1d(joined, weight[:, None], bias, groups=len(weight)).transpose(1, 2)


def normed(x: Tensor, gate: Tensor, weight: Tensor) -> Tensor:
    return functional.rms_norm(x * functional.silu(gate), weight.shape, weight, 1e-5)


def turned(x: Tensor, angles: Tensor) -> Tensor:
    pairs = torch.complex(*x.chunk(2, -1)) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([pairs.real, pairs.imag], -1)


CASES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], list[tuple[int, ...]]]] = {
    "gelu": (gelu, lambda x: functional.gelu(x, approximate="tanh"), [(3, 5, 7)]),
    "convolution": (convolve, convolved, [(2, 3, 6), (2, 5, 6), (6, 4), (6,)]),
    "convolution of one token": (convolve, convolved, [(2, 3, 6), (2, 1, 6), (6, 4), (6,)]),
    "narrow convolution": (convolve, convolved, [(2, 1, 6), (2, 4, 6), (6, 2), (6,)]),
    "convolution without a past": (convolve, convolved, [(2, 0, 6), (2, 1, 6), (6, 1), (6,)]),
    "norm": (
        lambda *v: rms_norm(*v, 1e-5),
        lambda x, weight: functional.rms_norm(x, weight.shape, weight, 1e-5),
        [(2, 4, 6), (6,)],
    ),
    "gated norm": (lambda *v: gated_rms_norm(*v, 1e-5), normed, [(2, 4, 6), (2, 4, 6), (6,)]),
    "rotation": (
        lambda x, angles: rotate(x, angles.detach().cos(), angles.detach().sin()),
        lambda x, angles: turned(x, angles.detach()),
        [(2, 3, 2, 4, 6), (2, 3, 1, 1, 3)],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_composition(case: str) -> None:
    ours, theirs, shapes = CASES[case]
    given = drawn(*shapes)
    found = []
    for function in (ours, theirs):
        inputs = [value.clone().requires_grad_() for value in given]
        value = function(*inputs)
        weights = torch.randn(value.shape, generator=generator(1), dtype=value.dtype)
        found.append([value, *torch.autograd.grad(value, inputs, weights, allow_unused=True)])
    for mine, its in zip(*found, strict=True):
        assert (mine is None) == (its is None)
        if mine is not None:
            torch.testing.assert_close(mine, its, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_gradients_and_in_fewer_digits(case: str, dtype: torch.dtype) -> None:
    ours, theirs, shapes = CASES[case]
    given = drawn(*shapes, dtype=dtype)
    with torch.no_grad():
        within = 1e-5 if dtype == torch.float32 else 3e-2
        expected = theirs(*(value.float() for value in given))
        torch.testing.assert_close(ours(*given).float(), expected, rtol=within, atol=within)


@pytest.mark.parametrize("case", CASES)
def test_what_is_given_stays_as_it_is(case: str) -> None:
    """With and without gradients, where parts are computed in place."""
    ours, _, shapes = CASES[case]
    for wanted in (True, False):
        given = drawn(*shapes)
        before = [value.clone() for value in given]
        with torch.set_grad_enabled(wanted):
            value = ours(*(v.requires_grad_(wanted) for v in given))
            if wanted:
                torch.autograd.backward(value.sum())
        assert all(torch.equal(now, then) for now, then in zip(given, before, strict=True))


def test_large_values_do_not_overflow() -> None:
    x = torch.tensor([-1e4, -40.0, 0.0, 40.0, 1e4], requires_grad=True)
    y = gelu(x)
    torch.autograd.backward(y.sum())
    torch.testing.assert_close(y, torch.tensor([0.0, 0.0, 0.0, 40.0, 1e4]))
    torch.testing.assert_close(x.grad, torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]))
