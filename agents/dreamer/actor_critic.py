"""Actor and critic on features, and the returns that they learn from."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lssvwm.agents.dreamer.action_head import ActionHead, check_actions, network_actions
from lssvwm.agents.dreamer.distributions import ActionDistribution
from lssvwm.agents.dreamer.familiarity import Familiarity
from lssvwm.worldmodel.actions import actions_of
from lssvwm.worldmodel.heads import TwoHot, mlp
from lssvwm.worldmodel.model import WorldModel

SCALE_RATE = 0.01
"""How fast the spread of returns follows, per batch (DreamerV3)."""


@dataclass(frozen=True)
class ActorCriticConfig:
    """Networks of the policy. The critic's distribution, slow copy and return normalisation follow DreamerV3."""

    features: int
    num_actions: int
    """Discrete actions; 0 where an action is a vector (`worldmodel.actions`)."""
    hidden: int = 256
    layers: int = 2
    slow_decay: float = 0.98
    """Decay of the critic's slow copy (DreamerV3)."""
    unimix: float = 0.01
    """Share of the even distribution in the choice among discrete actions (DreamerV3)."""
    low: tuple[float, ...] = ()
    """The lowest value of each number of a vector."""
    high: tuple[float, ...] = ()
    """Highest values."""
    choices: tuple[int, ...] = ()
    """From how many each number chooses, 0 where it lies between its bounds; () where all do."""

    def __post_init__(self) -> None:
        check_actions(self)

    @property
    def action_size(self) -> int:
        """Numbers of an action that is a vector; 0 where actions are discrete."""
        return len(self.low)


def networks_for(model: WorldModel, *, hidden: int = 256, layers: int = 2) -> ActorCriticConfig:
    """The networks that read the features of `model` and give its actions.

    Raises InputError where it does not know the bounds of its actions.
    """
    return ActorCriticConfig(
        model.config.features, **network_actions(actions_of(model.config)), hidden=hidden, layers=layers
    )


def fits(networks: ActorCriticConfig, model: WorldModel) -> bool:
    """Whether such networks read the features of `model` and give its actions."""
    wanted = networks_for(model)
    return all(getattr(networks, name) == getattr(wanted, name) for name in _INTERFACE)


def interface(networks: ActorCriticConfig) -> str:
    """What `fits` compares, for messages."""
    told = (f"{name}={value}" for name in _INTERFACE if (value := getattr(networks, name)))
    return ", ".join(told)


_INTERFACE = ("features", "num_actions", "low", "high", "choices")


class ActorCritic(nn.Module):
    """An actor for any action (`ActionHead`), and a two-hot critic with a slow copy, all on features (..., F)."""

    return_scale: Tensor
    return_updates: Tensor

    def __init__(self, config: ActorCriticConfig) -> None:
        super().__init__()
        self.config = config
        self.twohot = TwoHot()
        self.head = ActionHead(config)
        self.actor = mlp(config.features, config.hidden, self.head.scores, layers=config.layers)
        self.critic = mlp(config.features, config.hidden, self.twohot.count, layers=config.layers)
        self.slow_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.familiarity = Familiarity(config.features)
        self.register_buffer("return_scale", torch.ones(()))
        self.register_buffer("return_updates", torch.zeros((), dtype=torch.int64))

    def policy(self, features: Tensor) -> ActionDistribution:
        """Distribution over actions."""
        return self.head.policy(self.actor(features), self.config.unimix)

    def value(self, features: Tensor, slow: bool = True) -> Tensor:
        """Expected return, (...), by the slow copy of the critic or by the critic itself."""
        return self.twohot.mean((self.slow_critic if slow else self.critic)(features))

    @torch.no_grad()
    def update_slow(self) -> None:
        """Move the slow critic towards the critic."""
        torch._foreach_lerp_(
            list(self.slow_critic.parameters()), list(self.critic.parameters()), 1 - self.config.slow_decay
        )

    @torch.no_grad()
    def update_scale(self, returns: Tensor, weights: Tensor) -> None:
        """Track the spread of returns between their 5th and 95th percentile (DreamerV3, section "Actor learning").

        Each return counts by its weight, both (B, H), so that what a dream shows past its end does not. The moving
        average is debiased as Adam's are (Kingma and Ba 2015, section 3): at first it is nearly a plain mean.
        """
        ordered, order = returns.flatten().sort()
        share = weights.flatten()[order].cumsum(0)
        low, high = ordered[torch.searchsorted(share, share[-1] * share.new_tensor([0.05, 0.95]))]
        self.return_updates += 1
        self.return_scale += (
            SCALE_RATE / (1 - (1 - SCALE_RATE) ** self.return_updates) * (high - low - self.return_scale)
        )

    def normalise(self, advantages: Tensor, reward_unit: Tensor) -> Tensor:
        """Divide by the spread of returns, but by no less than the largest reward, where that is below 1.

        So where rewards are rare nothing is enlarged but noise is kept small, as in DreamerV3, whose floor is 1: there
        a world whose largest reward is 0.01 leaves advantages a hundredth of what entropy is weighed against.
        `reward_unit` () is the largest absolute reward that was really seen; 0 where none was, which counts as 1.
        """
        floor = torch.where(reward_unit > 0, reward_unit, 1.0).clamp(max=1.0)
        return advantages / torch.maximum(self.return_scale, floor)


def sample_action(policy: ActionDistribution, generator: torch.Generator) -> Tensor:
    """Draw one action per row from the caller's generator."""
    return policy.sample(generator)


def lambda_returns(rewards: Tensor, continues: Tensor, values: Tensor, lam: float) -> Tensor:
    """TD(lambda) targets of steps 0 ... H - 1 (DreamerV3, equation 7).

    rewards, continues (B, H): entry i came with frame i + 1; `continues` is the discount times the probability that the
    episode went on there. values (B, H + 1): of frames 0 ... H; the last one bootstraps, which is what a truncated
    dream needs.
        R_i = r_{i+1} + c_{i+1} * ((1 - lam) * v_{i+1} + lam * R_{i+1}),    R_H = v_H
    """
    if not rewards.shape == continues.shape == values[:, 1:].shape:
        raise ValueError(
            f"rewards and continues must be (B, H) and values (B, H + 1), got {tuple(rewards.shape)}, "
            f"{tuple(continues.shape)}, {tuple(values.shape)}"
        )
    target = values[:, -1]
    targets = []
    for i in reversed(range(rewards.shape[1])):
        target = rewards[:, i] + continues[:, i] * ((1 - lam) * values[:, i + 1] + lam * target)
        targets.append(target)
    return torch.stack(targets[::-1], 1)


def continuation_weights(continues: Tensor) -> Tensor:
    """How much step i of a dream counts, (B, H): the product of `continues` before it; the first counts fully."""
    ones = torch.ones_like(continues[:, :1])
    return torch.cat([ones, continues[:, :-1]], 1).cumprod(1)


def explained_variance(values: Tensor, returns: Tensor, weights: Tensor) -> Tensor:
    """What share of how `returns` vary the `values` foretell, (): at most 1; 0 is no better than their mean.

    All (B, H); `weights` say how much each counts. 0 too where nothing varies.
    """

    def variance(of: Tensor) -> Tensor:
        mean = (weights * of).sum() / weights.sum()
        return (weights * (of - mean).square()).sum()

    whole = variance(returns)
    return torch.where(whole > 1e-8, 1 - variance(returns - values) / whole, 0.0)
