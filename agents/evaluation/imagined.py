"""What a policy earns in its own dreams: beside its real return, how far it exploits what the model has wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lssvwm.agents.dreamer.actor_critic import ActorCritic, sample_action
from lssvwm.envs.policy import Policy
from lssvwm.worldmodel.common.stepping import deferred_interrupts
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.model import WorldModel
from lssvwm.worldmodel.told import told_apart


@torch.no_grad()
def imagined_returns(
    model: WorldModel,
    agent: ActorCritic,
    store: EpisodeStore,
    *,
    episodes: int,
    horizon: int,
    steps: int | None,
    seed: int,
    rows: int = 32,
) -> tuple[float, ...]:
    """Undiscounted returns of dreams that begin with a real first frame and end by a draw from the termination head.

    The same quantity as a real return, up to `horizon` steps; how far it lies above it is the exploitation gap. The
    actor reads the features that come with every dreamt frame. `rows` dreams are computed at once.
    """
    generator, data = torch.Generator(model.device).manual_seed(seed), np.random.default_rng(seed)

    def act(frames: Tensor, features: Tensor, told: Mapping[str, Any]) -> Tensor:
        del frames, told
        return sample_action(agent.policy(features), generator)

    returns: list[float] = []
    while len(returns) < episodes:
        returns += _dream(model, store, act, min(rows, episodes - len(returns)), horizon, steps, data, generator)
    return tuple(returns)


@torch.no_grad()
def dreamt_returns(
    model: WorldModel,
    policy: Policy,
    store: EpisodeStore,
    *,
    episodes: int,
    horizon: int,
    steps: int | None,
    seed: int,
    rows: int = 32,
) -> tuple[float, ...]:
    """`imagined_returns` of any policy that acts on frames alone: it is shown the dreamt ones, and knows no difference.

    A policy with a world model of its own observes every frame anew, which costs that much more. `rows` dreams are
    computed at once. An interruption takes effect between two steps.
    """
    generator = torch.Generator(model.device).manual_seed(seed)
    data = np.random.default_rng(seed)

    def act(frames: Tensor, features: Tensor, told: Mapping[str, Any]) -> Tensor:
        del features
        interrupt()
        return torch.as_tensor(policy.act(frames.cpu().numpy(), told), device=model.device)

    returns: list[float] = []
    with deferred_interrupts() as interrupt:
        while len(returns) < episodes:
            count = min(rows, episodes - len(returns))
            policy.reset(np.arange(count), seed + len(returns) + np.arange(count))
            returns += _dream(model, store, act, count, horizon, steps, data, generator)
    return tuple(returns)


def _dream(
    model: WorldModel,
    store: EpisodeStore,
    act: Callable[[Tensor, Tensor, Mapping[str, Any]], Tensor],
    count: int,
    horizon: int,
    steps: int | None,
    data: np.random.Generator,
    generator: torch.Generator,
) -> list[float]:
    """Returns of `count` dreams. `act` is given frames (B, h, w, 3) uint8, features (B, F) and what they are told."""
    clips = store.sample_contexts(count, 1, data, start="episode").to(model.device)
    seen, memory = model.observe(clips.frames, clips.actions, **clips.goals)
    frames, features = clips.frames[:, -1], seen.features[:, -1]
    told = {} if clips.told is None else told_apart(clips.told[:, -1].cpu().numpy(), model.config.told)
    total = torch.zeros(count, device=model.device)
    alive = torch.ones(count, dtype=torch.bool, device=model.device)
    for _ in range(horizon):
        imagined = model.imagine(act(frames, features, told), memory, steps=steps, generator=generator, in_place=True)
        memory, frames, features = imagined.memory, imagined.frame, imagined.features
        total += torch.where(alive, imagined.reward, 0.0)
        alive &= torch.rand(count, generator=generator, device=model.device) >= imagined.termination
        if not alive.any():
            break
    return [float(value) for value in total]
