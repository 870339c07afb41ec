"""Judging policies: real episodes on a fixed list of seeds, and the same policy's return in its own dream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from agents.actor_critic import ActorCritic, sample_action
from agents.statistics import Interval, bootstrap_interval
from envs.factory import EnvConfig
from envs.policy import Policy
from envs.recording import SEED_KEY, open_envs, play
from worldmodel.episodes import Episode, EpisodeStore
from worldmodel.model import WorldModel
from worldmodel.stepping import deferred_interrupts


@dataclass(frozen=True)
class Evaluation:
    """Real episodes of one policy, in the order of their seeds. A success is a termination that was rewarded."""

    name: str
    seeds: tuple[int, ...]
    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    successes: tuple[bool, ...]

    @property
    def interval(self) -> Interval:
        """Mean return with its 95 % interval (bootstrap over episodes)."""
        return bootstrap_interval(self.returns)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "return": self.interval.to_dict(), "success_rate": float(np.mean(self.successes))}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Evaluation:
        """Inverse of `to_dict`."""
        fields = ("seeds", "returns", "lengths", "successes")
        return cls(values["name"], *(tuple(values[field]) for field in fields))


@dataclass(frozen=True)
class Judged:
    """An evaluation and one of its episodes, to look at."""

    evaluation: Evaluation
    example: Episode


def evaluate(
    name: str,
    config: EnvConfig,
    policy: Policy,
    *,
    episodes: int,
    seed: int,
    num_envs: int,
    processes: bool = True,
    progress: bool = True,
) -> Judged:
    """Play the seeds `seed .. seed + episodes - 1` in the real environment. Nothing is recorded.

    The example is the longest episode among the first ten seeds: long enough to watch, and not chosen by its outcome.
    """
    wanted = range(seed, seed + episodes)
    results: dict[int, tuple[float, int, bool]] = {}
    example: Episode | None = None
    with (
        deferred_interrupts() as interrupt,
        open_envs(config, min(num_envs, episodes), processes=processes) as envs,
        tqdm(total=episodes, unit="episode", desc=f"{name} in the real environment", disable=not progress) as bar,
    ):
        for episode in play(envs, policy, wanted, between_steps=interrupt):
            key = int(episode.extras[SEED_KEY])
            total, steps = float(episode.reward.sum()), len(episode.image) - 1
            results[key] = (total, steps, bool(episode.terminated[-1]) and float(episode.reward[-1]) > 0)
            if key < seed + 10 and (example is None or len(episode.image) > len(example.image)):
                example = episode
            bar.update()
            bar.set_postfix({"return": f"{np.mean([r for r, _, _ in results.values()]):.3f}"}, refresh=False)
    assert example is not None
    returns, lengths, successes = zip(*(results[key] for key in wanted), strict=True)
    return Judged(Evaluation(name, tuple(wanted), returns, lengths, successes), example)


@torch.no_grad()
def imagined_returns(
    model: WorldModel,
    agent: ActorCritic,
    store: EpisodeStore,
    *,
    episodes: int,
    horizon: int,
    steps: int,
    seed: int,
) -> tuple[float, ...]:
    """Undiscounted returns of dreams that begin with a real first frame and end by a draw from the termination head.

    The same quantity as a real return, up to `horizon` steps; how far it lies above it is the exploitation gap.
    """
    data = np.random.default_rng(seed)
    generator = torch.Generator(model.device).manual_seed(seed)
    clips = store.sample_contexts(episodes, 1, data, start="episode").to(model.device)
    seen, memory = model.observe(clips.frames, clips.actions)
    features = seen.features[:, -1]
    total = torch.zeros(episodes, device=model.device)
    alive = torch.ones(episodes, dtype=torch.bool, device=model.device)
    for _ in range(horizon):
        action = sample_action(agent.policy(features), generator)
        imagined = model.imagine(action, memory, steps=steps, generator=generator)
        memory, features = imagined.memory, imagined.features
        total += torch.where(alive, imagined.reward, 0.0)
        alive &= torch.rand(episodes, generator=generator, device=model.device) >= imagined.termination
        if not alive.any():
            break
    return tuple(total.tolist())
