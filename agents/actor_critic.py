"""Actor and critic on features, and the returns that they learn from."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from agents.actions import ActionDistribution, Bounded, Bounds, Discrete
from agents.familiarity import Familiarity
from worldmodel.errors import InputError
from worldmodel.heads import TwoHot, mlp

MIN_STD, MAX_STD = 0.1, 1.0
"""Limits of a continuous action's standard deviation, where its box runs from -1 to 1 (DreamerV3, `actor.minstd`)."""

SCALE_RATE = 0.01
"""How fast the spread of returns follows, per batch (DreamerV3)."""


@dataclass(frozen=True)
class ActorCriticConfig:
    """Networks of the policy. The critic's distribution, slow copy and return normalisation follow DreamerV3."""

    features: int
    num_actions: int
    """Discrete actions; 0 where they are continuous."""
    hidden: int = 256
    layers: int = 2
    slow_decay: float = 0.98
    """Decay of the critic's slow copy (DreamerV3)."""
    unimix: float = 0.01
    """Share of the even distribution in the choice among discrete actions (DreamerV3)."""
    low: tuple[float, ...] = ()
    """Lowest values of a continuous action, one for each of its numbers."""
    high: tuple[float, ...] = ()
    """Highest values."""

    def __post_init__(self) -> None:
        if bool(self.num_actions) == bool(self.low):
            raise InputError(
                f"num_actions={self.num_actions}, low={self.low}: give the number of discrete actions, or the bounds "
                "of continuous ones"
            )
        pairs = zip(self.low, self.high, strict=False)
        if len(self.low) != len(self.high) or not all(-math.inf < low < high < math.inf for low, high in pairs):
            raise InputError(f"low={self.low}, high={self.high}: give finite bounds, low below high, of equal number")

    @property
    def action_size(self) -> int:
        """Numbers of a continuous action; 0 where actions are discrete."""
        return len(self.low)


class ActorCritic(nn.Module):
    """An actor, discrete or continuous, and a two-hot critic with a slow copy, all on features (..., F)."""

    return_scale: Tensor
    return_updates: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, config: ActorCriticConfig) -> None:
        super().__init__()
        self.config = config
        self.twohot = TwoHot()
        outputs = config.num_actions or 2 * config.action_size
        self.actor = mlp(config.features, config.hidden, outputs, layers=config.layers)
        self.critic = mlp(config.features, config.hidden, self.twohot.count, layers=config.layers)
        self.slow_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.familiarity = Familiarity(config.features)
        self.register_buffer("return_scale", torch.ones(()))
        self.register_buffer("return_updates", torch.zeros((), dtype=torch.int64))
        for name, values in Bounds(config.low, config.high)._asdict().items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)

    def policy(self, features: Tensor) -> ActionDistribution:
        """Distribution over actions."""
        scores = self.actor(features)
        if not self.config.action_size:
            return Discrete.mixed(scores, self.config.unimix)
        mean, width = scores.chunk(2, -1)
        # Two more, so that a new agent tries almost the whole box (DreamerV3's bounded normal).
        std = MIN_STD + (MAX_STD - MIN_STD) * torch.sigmoid(width + 2)
        return Bounded(mean.tanh(), std, self.low, self.high)

    def value(self, features: Tensor) -> Tensor:
        """Expected return by the slow critic, (...)."""
        return self.twohot.mean(self.slow_critic(features))

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
