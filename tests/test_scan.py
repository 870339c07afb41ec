"""The scan against the recurrence as it is written in the paper of Mamba-2."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lssvwm.worldmodel.layers.scan import even_chunk, scan, scan_chunked, scan_sequential, scan_step
from lssvwm.worldmodel.layers.triton_scan import Scanned
from worlds import assert_close, assert_same, generator


class Inputs(NamedTuple):
    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    state: Tensor


def inputs(length: int, seed: int = 0, b: int = 2, h: int = 3, p: int = 4, n: int = 5, grad: bool = False) -> Inputs:
    """Random inputs that decay between not at all and at once."""
    source = generator(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=source, dtype=torch.float64)

    dt = torch.exp(normal(b, length, h) - 2)
    A = -torch.exp(normal(h))
    values = (normal(b, length, h, p), dt, A, normal(b, length, n), normal(b, length, n), normal(h), normal(b, n, h, p))
    return Inputs(*(v.requires_grad_(grad) for v in values))


def by_hand(given: Inputs) -> Scanned:
    """The recurrence in loops over every index, sharing no operation with the package."""
    x, dt, A, B, C, D, start = (v.tolist() for v in given)
    state, y = start, [[[[0.0] * len(x[0][0][0]) for _ in A] for _ in row] for row in x]
    for b, row in enumerate(x):
        for t, token in enumerate(row):
            for h, head in enumerate(token):
                decay = math.exp(dt[b][t][h] * A[h])
                for p, value in enumerate(head):
                    read = 0.0
                    for n, (write, weight) in enumerate(zip(B[b][t], C[b][t], strict=True)):
                        state[b][n][h][p] = decay * state[b][n][h][p] + dt[b][t][h] * value * write
                        read += state[b][n][h][p] * weight
                    y[b][t][h][p] = read + D[h] * value
    return Scanned(torch.tensor(y, dtype=torch.float64), torch.tensor(state, dtype=torch.float64))


def cut(given: Inputs, begin: int, end: int, state: Tensor) -> Inputs:
    part = slice(begin, end)
    return given._replace(x=given.x[:, part], dt=given.dt[:, part], B=given.B[:, part], C=given.C[:, part], state=state)


def test_all_forms_follow_the_recurrence() -> None:
    values = inputs(9)
    expected = by_hand(values)
    assert_close(scan_sequential(*values), expected)
    assert_close(scan(*values), expected)
    assert_close(scan_chunked(*values, chunk=4), expected)
    step = scan_step(values.state, values.x[:, 0], values.dt[:, 0], values.A, values.B[:, 0], values.C[:, 0], values.D)
    assert_close(step.y, expected.y[:, 0])


@pytest.mark.parametrize(("length", "chunk"), [(1, 1), (1, 8), (5, 8), (8, 8), (16, 8), (17, 8), (23, 8), (24, 5)])
def test_chunked_equals_sequential(length: int, chunk: int) -> None:
    """One token, less than a chunk, whole chunks, ragged tails: outputs, state and the gradients of every input."""
    source, results = generator(1), []
    weights = [torch.randn(s, generator=source, dtype=torch.float64) for s in ((2, length, 3, 4), (2, 5, 3, 4))]
    for form in ("chunked", "sequential"):
        values = inputs(length, grad=True)
        out = scan_chunked(*values, chunk=chunk) if form == "chunked" else scan_sequential(*values)
        grads = torch.autograd.grad((out.y * weights[0]).sum() + (out.state * weights[1]).sum(), values)
        assert all(grad.abs().max() > 1e-3 for grad in grads)
        results.append((out, Inputs(*grads)))
    assert_close(results[0][0], results[1][0])
    assert_close(results[0][1], results[1][1])


@pytest.mark.parametrize("length", [1, 63, 64, 97, 200])
def test_scan_equals_sequential(length: int) -> None:
    values = inputs(length)
    assert_close(scan(*values), scan_sequential(*values))


def test_no_state_is_a_state_of_zeros() -> None:
    values = inputs(70)
    assert_same(scan(*values[:-1]), scan(*values._replace(state=torch.zeros_like(values.state))))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 160).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(1, max(1, n - 1)), max_size=6))))
def test_whole_equals_segments(case: tuple[int, set[int]]) -> None:
    length, cuts = case
    values = inputs(length, b=1, h=2, p=2, n=3)
    state, outputs = values.state, []
    for begin, end in pairwise(sorted({0, *cuts, length})):
        y, state = scan(*cut(values, begin, end, state))
        outputs.append(y)
    assert_close(Scanned(torch.cat(outputs, 1), state), scan(*values))


def test_gradient_reaches_over_segments() -> None:
    """What the last segment says about the first tokens is the same as in one scan."""
    whole, parts = inputs(90, grad=True), inputs(90, grad=True)
    state = parts.state
    for begin, end in ((0, 7), (7, 71), (71, 90)):
        y, state = scan(*cut(parts, begin, end, state))
    expected = torch.autograd.grad(scan(*whole).y[:, -1].sum(), whole)
    assert expected[0][:, :7].abs().max() > 0
    assert_close(Inputs(*torch.autograd.grad(y[:, -1].sum(), parts)), Inputs(*expected))


@pytest.mark.parametrize("length", [1, 30, 150])
def test_look_ahead_leaves_the_state_alone(length: int) -> None:
    values = inputs(length)
    before = values.state.clone()
    ahead = scan(*values, advance=False)
    assert_same(ahead.y, scan(*values).y)
    assert ahead.state is values.state
    assert_same(values.state, before)


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 30, 150])
def test_in_place_the_new_state_stands_where_the_old_one_was(length: int) -> None:
    values = inputs(length)
    expected = scan(*values)
    place = values.state.clone()
    found = scan(*values._replace(state=place), in_place=True)
    assert_close(found, expected)
    assert found.state.data_ptr() == place.data_ptr()
    assert_close(place, expected.state)


@torch.no_grad()
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("length", [1, 4, 130])
def test_under_autocast_the_state_keeps_its_digits(length: int, in_place: bool) -> None:
    values = Inputs(*(v.float() for v in inputs(length)))
    halved = values._replace(x=values.x.bfloat16(), B=values.B.bfloat16(), C=values.C.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        state = scan(*halved._replace(state=values.state.clone()), in_place=in_place).state
    assert state.dtype == torch.float32
    torch.testing.assert_close(state, scan(*values).state, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("length", [1, 3, 5])
def test_gradcheck(length: int) -> None:
    values = inputs(length, b=1, h=2, p=2, n=2, grad=True)
    assert torch.autograd.gradcheck(lambda *v: tuple(scan_chunked(*v, chunk=2)), tuple(values))
    assert torch.autograd.gradcheck(lambda *v: scan(*v, advance=False).y, tuple(values))


def test_decay_to_nothing_stays_finite() -> None:
    """Steps so large that the decay underflows, or would overflow if it were taken backwards in time."""
    values = Inputs(*(v.float() for v in inputs(130)))
    values = Inputs(*(v.detach().requires_grad_() for v in values._replace(dt=values.dt * 1e4)))
    y, state = scan(*values)
    grads = torch.autograd.grad(y.sum() + state.sum(), values)
    assert all(bool(torch.isfinite(v).all()) for v in (y, state, *grads))


@given(st.integers(1, 5000), st.integers(1, 300))
def test_even_chunk_pads_little(length: int, target: int) -> None:
    chunk = even_chunk(length, target)
    count = math.ceil(length / chunk)
    assert 1 <= chunk <= length
    assert chunk * count - length < count  # less than one token of padding per chunk
    assert chunk <= 1.5 * target + 1
    assert chunk >= min(length, 2 * target / 3)


@pytest.mark.parametrize("name", ["x", "dt", "B", "C"])
def test_wrong_number_of_dimensions(name: str) -> None:
    values = inputs(4)
    wrong = values._replace(**{name: getattr(values, name)[:, 0]})
    with pytest.raises(ValueError, match=r"scan wants x \(b, l, h, p\)"):
        scan(*wrong)
