"""An actor-critic on the features of a world model, with its optimiser: what `Dreamer` and `Cloner` train."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from lssvwm.agents.algorithm import Learner
from lssvwm.agents.dreamer.actor_critic import ActorCritic, networks_for
from lssvwm.agents.policies.world_model import WorldModelPolicy
from lssvwm.worldmodel.common.loggers import Scalars
from lssvwm.worldmodel.common.rng import weights_from
from lssvwm.worldmodel.model import WorldModel


class ActorCriticLearner(Learner):
    """A `Learner` of an `ActorCritic`. Its `config` has hidden, layers, lr and seed.

    Raises InputError where the model does not know the bounds of its actions.
    """

    agent: ActorCritic

    def __init__(self, model: WorldModel, config: Any, out: Path, writer: Scalars | None) -> None:
        super().__init__(config, out, writer)
        self.model = model.eval()
        self.begin()

    def begin(self) -> None:
        """New networks that have learned nothing; which ones follows from the seed and the number of steps so far."""
        networks = networks_for(self.model, hidden=self.config.hidden, layers=self.config.layers)
        with weights_from(self.config.seed + self.step):
            self.agent = ActorCritic(networks)
        self.agent.to(self.model.device)
        learnt = [*self.agent.actor.parameters(), *self.agent.critic.parameters()]
        self.optimizer = torch.optim.AdamW(learnt, lr=self.config.lr, weight_decay=0.0, eps=1e-5)

    @property
    def chosen(self) -> ActorCritic:
        """A copy of the networks that play."""
        return copy.deepcopy(self.agent)

    def policy(self, *, greedy: bool = False) -> WorldModelPolicy:
        """What has been learned so far, playing the real environment; later training does not change it."""
        return WorldModelPolicy(self.model, self.chosen, greedy=greedy)
