"""Scalars as two-hot distributions, and how features are read off a frame."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lssvwm.worldmodel.heads import Readout, Standardise, TwoHot, mlp
from worlds import assert_close, assert_same, generator, randomised

LIMIT = float(np.expm1(6.0))


def twohot(count: int = 127, limit: float = 6.0) -> TwoHot:
    return TwoHot(count, limit).double()


def values(*entries: float) -> Tensor:
    return torch.tensor(entries, dtype=torch.float64)


def by_hand(bins: Tensor, value: float) -> Tensor:
    """Weights on the two bins around a value by linear interpolation in raw units."""
    grid = bins.numpy()
    return torch.stack([torch.tensor(np.interp(value, grid, unit)) for unit in np.eye(len(grid))])


def test_bins_are_spaced_by_symlog() -> None:
    head = twohot(9, 4.0)
    expected = np.sign(np.arange(-4, 5)) * np.expm1(np.abs(np.arange(-4.0, 5.0)))
    torch.testing.assert_close(head.bins, torch.from_numpy(expected), rtol=1e-6, atol=1e-6)
    assert head.count == 9


def test_bins_are_symmetric_around_an_exact_zero() -> None:
    """A reward of zero, the most common of all, must be exactly one bin."""
    bins = TwoHot().bins
    assert_same(bins, -bins.flip(0))
    assert bins[63] == 0


@given(st.floats(-LIMIT * 0.999, LIMIT * 0.999))
def test_mean_inverts_encode(value: float) -> None:
    head = twohot()
    target = head.encode(values(value))
    assert_close(target.sum(-1), values(1.0))
    assert bool((target >= 0).all())
    used = target[0].nonzero()[:, 0].tolist()
    assert len(used) <= 2
    assert used[-1] - used[0] <= 1
    assert_close(head.mean(target.log()), values(value))


@pytest.mark.parametrize("value", [-400.0, -3.3, -1e-3, 0.0, 1e-3, 0.5, 1.0, 77.7, 402.0])
def test_encode_against_interpolation(value: float) -> None:
    head = twohot()
    assert_close(head.encode(values(value))[0], by_hand(head.bins, value))


def test_bins_themselves_are_one_hot() -> None:
    head = twohot()
    assert_close(head.encode(head.bins), torch.eye(127, dtype=torch.float64))


@pytest.mark.parametrize(("value", "index"), [(1e4, -1), (-1e4, 0), (torch.inf, -1), (-torch.inf, 0)])
def test_values_past_the_ends_count_as_the_ends(value: float, index: int) -> None:
    head = twohot()
    expected = torch.zeros(127, dtype=torch.float64)
    expected[index] = 1
    assert_close(head.encode(values(value))[0], expected)


@pytest.mark.parametrize("level", [0.0, 5.0, -300.0])
def test_uniform_logits_mean_zero(level: float) -> None:
    """In single precision too, where a head that starts at zero must not dream of rewards."""
    assert abs(float(twohot().mean(torch.full((127,), level, dtype=torch.float64)))) < 1e-9
    assert abs(float(TwoHot().mean(torch.full((127,), level)))) < 1e-4


def test_mean_is_an_expectation_in_raw_units() -> None:
    """Success with 9 in 30 % and failure with -2 in 70 %: 1.3, not the smaller mean in symlog units."""
    head = twohot()
    weights = 0.3 * head.encode(values(9.0)) + 0.7 * head.encode(values(-2.0))
    assert_close(head.mean(weights.log()), values(1.3))


def test_shapes() -> None:
    head = twohot()
    logits = torch.randn(2, 3, 4, 127, generator=generator(0), dtype=torch.float64)
    target = torch.randn(2, 3, 4, generator=generator(1), dtype=torch.float64)
    assert head.encode(target).shape == (2, 3, 4, 127)
    assert head.mean(logits).shape == head.loss(logits, target).shape == (2, 3, 4)
    assert_close(head.loss(logits, target)[1, 2, 3], head.loss(logits[1, 2, 3], target[1, 2, 3]))


def test_float32_targets_train_a_float64_head() -> None:
    """Recorded rewards are float32 whatever the precision of the model."""
    logits = torch.zeros(3, 127, dtype=torch.float64)
    target = torch.tensor([0.0, 0.5, -7.25])
    assert_close(twohot().loss(logits, target), twohot().loss(logits, target.double()))


def test_loss_and_gradient_are_those_of_cross_entropy() -> None:
    head, target = twohot(), values(-5.5, 0.0, 0.25, 100.0)
    logits = torch.randn(4, 127, generator=generator(0), dtype=torch.float64).requires_grad_()
    weights = torch.stack([by_hand(head.bins, v) for v in target.tolist()])
    loss = head.loss(logits, target)
    probabilities = logits.detach().exp() / logits.detach().exp().sum(-1, keepdim=True)
    assert_close(loss.detach(), -(weights * probabilities.log()).sum(-1))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert_close(gradient, probabilities - weights)
    assert torch.autograd.gradcheck(lambda x: head.loss(x, target), logits)


def test_descent_finds_the_mean_of_the_targets() -> None:
    head, targets = twohot(21, 3.0), values(1.0, 1.0, 0.0, -2.0)
    logits = torch.zeros(21, dtype=torch.float64, requires_grad=True)
    for _ in range(2000):
        (gradient,) = torch.autograd.grad(head.loss(logits.expand(4, 21), targets).mean(), logits)
        logits = (logits - gradient).detach().requires_grad_()
    assert abs(float(head.mean(logits.detach())) - 0.0) < 0.02


def test_bins_are_no_weights() -> None:
    assert not TwoHot().state_dict()


def test_features_depend_on_every_token_and_every_recall_and_their_places() -> None:
    readout = randomised(lambda: Readout(8, 32, [(4, 16), (2, 24)], 12), 0)
    source = generator(0)
    shapes = ((2, 3, 8, 32), (2, 3, 4, 16), (2, 3, 2, 24))
    parts = [torch.randn(shape, generator=source, dtype=torch.float64) for shape in shapes]
    with torch.no_grad():
        features = readout(parts[0], parts[1:])
        assert features.shape == (2, 3, 12)
        assert_close(readout(parts[0][1, 2], [part[1, 2] for part in parts[1:]]), features[1, 2])
        for number, part in enumerate(parts):
            for place in range(part.shape[2]):
                changed = [p.clone() for p in parts]
                changed[number][1, 2, place, 0] += 1
                differs = (readout(changed[0], changed[1:]) - features).abs().amax(-1) > 1e-6
                assert differs.nonzero().tolist() == [[1, 2]]
            swapped = [p.flip(2) if n == number else p for n, p in enumerate(parts)]
            assert (readout(swapped[0], swapped[1:]) - features).abs().max() > 1e-2


def test_features_of_a_model_without_a_scan() -> None:
    readout = randomised(lambda: Readout(8, 32, [], 12), 0)
    assert readout(torch.randn(2, 3, 8, 32, generator=generator(0), dtype=torch.float64), []).shape == (2, 3, 12)


def test_standardised_features_have_no_mean_and_unit_deviation() -> None:
    """Once they are measured; entries that never change stay finite."""
    standardise = Standardise(3).double()
    x = torch.randn(500, 3, generator=generator(0), dtype=torch.float64) * values(5.0, 0.1, 0.0) + values(
        7.0, -2.0, 3.0
    )
    passing = (x / (1 + 1e-3)).clamp(-10, 10)
    assert_same(standardise(x), passing)  # before that they pass by
    standardise.measure(x)
    assert_same(standardise(x), passing)  # and within the step
    standardise.update()
    y = standardise(x)
    assert_close(y.mean(0), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(y.square().mean(0), values(1.0, 1.0, 0.0), rtol=0.03, atol=0.01)
    assert_close(standardise(x[3]), y[3])
    assert_same(standardise(x[3] + values(0.0, 0.0, 0.5))[2], values(10.0)[0])  # what moves for the first time


def test_running_figures_by_hand() -> None:
    """Means of all batches at first, then a hundredth of each new one; a single frame has no deviation to measure."""
    standardise = Standardise(1, momentum=0.25).double()
    mean, variance = 0.0, 1.0
    for number, batch in enumerate(([1.0, 3.0], [5.0, 9.0, 4.0], [], [8.0], [0.0, 0.0], [2.0, 4.0], [6.0, 7.0]), 1):
        x = values(*batch)[:, None]
        before = (standardise.mean.clone(), standardise.variance.clone())
        standardise.measure(x)
        standardise.update()
        if len(batch) < 2:
            assert_same(standardise.mean, before[0])
            assert_same(standardise.variance, before[1])
            continue
        counted = number if number < 3 else number - 2
        weight = max(0.25, 1 / counted)
        mean += weight * (float(x.mean()) - mean)
        variance += weight * (float((x - mean).square().mean()) - variance)
        assert_close(standardise.mean, values(mean))
        assert_close(standardise.variance, values(variance))


def test_running_figures_do_not_depend_on_how_values_are_parted() -> None:
    """Nor on which process noted them; large values that hardly vary keep their deviation."""
    values = torch.randn(60, 3, generator=generator(0)) * torch.tensor([1e-2, 1.0, 5.0]) + torch.tensor([3e2, -2, 0])
    whole, parted, elsewhere = Standardise(3), Standardise(3), Standardise(3)
    for batch in values.split(20):
        whole.measure(batch)
        parted.measure(batch[:1])
        parted.measure(batch[1:9])
        elsewhere.measure(batch[9:])
        whole.update()
        parted.update(lambda noted: noted + elsewhere.pending)
        elsewhere.load_state_dict(parted.state_dict())
        elsewhere.pending = None
        torch.testing.assert_close(parted.state_dict(), whole.state_dict(), rtol=1e-6, atol=1e-8)
    # The running deviation is around the mean as it was at each update.
    torch.testing.assert_close(whole.mean, values.mean(0), rtol=1e-5, atol=1e-5)
    assert whole.variance.sqrt()[0] == pytest.approx(1e-2, rel=0.3)
    assert int(whole.measured) == 3
    parted.update(torch.zeros_like)
    assert_same(parted.state_dict(), elsewhere.state_dict())


def test_readout_measures_the_frames_that_are_named() -> None:
    """And says the same of a frame whether or not others stand beside it."""
    readout = randomised(lambda: Readout(2, 4, [(1, 3)], 5), 0)
    source = generator(0)
    tokens = torch.randn(2, 3, 2, 4, generator=source, dtype=torch.float64)
    recall = torch.randn(2, 3, 1, 3, generator=source, dtype=torch.float64)
    named = torch.tensor([[True, False, True], [False, False, True]])
    changed = torch.where(named[..., None, None], tokens, 100.0)
    with torch.no_grad():
        before = readout(tokens, [recall])
        assert_same(readout(tokens, [recall]), before)  # looking does not measure
        other = copy.deepcopy(readout)
        readout(tokens, [recall], named)
        other(changed, [recall], named)
        readout.standardise.update()
        other.standardise.update()
        assert_same(readout.state_dict(), other.state_dict())
        after = readout(tokens, [recall])
        assert (after - before).abs().max() > 1e-2
        assert_close(readout(tokens[1, 2], [recall[1, 2]]), after[1, 2])


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_first_outputs_are_neutral_and_can_learn(layers: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = mlp(5, 7, 3, layers=layers)
    x = torch.randn(4, 5, generator=generator(0))
    out = head(x)
    assert out.shape == (4, 3)
    assert not bool(out.any())
    gradient = torch.autograd.grad((out - 1).square().sum(), list(head[-1].parameters()))
    assert all(float(g.abs().max()) > 1e-3 for g in gradient)


def test_what_never_varies_stays_finite() -> None:
    """Rounding must not turn a variance of nothing into a negative one."""
    constants = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    module = Standardise(2000)
    for _ in range(3):
        module.measure(constants.expand(7, -1))
        module.update()
        assert float(module.variance.min()) >= 0
        assert bool(module(constants).isfinite().all())
