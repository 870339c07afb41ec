"""Actor and critic on features, and the returns that they learn from."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from worldmodel.heads import TwoHot, mlp


@dataclass(frozen=True)
class ActorCriticConfig:
    """Networks of the policy. The critic's distribution, slow copy and return normalisation follow DreamerV3."""

    features: int
    num_actions: int
    hidden: int = 256
    layers: int = 2
    slow_decay: float = 0.98
    """Decay of the critic's slow copy (DreamerV3)."""


class ActorCritic(nn.Module):
    """A categorical actor and a two-hot critic with a slow copy, both on features (..., F)."""

    return_scale: Tensor

    def __init__(self, config: ActorCriticConfig) -> None:
        super().__init__()
        self.config = config
        self.twohot = TwoHot()
        self.actor = mlp(config.features, config.hidden, config.num_actions, layers=config.layers)
        self.critic = mlp(config.features, config.hidden, self.twohot.count, layers=config.layers)
        self.slow_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.register_buffer("return_scale", torch.ones(()))

    def policy(self, features: Tensor) -> Categorical:
        """Distribution over actions."""
        return Categorical(logits=self.actor(features))

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

        Each return counts by its weight, both (B, H), so that what a dream shows past its end does not.
        """
        ordered, order = returns.flatten().sort()
        share = weights.flatten()[order].cumsum(0)
        low, high = ordered[torch.searchsorted(share, share[-1] * share.new_tensor([0.05, 0.95]))]
        self.return_scale.lerp_(high - low, 0.01)

    def normalise(self, advantages: Tensor) -> Tensor:
        """Divide by the spread of returns, but never enlarge small ones."""
        return advantages / self.return_scale.clamp(min=1.0)


def sample_action(policy: Categorical, generator: torch.Generator) -> Tensor:
    """Draw one action per row from the caller's generator."""
    return torch.multinomial(policy.probs, 1, generator=generator)[:, 0]


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
