"""A policy trained in dreams plays a real environment: the world model watches and supplies the features."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lssvwm.agents.dreamer.action_head import allowed_in
from lssvwm.agents.dreamer.actor_critic import ActorCritic, ActorCriticConfig, fits, interface, networks_for
from lssvwm.agents.dreamer.distributions import masked
from lssvwm.agents.policies.watching import Watcher
from lssvwm.envs.policy import FrameArray, IntArray
from lssvwm.worldmodel.checkpoint import check_weights, read_state, taking_up
from lssvwm.worldmodel.common.errors import InputError, check_fields
from lssvwm.worldmodel.config_parts import DEEPEST
from lssvwm.worldmodel.model import WorldModel
from lssvwm.worldmodel.worlds.policy import read_policy


class WorldModelPolicy:
    """Observes every real frame, together with the action that led to it, and samples from the actor.

    Features come from the same pass that commits a frame to memory in a dream, so the actor meets nothing new.
    `greedy` takes the most likely action instead; nothing is random then.
    """

    def __init__(self, model: WorldModel, agent: ActorCritic, *, greedy: bool = False) -> None:
        self.model, self.agent, self.greedy = model.eval(), agent.eval(), greedy
        self.watcher = Watcher(model)
        self._distances: dict[int, list[float]] | None = None
        self._noting: list[list[float]] = []  # by row

    def reset(self, rows: IntArray, seeds: IntArray) -> None:
        """Rows that start an episode forget everything; rows that are new are added."""
        self.watcher.reset(rows, seeds)
        if self._distances is None:
            return
        missing = int(rows.max()) + 1 - len(self._noting)
        self._noting += [[] for _ in range(missing)]
        for row, seed in zip(rows.tolist(), seeds.tolist(), strict=True):
            self._noting[row] = []
            self._distances[seed] = self._noting[row]

    @torch.no_grad()
    def act(self, frames: FrameArray, info: Mapping[str, Any]) -> NDArray[Any]:
        """Next actions for frames (N, h, w, 3): (N,) int64, or (N, A) float32 within their bounds where continuous.

        Of `info`, masks of actions are looked at (`envs.spaces.masks`), and what the world model is told.
        """
        features = self.watcher.see(frames, info)
        if self._distances is not None:
            for noted, distance in zip(self._noting, self.agent.familiarity.distance(features).tolist(), strict=False):
                noted.append(distance)
        policy = masked(self.agent.policy(features), allowed_in(info, len(frames), self.agent.config, features.device))
        if self.greedy:
            actions = policy.mode
        else:
            # Draws of its own per row, whatever the others do: the inverse of the cumulative distribution.
            draws = np.stack([generator.random(policy.draws) for generator in self.watcher.generators])
            actions = policy.at(torch.as_tensor(draws, device=self.model.device))
        self.watcher.took(actions)
        chosen: NDArray[Any] = actions.cpu().numpy().copy()  # the caller owns them
        return chosen

    def took(self, actions: NDArray[Any]) -> None:
        """Actions (N,) or (N, A) were done, instead of those that it chose last."""
        self.watcher.took(torch.as_tensor(actions))

    @contextlib.contextmanager
    def noting(self) -> Iterator[Mapping[int, list[float]]]:
        """Note, by seed of each episode that begins within, how far its features lie from those learned from, by step.

        Seeds are taken for episodes: one that is begun again counts once, and what a row goes on to see after its
        episode has ended is noted too.
        """
        self._distances, self._noting = {}, []
        try:
            yield self._distances
        finally:
            self._distances, self._noting = None, []


def load_agent(path: Path, model: WorldModel) -> ActorCritic:
    """The actor-critic of a `policy.pt`, or the `policy.safetensors` of a packed world, reading features of `model`."""
    if not path.is_file():
        raise InputError(f"{path} does not exist: train a policy with train_agent.py first")
    # The file also holds the memory of the dreams, which may be gigabytes.
    state = read_policy(path) if path.suffix == ".safetensors" else read_state(path, torch.device("cpu"))
    with taking_up(path):
        networks = ActorCriticConfig(**state["networks"])
        check_fields(networks, "networks.")
        if networks.layers > DEEPEST:
            raise InputError(f"{path} has networks of {networks.layers} layers: {DEEPEST} are the most")
    if not fits(networks, model):
        raise InputError(
            f"{path} reads {interface(networks)}, the world model has {interface(networks_for(model))}: use the world "
            "model that it was trained in"
        )
    with taking_up(path):
        with torch.device("meta"):  # a few bytes of settings could ask for any amount of memory
            outline = ActorCritic(networks)
        # Policies of earlier versions do not say what they were trained on; how far real play lies from it is then NaN.
        unknown = {f"familiarity.{name}": value for name, value in outline.familiarity.state_dict().items()}
        check_weights(outline, {**unknown, **state["agent"]}, path)
        agent = ActorCritic(networks)
        agent.load_state_dict({**state["agent"]}, strict=False)
    return agent.to(model.device).eval()
