"""Distributions over actions against numerical integration, and their samples against them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lssvwm.agents.dreamer.distributions import Bounded, Discrete, Factored
from lssvwm.worldmodel.layers.conditioning import no_actions
from worlds import generator, small_config

LOW, HIGH = torch.tensor([-0.5, 2.0]), torch.tensor([1.5, 2.2])


def bounded(mean: float, std: float, dimensions: int = 1) -> Bounded:
    shape = (1, dimensions)
    return Bounded(torch.full(shape, mean), torch.full(shape, std), LOW[:dimensions], HIGH[:dimensions])


def grid(count: int = 20001) -> Tensor:
    """Actions over the whole first side of the box, (count, 1)."""
    return torch.linspace(-0.5, 1.5, count, dtype=torch.float64)[:, None]


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.3, 0.1), (-0.9, 0.4), (1.0, 0.1), (0.999, 1.0)])
def test_density_and_entropy_are_those_of_the_integral(mean: float, std: float) -> None:
    policy = bounded(mean, std)
    density = policy.log_prob(grid()).exp()  # in units in which the box is 2 wide
    assert float(torch.trapezoid(density, dx=1e-4)) == pytest.approx(1, abs=2e-4)
    by_hand = -torch.trapezoid(density * density.clamp(min=1e-300).log(), dx=1e-4)
    assert float(policy.entropy()) == pytest.approx(float(by_hand), abs=1e-3)
    assert float(policy.entropy()) < math.log(2)
    assert float(policy.spread()) == pytest.approx(math.exp(float(by_hand)) / 2, abs=1e-3)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.3, 0.2), (-0.9, 0.4), (1.0, 0.15)])
def test_the_divergence_is_that_of_the_integral(mean: float, std: float) -> None:
    policy, other = bounded(mean, std), bounded(0.2, 0.5)
    density = policy.log_prob(grid()).exp()
    by_hand = torch.trapezoid(density * (policy.log_prob(grid()) - other.log_prob(grid())), dx=1e-4)
    assert float(policy.divergence(other)) == pytest.approx(float(by_hand), abs=2e-3)
    assert float(policy.divergence(policy)) == pytest.approx(0, abs=1e-5)


def test_the_divergence_of_choices_is_the_expected_difference_of_their_logarithms() -> None:
    p, q = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.25, 0.25, 0.5])
    by_hand = 0.5 * math.log(2) - 0.25 * math.log(2)
    assert float(Discrete(p.log()).divergence(Discrete(q.log()))) == pytest.approx(by_hand)
    assert float(Discrete(p.log()).divergence(Discrete(p.log()))) == 0


def test_the_divergence_of_several_choices_is_their_sum() -> None:
    p, q = torch.tensor([0.7, 0.2, 0.1]).log(), torch.tensor([0.2, 0.5, 0.3]).log()
    ours, theirs = Factored([Discrete(p), Discrete(q)]), Factored([Discrete(q), Discrete(p)])
    by_hand = Discrete(p).divergence(Discrete(q)) + Discrete(q).divergence(Discrete(p))
    assert float(ours.divergence(theirs)) == pytest.approx(float(by_hand))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.3, 0.1), (1.0, 0.1)])
def test_a_uniform_number_stands_for_its_quantile(mean: float, std: float) -> None:
    policy = bounded(mean, std)
    density = policy.log_prob(grid()).exp()
    cumulative = torch.cumulative_trapezoid(density, dx=1e-4)
    for share in (0.01, 0.3, 0.5, 0.9, 0.999):
        index = int(torch.searchsorted(cumulative, share))
        assert float(policy.at(torch.tensor([[share]]))) == pytest.approx(float(grid()[index]), abs=2e-3)


def test_numbers_of_an_action_are_independent_and_each_in_its_own_bounds() -> None:
    policy = bounded(0.5, 0.3, dimensions=2)
    both = policy.log_prob(torch.tensor([[1.0, 2.05]]))
    parts = [bounded(0.5, 0.3).log_prob(torch.tensor([[1.0]])), bounded(0.5, 0.3).log_prob(torch.tensor([[0.0]]))]
    torch.testing.assert_close(both, parts[0] + parts[1])  # 2.05 is a quarter along its side, as 0.0 is
    torch.testing.assert_close(policy.mode, torch.tensor([[1.0, 2.15]]))
    assert policy.draws == 2


@pytest.mark.parametrize("mean", [-1.0, 0.2, 1.0])
def test_nothing_leaves_the_box_or_becomes_infinite(mean: float) -> None:
    policy = bounded(mean, 0.1, dimensions=2)
    extremes = torch.tensor([[0.0, 0.0], [1 - 2**-53, 1 - 2**-53], [0.5, 1e-300]], dtype=torch.float64)
    actions = policy.at(extremes)
    assert actions.dtype == torch.float32
    assert bool(((actions >= LOW) & (actions <= HIGH)).all())
    assert bool(policy.log_prob(actions).isfinite().all())
    far = policy.log_prob(torch.stack([LOW, HIGH]))
    assert bool(far.isfinite().all())


def test_samples_come_as_the_density_says_and_from_the_given_generator() -> None:
    rows = 40000
    policy = Bounded(torch.full((rows, 1), 0.4), torch.full((rows, 1), 0.5), LOW[:1], HIGH[:1])
    samples = policy.sample(generator(0))
    counts = torch.histc(samples, 10, -0.5, 1.5) / rows
    density = bounded(0.4, 0.5).log_prob(grid()).exp()[:-1].view(10, -1)
    torch.testing.assert_close(counts.double(), density.sum(1).double() * 1e-4, atol=0.01, rtol=0)
    assert torch.equal(samples, policy.sample(generator(0)))
    assert not torch.equal(samples, policy.sample(generator(1)))


def test_gradients_raise_the_density_where_they_should() -> None:
    mean = torch.zeros(1, 1, requires_grad=True)
    std = torch.full((1, 1), 0.5, requires_grad=True)
    Bounded(mean, std, LOW[:1], HIGH[:1]).log_prob(torch.tensor([[1.2]])).sum().backward()
    assert mean.grad is not None
    assert std.grad is not None
    assert float(mean.grad) > 0
    assert float(std.grad) > 0


def test_the_even_share_keeps_every_discrete_action_alive() -> None:
    scores = torch.tensor([[100.0, 0.0, 0.0, 0.0]])
    policy = Discrete.mixed(scores, 0.04)
    torch.testing.assert_close(policy.probs, torch.tensor([[0.97, 0.01, 0.01, 0.01]]))
    torch.testing.assert_close(policy.log_prob(torch.tensor([2])), torch.tensor([0.01]).log())
    torch.testing.assert_close(Discrete.mixed(scores[:, 1:], 0.0).spread(), torch.ones(1))
    expected = -(0.97 * math.log(0.97) + 0.03 * math.log(0.01))
    assert float(policy.entropy()) == pytest.approx(expected, abs=1e-5)
    assert float(policy.spread()) == pytest.approx(math.exp(expected) / 4, abs=1e-5)


def test_a_uniform_number_stands_for_the_action_it_falls_on() -> None:
    policy = Discrete.mixed(torch.tensor([0.2, 0.3, 0.5]).log().expand(6, 3), 0.0)
    numbers = torch.tensor([0.0, 0.19, 0.21, 0.49, 0.51, 1 - 2**-53], dtype=torch.float64)
    assert policy.at(numbers[:, None]).tolist() == [0, 0, 1, 1, 2, 2]
    assert policy.mode.tolist() == [2] * 6


def test_no_action_is_what_a_world_model_takes_for_it() -> None:
    device = torch.device("cpu")
    assert no_actions(small_config(), 2, device).tolist() == [-1, -1]
    none = no_actions(small_config(num_actions=0, action_size=3), 2, device)
    assert none.shape == (2, 3)
    assert bool(none.isnan().all())
