"""Planning in the dream: action sequences are dreamt out from what was really seen, and the best one is begun.

Nothing is learned. Random shooting and the cross-entropy method as in PETS (Chua et al. 2018, section 5) and PlaNet
(Hafner et al. 2019, section 3 and algorithm 2); `agents.planning.proposals` says what candidates are drawn from.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lssvwm.agents.dreamer.action_head import allowed_in
from lssvwm.agents.dreamer.actor_critic import ActorCritic, networks_for
from lssvwm.agents.planning.proposals import Categorical, Distribution, around, is_open
from lssvwm.agents.policies.watching import Watcher
from lssvwm.envs.policy import FrameArray, IntArray
from lssvwm.worldmodel.actions import NO_ACTION
from lssvwm.worldmodel.common.errors import InputError, check_least
from lssvwm.worldmodel.common.loggers import Scalars
from lssvwm.worldmodel.layers.conditioning import no_actions
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.model import WorldModel

Method = Literal["cem", "shooting"]
Execute = Literal["best", "mean"]


@dataclass(frozen=True)
class PlanningConfig:
    """How actions are planned in dreams. A real step costs `iterations * horizon` calls of the world model, each for
    `candidates * particles` dreams of every row."""

    method: Method = "cem"
    """cem: candidates are drawn closer and closer around the best of those before. shooting: all are drawn evenly,
    `iterations` times."""
    candidates: int = 16
    """Action sequences that are dreamt at a time (PlaNet 1000, PETS 400 to 500; few discrete actions need less)."""
    iterations: int = 2
    """Times that candidates are drawn (PETS 5, PlaNet 10); what is left of the plan before goes on as one of them."""
    elites: int = 4
    """Best candidates that the next ones are drawn around, with method cem (a tenth of them in PETS and PlaNet)."""
    horizon: int = 12
    """Steps that are planned ahead (PlaNet 12, PETS 25 to 30)."""
    discount: float = 0.97
    """What a reward one step later is worth."""
    steps: int | None = None
    """Denoising steps per imagined frame; None: 2, or 1 of a world model with `shortcut`."""
    particles: int = 1
    """Dreams per candidate, whose returns are averaged (PETS 20). With 1, a plan counts on the chance it dreamt."""
    momentum: float = 0.1
    """Share of the distribution before that is kept when it is fitted to the elites (PETS)."""
    warm_start: bool = True
    """Begin with what is left of the plan made a step before (PETS); otherwise every step plans afresh (PlaNet)."""
    execute: Execute = "best"
    """Act by the best candidate, or with method cem by the mean (the mode) of the last distribution (PETS, PlaNet)."""
    max_rows: int = 1024
    """Most dreams at once; more are dreamt one part after the other."""

    def __post_init__(self) -> None:
        for name, choices in (("method", get_args(Method)), ("execute", get_args(Execute))):
            if getattr(self, name) not in choices:
                raise InputError(f"PlanningConfig.{name} is {getattr(self, name)!r}: choose one of {choices}")
        counts = ("candidates", "iterations", "elites", "horizon", "steps", "particles", "max_rows")
        check_least(self, 1, *counts, prefix="PlanningConfig.")
        if self.elites > self.candidates:
            raise InputError(f"elites={self.elites} of candidates={self.candidates}: choose fewer, or draw more")
        if not 0 <= self.momentum < 1 or not 0 < self.discount <= 1:
            raise InputError(
                f"momentum={self.momentum} and discount={self.discount}: momentum is from 0 to below 1, discount above "
                "0 and at most 1"
            )
        if self.method == "shooting" and self.execute == "mean":
            raise InputError("execute='mean' is for method='cem': shooting fits no distribution, choose 'best'")


class Planner:
    """Planning as an `Algorithm`: there is nothing to train, only to play."""

    def __init__(
        self,
        model: WorldModel,
        config: PlanningConfig,
        *,
        critic: ActorCritic | None = None,
    ) -> None:
        self.writer: Scalars | None = None
        self._play = functools.partial(PlanningPolicy, model, config, critic=critic)
        self._play()  # raises now what would be wrong later

    @property
    def logged(self) -> int:
        """There are no curves."""
        return 0

    def train(self, until: int, *, progress: bool = True) -> dict[str, float]:
        """Nothing to do, nothing to report."""
        del until, progress
        return {}

    def policy(self, *, greedy: bool = False) -> PlanningPolicy:
        """Plays the real environment. Raises InputError for `greedy`: a search has no most likely action."""
        if greedy:
            raise InputError("--algo plan plays what its search found best, it has no most likely action: no --greedy")
        return self._play()


class PlanningPolicy:
    """Observes every real frame, dreams candidates on from there, and takes the first action of what was best.

    Rows do not depend on each other, nor on `max_rows`. With `critic`,
    its value of the last dreamt frame stands for what comes after the horizon (TD-MPC, Hansen et al. 2022, section 3).
    """

    def __init__(
        self,
        model: WorldModel,
        config: PlanningConfig,
        *,
        critic: ActorCritic | None = None,
    ) -> None:
        self.networks = networks_for(model)
        if critic is not None and critic.config.features != model.config.features:
            raise InputError(
                f"the critic reads {critic.config.features} features, the world model has {model.config.features}: use "
                "a critic that was trained in this world model"
            )
        self.model, self.config = model.eval(), config
        self.critic = None if critic is None else critic.eval()
        self.watcher = Watcher(model)
        self._left: dict[int, Tensor] = {}  # of the plan made last, by row

    def reset(self, rows: IntArray, seeds: IntArray) -> None:
        """Rows that start an episode forget everything; rows that are new are added."""
        self.watcher.reset(rows, seeds)
        for row in rows.tolist():
            self._left.pop(row, None)

    def act(self, frames: FrameArray, info: Mapping[str, Any]) -> NDArray[Any]:
        """Next actions, int64 (N,) or float32 (N, A), for frames (N, h, w, 3).

        Masks in `info` (`envs.spaces.masks`) hold for the first action of a plan; what a dream allows, nobody knows.
        """
        self.watcher.see(frames, info)
        open_, config = self._open(), self.config
        known = [self._left.get(row, open_) if config.warm_start else open_ for row in range(len(frames))]
        plans = self.plan(torch.stack(known), allowed_in(info, len(frames), self.networks, self.model.device))
        self._left = {row: torch.cat([plan[1:], open_[:1]]) for row, plan in enumerate(plans)}
        self.watcher.took(plans[:, 0])
        chosen: NDArray[Any] = plans[:, 0].cpu().numpy().copy()  # the caller owns them
        return chosen

    def took(self, actions: NDArray[Any]) -> None:
        """Actions (N,) or (N, A) were done, instead of those that it chose last; where they differ, the plan ends."""
        chosen = self.watcher.led_here
        self.watcher.took(torch.as_tensor(actions))
        kept = (self.watcher.led_here == chosen).view(len(chosen), -1).all(1)
        self._left = {row: plan for row, plan in self._left.items() if kept[row]}

    @torch.no_grad()
    def plan(self, known: Tensor, allowed: Tensor | None = None) -> Tensor:
        """The best plans (N, H) or (N, H, A) from where the rows stand.

        `known`, of the same shape, is where to begin the search: open steps are -1, or NaN. `allowed` (N, n) bool
        are the first actions to choose from, all without.
        """
        config, generators = self.config, self.watcher.generators
        if allowed is not None:
            forbidden = ~allowed.gather(1, known[:, :1].clamp(min=0))[:, 0]
            known = known.clone()
            known[forbidden, 0] = NO_ACTION
        around = self._around(known if config.method == "cem" else self._open().expand_as(known))
        # All candidates of a row meet the same chance (PEGASUS, Ng and Jordan 2000), so that they and not their luck
        # are compared, and the best of one iteration remains the best of its equals in the next.
        if allowed is not None:
            assert isinstance(around, Categorical)
            around = around.beginning(allowed)
        chances = np.stack([generator.integers(2**63, size=config.particles) for generator in generators])
        best = known
        for _ in range(config.iterations):
            candidates = around.draw(generators, config.candidates)
            candidates[:, 0] = torch.where(is_open(best), candidates[:, 0], best)
            values = dream_values(self.model, self.watcher.memory, candidates, chances, config, self.critic)
            if config.method == "cem":
                around = around.fitted(_chosen(candidates, values.topk(config.elites).indices), config.momentum)
            best = _chosen(candidates, values.argmax(1, keepdim=True))[:, 0]
        return best if config.execute == "best" else around.mode()

    def _around(self, known: Tensor) -> Distribution:
        return around(known, self.networks)

    def _open(self) -> Tensor:
        """A plan (H,) or (H, A) that says nothing."""
        return no_actions(self.model.config, self.config.horizon, self.model.device)


def dream_values(
    model: WorldModel,
    memory: Memory,
    candidates: Tensor,
    chances: NDArray[np.int64],
    config: PlanningConfig,
    critic: ActorCritic | None = None,
) -> Tensor:
    """Expected discounted return of candidates (N, C, H[, A]) dreamt on from `memory` of N rows: (N, C).

    A reward counts by the probability that the episode has not ended before it. `chances` (N, P) int64 are the seeds
    of P dreams of every candidate of a row, whose returns are averaged.
    """
    rows, count, particles = *candidates.shape[:2], chances.shape[1]
    plans, parts = candidates.flatten(0, 1), []
    for dreams in torch.arange(rows * count * particles, device=candidates.device).split(config.max_rows):
        row, actions = dreams // (count * particles), plans[dreams // particles]
        seeds = chances[row.cpu().numpy(), (dreams % particles).cpu().numpy()].tolist()
        generators = [torch.Generator(model.device).manual_seed(seed) for seed in seeds]
        now = memory.select(row)
        total, weight = torch.zeros_like(row, dtype=torch.float32), torch.ones_like(row, dtype=torch.float32)
        for step in range(config.horizon):
            imagined = model.imagine(actions[:, step], now, steps=config.steps, generator=generators, in_place=True)
            total = total + weight * imagined.reward
            weight = weight * config.discount * (1 - imagined.termination)
            now = imagined.memory
        parts.append(total if critic is None else total + weight * critic.value(imagined.features))
    return torch.cat(parts).view(rows, count, particles).mean(-1)


def _chosen(candidates: Tensor, which: Tensor) -> Tensor:
    """Candidates `which` (N, E) of each row of (N, C, ...)."""
    return candidates[torch.arange(len(which), device=which.device)[:, None], which]
