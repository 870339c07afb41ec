"""Following a policy through the imagination of a world model: dreams as a record of what happened in them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lssvwm.agents.dreamer.actor_critic import ActorCritic, lambda_returns
from lssvwm.agents.dreamer.streaming import Contexts, Past
from lssvwm.worldmodel.sampling import Sampler
from lssvwm.worldmodel.uncertainty import UncertaintyPenalty


@dataclass(frozen=True)
class Dreams:
    """B imagined rollouts of H steps on the one time-line; frame 0 is the last real one.

    What stands after a termination of 1 has no meaning, and no weight in learning.
    """

    features: Tensor  # (B, H + 1, F)
    actions: Tensor  # (B, H) or (B, H, A), entry i led to frame i + 1
    log_probs: Tensor  # (B, H), of those actions when they were taken
    rewards: Tensor  # (B, H), came with frame i + 1
    terminations: Tensor  # (B, H), probability that the episode ended in frame i + 1
    past: Past  # up to frame 0


NO_PENALTY = UncertaintyPenalty()


@torch.no_grad()
def dream(
    sampler: Sampler,
    agent: ActorCritic,
    contexts: Contexts,
    *,
    horizon: int,
    ended: float,
    generator: torch.Generator,
    penalty: UncertaintyPenalty = NO_PENALTY,
    drop: bool | None = None,
) -> Dreams:
    """Act and imagine `horizon` times from where B contexts end; uses them up.

    A dream that goes on with a probability of at most `ended` is taken to have terminated; with 0 none is. With
    `drop` it is not followed further, which saves its part of the time; else it stays, of no weight, and shapes do too.
    None: on a CPU alone. Elsewhere the host would have to wait at every step to learn which rows these are.
    """
    past, memory = contexts
    features = past.features[:, -1]
    batch, alive = len(features), features.new_ones(len(features))
    drops = ended > 0 and (features.device.type == "cpu" if drop is None else drop)
    rows = torch.arange(batch, device=features.device)  # those that are still followed
    frames, taken = [features], []
    for _ in range(horizon):
        policy = agent.policy(features)
        action = policy.sample(generator)
        imagined = sampler.imagine(action, memory, generator=generator, in_place=not penalty.looks_back)
        reward = penalty.reward(sampler, action, memory, imagined, generator)
        alive = alive * (1 - imagined.termination)
        over = alive <= ended if ended else torch.zeros_like(alive, dtype=torch.bool)
        termination = imagined.termination.masked_fill(over, 1.0)
        parts = (action, policy.log_prob(action), reward, termination)
        frames.append(_placed(imagined.features, rows, frames[-1]))
        taken.append([_placed(part, rows, part.new_zeros(batch, *part.shape[1:])) for part in parts])
        memory, features = imagined.memory, imagined.features
        if drops and bool(over.any()):
            kept = (~over).nonzero()[:, 0]
            memory, features, rows, alive = memory.select(kept), features[kept], rows[kept], alive[kept]
            if not len(rows):
                break
    unseen = horizon - len(taken)
    frames += [frames[-1]] * unseen
    taken += [[torch.zeros_like(part) for part in taken[-1]]] * unseen
    actions, log_probs, rewards, terminations = (torch.stack(part, 1) for part in zip(*taken, strict=True))
    return Dreams(torch.stack(frames, 1), actions, log_probs, rewards, terminations, past)


def replayed_returns(values: Tensor, past: Past, imagined: Tensor, discount: float, lam: float) -> Tensor:
    """Lambda-returns (B, L - 1) of the real frames before the last, by real rewards and the `values` of those frames.

    The last frame is worth the `imagined` (B,) lambda-return of the dream that begins there (DreamerV3's `repl_loss`),
    or what came with the next frame where that one was the end. Of frames before a row's first they mean nothing.
    """
    last = torch.where(past.ended, past.beyond, imagined)
    values = torch.cat([values, last[:, None]], 1)
    rewards = past.rewards[:, 1:]
    if not rewards.shape[1]:
        return rewards
    return lambda_returns(rewards, torch.full_like(rewards, discount), values, lam)


def _placed(part: Tensor, rows: Tensor, others: Tensor) -> Tensor:
    """`others` (B, ...) with `part` in `rows`."""
    return part if len(part) == len(others) else others.index_copy(0, rows, part)
