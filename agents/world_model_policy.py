"""A policy trained in dreams plays a real environment: the world model watches and supplies the features."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agents.actions import no_actions
from agents.actor_critic import ActorCritic, ActorCriticConfig
from envs.policy import FrameArray, IntArray
from worldmodel.checkpoint import read_state
from worldmodel.errors import InputError
from worldmodel.model import WorldModel


class WorldModelPolicy:
    """Observes every real frame, together with the action that led to it, and samples from the actor.

    Features come from the same pass that commits a frame to memory in a dream, so the actor meets nothing new.
    `greedy` takes the most likely action instead; nothing is random then.
    """

    def __init__(self, model: WorldModel, agent: ActorCritic, *, greedy: bool = False) -> None:
        self.model, self.agent, self.greedy = model.eval(), agent.eval(), greedy
        self.memory = model.empty(0)
        self.led_here = no_actions(model.config, 0, model.device)
        self.generators: list[np.random.Generator] = []

    def reset(self, rows: IntArray, seeds: IntArray) -> None:
        """Rows that start an episode forget everything; rows that are new are added."""
        self._resize(max(len(self.generators), int(rows.max()) + 1))
        index = torch.as_tensor(rows, device=self.model.device)
        self.memory = self.memory.put(index, self.model.empty(len(rows)))
        self.led_here[index] = no_actions(self.model.config, len(rows), self.model.device)
        for row, seed in zip(rows.tolist(), seeds.tolist(), strict=True):
            self.generators[row] = np.random.default_rng(seed)

    @torch.no_grad()
    def act(self, frames: FrameArray, info: Mapping[str, Any]) -> NDArray[Any]:
        """Next actions for frames (N, h, w, 3): (N,) int64, or (N, A) float32 within their bounds where continuous.

        `info` is not looked at.
        """
        del info
        if len(frames) > len(self.generators):
            raise ValueError(f"{len(frames)} frames for {len(self.generators)} rows: reset every row before it acts")
        self._resize(len(frames))
        seen = torch.as_tensor(frames, device=self.model.device)[:, None]
        features, self.memory = self.model.observe(seen, self.led_here[:, None], self.memory)
        policy = self.agent.policy(features.features[:, 0])
        if self.greedy:
            actions = policy.mode
        else:
            # Draws of its own per row, whatever the others do: the inverse of the cumulative distribution.
            draws = np.stack([generator.random(policy.draws) for generator in self.generators])
            actions = policy.at(torch.as_tensor(draws, device=self.model.device))
        self.led_here = actions
        chosen: NDArray[Any] = actions.cpu().numpy().copy()  # the caller owns them
        return chosen

    def took(self, actions: NDArray[Any]) -> None:
        """Actions (N,) or (N, A) were done, instead of those that it chose last."""
        self.led_here = torch.as_tensor(actions).to(self.led_here, copy=True)

    def _resize(self, count: int) -> None:
        """Add rows that have seen nothing, or drop the last ones, left over from play with more rows."""
        kept = min(count, len(self.generators))
        if count == len(self.generators):
            return
        index = torch.arange(kept, device=self.model.device)
        self.memory = self.model.empty(count).put(index, self.memory.select(index))
        led_here = no_actions(self.model.config, count, self.model.device)
        self.led_here = led_here.index_copy(0, index, self.led_here[:kept])
        self.generators = self.generators[:kept] + [np.random.default_rng(0) for _ in range(count - kept)]


def load_agent(path: Path, model: WorldModel) -> ActorCritic:
    """The actor-critic of a `policy.pt`; it must read the features of `model`."""
    if not path.is_file():
        raise InputError(f"{path} does not exist: train a policy with train_agent.py first")
    state = read_state(path, model.device)
    networks = ActorCriticConfig(**state["networks"])
    have = (networks.features, networks.num_actions, networks.action_size)
    want = (model.config.features, model.config.num_actions, model.config.action_size)
    if have != want:
        raise InputError(
            f"{path} reads {_interface(*have)}, the world model has {_interface(*want)}: use the world model that it "
            "was trained in"
        )
    agent = ActorCritic(networks).to(model.device)
    agent.load_state_dict(state["agent"])
    return agent.eval()


def _interface(features: int, num_actions: int, action_size: int) -> str:
    actions = f"actions of {action_size} numbers" if action_size else f"{num_actions} actions"
    return f"{features} features and {actions}"
