"""Returns against their definition and against numbers worked out by hand; the critic's slow copy; the scale."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lssvwm.agents.dreamer.actor_critic import (
    ActorCritic,
    ActorCriticConfig,
    continuation_weights,
    explained_variance,
    lambda_returns,
    sample_action,
)
from lssvwm.agents.dreamer.distributions import Bounded
from lssvwm.worldmodel.common.errors import InputError
from worlds import generator

ONE = torch.ones(())


def by_definition(rewards: Tensor, continues: Tensor, values: Tensor, lam: float) -> Tensor:
    """The lambda-weighted mean of all n-step returns, each a sum of its own."""
    batch, horizon = rewards.shape
    result = torch.zeros_like(rewards)
    for b in range(batch):
        for i in range(horizon):
            for n in range(1, horizon - i + 1):
                n_step = 0.0
                for k in range(n):
                    n_step += math.prod(continues[b, i : i + k].tolist()) * float(rewards[b, i + k])
                n_step += math.prod(continues[b, i : i + n].tolist()) * float(values[b, i + n])
                last = i + n == horizon
                result[b, i] += (lam ** (n - 1) if last else (1 - lam) * lam ** (n - 1)) * n_step
    return result


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("horizon", [1, 2, 7])
def test_lambda_returns_are_the_weighted_mean_of_n_step_returns(lam: float, horizon: int) -> None:
    source = generator(0)
    rewards = torch.randn(4, horizon, generator=source, dtype=torch.float64)
    continues = torch.rand(4, horizon, generator=source, dtype=torch.float64)
    continues[torch.rand(4, horizon, generator=source) < 0.2] = 0
    values = torch.randn(4, horizon + 1, generator=source, dtype=torch.float64)
    torch.testing.assert_close(
        lambda_returns(rewards, continues, values, lam), by_definition(rewards, continues, values, lam)
    )


@pytest.mark.parametrize(
    ("lam", "expected"),
    [
        (0.0, [1 + 0.9 * 20, 2 + 0.9 * 30, 3 + 0.9 * 40]),
        (1.0, [1 + 0.9 * (2 + 0.9 * 39), 2 + 0.9 * 39, 39]),
        (0.95, [1 + 0.9 * (0.05 * 20 + 0.95 * 36.695), 2 + 0.9 * (0.05 * 30 + 0.95 * 39), 39]),
    ],
)
def test_lambda_returns_by_hand_bootstrap_a_truncated_dream_with_its_last_value(
    lam: float, expected: list[float]
) -> None:
    returns = lambda_returns(
        torch.tensor([[1.0, 2.0, 3.0]]), torch.full((1, 3), 0.9), torch.tensor([[10.0, 20.0, 30.0, 40.0]]), lam
    )
    torch.testing.assert_close(returns, torch.tensor([expected]))


@pytest.mark.parametrize("lam", [0.0, 0.95, 1.0])
def test_nothing_after_a_termination_counts(lam: float) -> None:
    rewards = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    continues = torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    values = torch.tensor([[9.0, 5.0, 7.0, 8.0, 6.0]])
    first = lambda_returns(rewards, continues, values, lam)
    assert first[0, 1] == 2
    assert first[0, 0] == pytest.approx(1 + (1 - lam) * 5 + lam * 2)
    rewards[0, 2:], values[0, 2:] = 1e6, -1e6
    assert torch.equal(lambda_returns(rewards, continues, values, lam)[:, :2], first[:, :2])


@pytest.mark.parametrize(
    ("rewards", "continues", "values"),
    [((2, 3), (2, 3), (2, 3)), ((2, 3), (2, 4), (2, 4)), ((2, 3), (2, 3), (3, 4)), ((2, 3), (2, 2), (2, 4))],
)
def test_shapes_that_do_not_fit_are_refused(rewards: tuple[int], continues: tuple[int], values: tuple[int]) -> None:
    with pytest.raises(ValueError, match=r"rewards and continues must be \(B, H\) and values \(B, H \+ 1\)"):
        lambda_returns(torch.zeros(rewards), torch.zeros(continues), torch.zeros(values), 0.95)


def test_a_step_weighs_what_the_steps_before_it_left() -> None:
    continues = torch.tensor([[0.5, 0.8, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, 0.0]])
    expected = torch.tensor([[1.0, 0.5, 0.4, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0, 1.0]])
    torch.testing.assert_close(continuation_weights(continues), expected)


@pytest.fixture
def agent() -> ActorCritic:
    torch.manual_seed(0)
    return ActorCritic(ActorCriticConfig(features=6, num_actions=3, hidden=8, slow_decay=0.75))


def test_a_new_agent_chooses_evenly_and_expects_nothing(agent: ActorCritic) -> None:
    features = torch.randn(5, 6, generator=generator(0))
    torch.testing.assert_close(agent.policy(features).probs, torch.full((5, 3), 1 / 3))
    torch.testing.assert_close(agent.value(features), torch.zeros(5), atol=1e-4, rtol=0)


def test_the_slow_critic_moves_by_its_decay_and_gets_no_gradient(agent: ActorCritic) -> None:
    before = [p.clone() for p in agent.slow_critic.parameters()]
    with torch.no_grad():
        for p in agent.critic.parameters():
            p.add_(1.0)
    critic = [p.clone() for p in agent.critic.parameters()]
    agent.update_slow()
    for old, target, now, untouched in zip(
        before, critic, agent.slow_critic.parameters(), agent.critic.parameters(), strict=True
    ):
        torch.testing.assert_close(now, 0.75 * old + 0.25 * target)
        assert torch.equal(untouched, target)
        assert not now.requires_grad


def test_the_value_is_of_the_slow_critic(agent: ActorCritic) -> None:
    features = torch.randn(5, 6, generator=generator(0))
    before = agent.value(features)
    torch.nn.init.normal_(agent.critic[-1].weight, generator=generator(1))
    assert torch.equal(agent.value(features), before)
    agent.update_slow()
    assert not torch.allclose(agent.value(features), before)


def test_the_scale_follows_the_spread_of_returns_and_only_shrinks_advantages(agent: ActorCritic) -> None:
    advantages = torch.tensor([2.0, -4.0])
    assert torch.equal(agent.normalise(advantages, ONE), advantages)
    returns = torch.linspace(0, 1000, 1001)[None]  # 5th percentile 50, 95th 950
    agent.update_scale(returns, torch.ones(1, 1001))
    assert float(agent.return_scale) == pytest.approx(900)  # at once, whatever it was before
    torch.testing.assert_close(agent.normalise(advantages, ONE), advantages / 900)
    agent.update_scale(returns / 9, torch.ones(1, 1001))
    agent.update_scale(returns / 3, torch.ones(1, 1001))
    moments, average = (900.0, 100.0, 300.0), 0.0
    for spread in moments:
        average = 0.99 * average + 0.01 * spread
    assert float(agent.return_scale) == pytest.approx(average / (1 - 0.99**3))
    for _ in range(2000):
        agent.update_scale(torch.zeros(1, 10), torch.ones(1, 10))
    assert float(agent.return_scale) < 1e-3
    assert torch.equal(agent.normalise(advantages, ONE), advantages)
    assert "return_scale" in agent.state_dict()


def test_small_spreads_are_enlarged_up_to_the_largest_reward_and_no_further(agent: ActorCritic) -> None:
    advantages = torch.tensor([2.0, -4.0])
    agent.update_scale(torch.full((1, 10), 3.0), torch.ones(1, 10))
    assert float(agent.return_scale) == pytest.approx(0, abs=1e-5)
    for unit, divided_by in ((0.01, 0.01), (0.5, 0.5), (1.0, 1.0), (100.0, 1.0), (0.0, 1.0)):  # 0: none was seen
        normalised = agent.normalise(advantages, torch.tensor(unit))
        torch.testing.assert_close(normalised, advantages / divided_by)


def test_returns_without_weight_do_not_widen_the_scale(agent: ActorCritic) -> None:
    returns = torch.linspace(0, 1000, 1001).repeat(2, 1)
    returns[1] = torch.linspace(-1e6, 1e6, 1001)
    weights = torch.tensor([[0.5], [0.0]]).expand(2, 1001)
    agent.update_scale(returns, weights)
    assert float(agent.return_scale) == pytest.approx(900)


def test_explained_variance_by_hand() -> None:
    returns = torch.tensor([[0.0, 2.0], [4.0, 1e6]])
    weights = torch.tensor([[1.0, 1.0], [1.0, 0.0]])  # what has no weight is not asked
    assert float(explained_variance(returns + 7, returns, weights)) == 1
    assert float(explained_variance(torch.full_like(returns, 3), returns, weights)) == 0
    assert float(explained_variance(returns, torch.zeros_like(returns), weights)) == 0
    # What is left, 0, 2, 0, varies by 8 / 3, and the returns by 8.
    assert float(explained_variance(torch.tensor([[0.0, 0.0], [4.0, 0.0]]), returns, weights)) == pytest.approx(2 / 3)


def test_actions_are_drawn_as_often_as_the_policy_says_and_from_the_given_generator(agent: ActorCritic) -> None:
    with torch.no_grad():
        # What the even share adds is taken off beforehand.
        agent.actor[-1].bias.copy_((torch.tensor([0.2, 0.3, 0.5]) - 0.01 / 3).log())
        policy = agent.policy(torch.zeros(20000, 6))
    actions = sample_action(policy, generator(3))
    assert actions.shape == (20000,)
    torch.testing.assert_close(actions.bincount() / 20000, torch.tensor([0.2, 0.3, 0.5]), atol=0.02, rtol=0)
    assert torch.equal(actions, sample_action(policy, generator(3)))
    assert not torch.equal(actions, sample_action(policy, generator(4)))


def test_the_even_share_is_in_the_policy(agent: ActorCritic) -> None:
    with torch.no_grad():
        agent.actor[-1].bias.copy_(torch.tensor([100.0, 0.0, 0.0]))
        probs = agent.policy(torch.zeros(1, 6)).probs
    torch.testing.assert_close(probs, torch.tensor([[1 - 0.02 / 3, 0.01 / 3, 0.01 / 3]]))


def test_a_new_continuous_agent_tries_almost_all_of_the_box() -> None:
    torch.manual_seed(0)
    agent = ActorCritic(ActorCriticConfig(6, 0, low=(-2.0, 0.0), high=(2.0, 0.5)))
    with torch.no_grad():
        policy = agent.policy(torch.randn(5, 6, generator=generator(0)))
    assert isinstance(policy, Bounded)
    torch.testing.assert_close(policy.mode, torch.tensor([0.0, 0.25]).expand(5, 2))
    assert float(policy.spread().min()) > 0.9
    assert sample_action(policy, generator(1)).shape == (5, 2)


def test_a_continuous_agent_stays_between_its_narrowest_and_its_widest() -> None:
    agent = ActorCritic(ActorCriticConfig(6, 0, low=(0.0,), high=(1.0,)))
    for bias, std in ((-50.0, 0.1), (50.0, 1.0)):
        with torch.no_grad():
            agent.actor[-1].bias.fill_(bias)
        policy = agent.policy(torch.zeros(1, 6))
        assert isinstance(policy, Bounded)
        assert float(policy.std.detach()) == pytest.approx(std)
        assert float(policy.mode.detach()) == (bias > 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_actions": 0},
        {"num_actions": 2, "low": (0.0,), "high": (1.0,)},
        {"num_actions": 0, "low": (0.0, 0.0), "high": (1.0,)},
        {"num_actions": 0, "low": (1.0,), "high": (1.0,)},
        {"num_actions": 0, "low": (0.0,), "high": (math.inf,)},
    ],
)
def test_actions_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"low=\("):
        ActorCriticConfig(features=6, **wrong)
