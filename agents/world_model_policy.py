"""A policy trained in dreams plays a real environment: the world model watches and supplies the features."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.actor_critic import ActorCritic, ActorCriticConfig
from envs.policy import FrameArray, IntArray
from worldmodel.checkpoint import read_state
from worldmodel.episodes import NO_ACTION
from worldmodel.errors import InputError
from worldmodel.model import WorldModel


class WorldModelPolicy:
    """Observes every real frame, together with the action that led to it, and samples from the actor.

    Features come from the same pass that commits a frame to memory in a dream, so the actor meets nothing new.
    """

    def __init__(self, model: WorldModel, agent: ActorCritic, *, greedy: bool = False) -> None:
        self.model, self.agent, self.greedy = model.eval(), agent.eval(), greedy
        self.memory = model.empty(0)
        self.led_here = torch.zeros(0, dtype=torch.int64)
        self.generators: list[np.random.Generator] = []

    def reset(self, rows: IntArray, seeds: IntArray) -> None:
        """Rows that start an episode forget everything; rows that are new are added."""
        self._resize(max(len(self.generators), int(rows.max()) + 1))
        index = torch.as_tensor(rows, device=self.model.device)
        self.memory = self.memory.put(index, self.model.empty(len(rows)))
        self.led_here[index] = NO_ACTION
        for row, seed in zip(rows.tolist(), seeds.tolist(), strict=True):
            self.generators[row] = np.random.default_rng(seed)

    @torch.no_grad()
    def act(self, frames: FrameArray, info: Mapping[str, Any]) -> IntArray:
        """Next actions (N,) for frames (N, h, w, 3); `info` is not looked at."""
        del info
        if len(frames) > len(self.generators):
            raise ValueError(f"{len(frames)} frames for {len(self.generators)} rows: reset every row before it acts")
        self._resize(len(frames))
        seen = torch.as_tensor(frames, device=self.model.device)[:, None]
        features, self.memory = self.model.observe(seen, self.led_here[:, None], self.memory)
        probs = self.agent.policy(features.features[:, 0]).probs.double().cpu().numpy()
        if self.greedy:
            actions = probs.argmax(1)
        else:
            # One draw of its own per row, whatever the others do: the inverse of the cumulative distribution.
            draws = np.array([generator.random() for generator in self.generators])
            actions = np.minimum((probs.cumsum(1) < draws[:, None]).sum(1), probs.shape[1] - 1)
        self.led_here = torch.tensor(actions, device=self.model.device)  # a copy: the caller owns `actions`
        return np.asarray(actions, np.int64)

    def _resize(self, count: int) -> None:
        """Add rows that have seen nothing, or drop the last ones, left over from play with more rows."""
        kept = min(count, len(self.generators))
        if count == len(self.generators):
            return
        index = torch.arange(kept, device=self.model.device)
        self.memory = self.model.empty(count).put(index, self.memory.select(index))
        led_here = torch.full((count,), NO_ACTION, device=self.model.device)
        self.led_here = led_here.index_copy(0, index, self.led_here.to(led_here)[:kept])
        self.generators = self.generators[:kept] + [np.random.default_rng(0) for _ in range(count - kept)]


def load_agent(path: Path, model: WorldModel) -> ActorCritic:
    """The actor-critic of a `policy.pt`; it must read the features of `model`."""
    if not path.is_file():
        raise InputError(f"{path} does not exist: train a policy with train_agent.py first")
    state = read_state(path, model.device)
    networks = ActorCriticConfig(**state["networks"])
    wanted = (model.config.features, model.config.num_actions)
    if (networks.features, networks.num_actions) != wanted:
        raise InputError(
            f"{path} reads {networks.features} features and knows {networks.num_actions} actions, the world model has "
            f"{wanted[0]} and {wanted[1]}: use the world model that it was trained in"
        )
    agent = ActorCritic(networks).to(model.device)
    agent.load_state_dict(state["agent"])
    return agent.eval()
