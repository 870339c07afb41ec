"""Learning by imagined rollouts: actor and critic trained on dreams alone (DreamerV3, on a video world model)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lssvwm.agents.dreamer.actor_critic import (
    ActorCritic,
    continuation_weights,
    explained_variance,
    fits,
    interface,
    lambda_returns,
    networks_for,
)
from lssvwm.agents.dreamer.config import DreamerConfig as DreamerConfig
from lssvwm.agents.dreamer.imagination import Dreams, dream, replayed_returns
from lssvwm.agents.dreamer.learner import ActorCriticLearner
from lssvwm.agents.dreamer.streaming import ContextSource, StreamingContexts, WindowContexts
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.common.loggers import Scalars
from lssvwm.worldmodel.common.stepping import rewinding, run_steps
from lssvwm.worldmodel.model import WorldModel
from lssvwm.worldmodel.sampling import Sampler, Sampling
from lssvwm.worldmodel.uncertainty import UncertaintyPenalty

STATE = "policy.pt"
ENTROPY_RATE = 0.05
"""How fast the logarithm of the entropy weight follows, per gradient step and unit of missing log-spread."""
LARGEST_ENTROPY = 1.0
"""The weight stops here: that of an advantage as large as the spread of returns."""


class Dreamer(ActorCriticLearner):
    """Trains an `ActorCritic` in the dreams of `model`; `out` receives `policy.pt`, from which it continues exactly.

    Where contexts are streamed and the memory of their readers exceeds `LARGEST_SAVED`, they read again: to rounding.
    It can be trained in portions, while the store grows and the world model learns: see `use`.
    """

    FILE = STATE
    config: DreamerConfig

    def __init__(
        self,
        model: WorldModel,
        source: ContextSource,
        config: DreamerConfig,
        out: Path,
        *,
        writer: Scalars | None = None,
    ) -> None:
        """Train in dreams of `model` that begin in `source`."""
        super().__init__(model, config, out, writer)
        kind = StreamingContexts if config.contexts == "stream" else WindowContexts
        self.contexts = kind(source, config.rows, config.context, config.episode_start)
        self.clone: ActorCritic | None = None
        self.reward_unit = torch.zeros((), device=model.device)
        self.data_generator = np.random.default_rng(config.seed)
        self.noise_generator = torch.Generator(model.device).manual_seed(config.seed)
        self.resume()

    def begin(self) -> None:
        """Begin anew, and with the first entropy weight."""
        super().begin()
        self.entropy_weight = torch.tensor(self.config.entropy, device=self.model.device)

    def start_from(self, agent: ActorCritic) -> None:
        """Begin with a copy of `agent`; `clone_kl` then holds the policy near it, as it is now."""
        self.agent.load_state_dict(agent.state_dict())
        if self.config.clone_kl:
            self.hold_to(agent.state_dict())

    def hold_to(self, weights: Mapping[str, Tensor]) -> None:
        """Let `clone_kl` hold the policy near that of an agent with these weights."""
        self.clone = copy.deepcopy(self.agent).eval().requires_grad_(False)
        self.clone.load_state_dict(weights)

    @property
    def clone_weight(self) -> float:
        """Weight of the divergence from the clone in the next batch."""
        half = self.config.clone_kl_half
        return self.config.clone_kl * (0.5 ** (self.step / half) if half else 1.0)

    def use(self, model: WorldModel, source: ContextSource) -> None:
        """Dream in `model` from contexts of `source` from the next batch on; what was learned stays.

        For loops that train world model and policy in turns: networks, optimiser, generators and the scale of returns
        go on; rows read again what `model` has not seen. Raises InputError where it has other features or actions.
        """
        if not fits(self.agent.config, model):
            raise InputError(
                f"this policy reads {interface(self.agent.config)}, the world model has "
                f"{interface(networks_for(model))}: go on with the world model that it was trained in, or start a new "
                "policy"
            )
        self.model, self.contexts.source = model, source
        self.contexts.enter(model)

    def train(self, until: int, *, progress: bool = True) -> dict[str, float]:
        """Train up to batch of dreams number `until` and save; returns means over the last hundred batches at most."""
        return run_steps(
            self,
            until,
            name="policy",
            unit="frame",
            units=self.config.rows * self.config.horizon,
            shown=("imagined_return", "entropy", "critic"),
            every=5,
            save_seconds=self.config.save_seconds,
            writer=self.writer,
            progress=progress,
        )

    def prepare(self) -> None:
        """A model that was trained in between is told that it is used now.

        Raises InputError where `clone_kl` has nothing to hold to.
        """
        if self.config.clone_kl and self.clone is None:
            raise InputError(
                f"clone_kl={self.config.clone_kl} holds a policy to what it was cloned from, and this one was not: "
                "start_from(agent) before training, or clone_kl=0"
            )
        self.model.eval()
        self.contexts.enter(self.model)
        self.agent.train()

    def train_step(self) -> dict[str, Tensor]:
        """Dream one batch and learn from it."""
        # The same again where a training that was stopped right here goes on.
        if self.config.reset_every and self.step and self.step % self.config.reset_every == 0:
            self.begin()
            self.agent.train()
        with rewinding(self.data_generator, self.noise_generator), self.contexts.rewinding():
            return self.learn(self.dream())

    def dream(self) -> Dreams:
        """Let the rows read on and follow the current policy from there through the imagination."""
        config = self.config
        wanted = Sampling(config.steps or self.model.config.usual_steps, precision=config.precision)
        return dream(
            Sampler(self.model, wanted),
            self.agent,
            self.contexts.next(self.model, self.data_generator),
            horizon=config.horizon,
            ended=config.ended,
            generator=self.noise_generator,
            penalty=UncertaintyPenalty(config.pessimism, config.pessimism_over),
        )

    def learn(self, dreams: Dreams) -> dict[str, Tensor]:
        """Several clipped policy-gradient and critic steps on one batch of dreams."""
        self.whole = False
        config, agent = self.config, self.agent
        with torch.no_grad():
            continues = config.discount * (1 - dreams.terminations)
            values = agent.value(dreams.features, config.slow_target)
            returns = lambda_returns(dreams.rewards, continues, values, config.lam)
            weights = continuation_weights(continues)
            alive = continuation_weights(1 - dreams.terminations)
            agent.update_scale(returns, alive)
            agent.familiarity.update(dreams.features[:, :-1], alive)
            self.reward_unit = torch.maximum(self.reward_unit, dreams.past.largest_reward)
            advantages = agent.normalise(returns - values[:, :-1], self.reward_unit)
            slow = agent.slow_critic(dreams.features[:, :-1]).softmax(-1)
            read = agent.value(dreams.past.features[:, :-1], config.slow_target)
            real = replayed_returns(read, dreams.past, returns[:, 0], config.discount, config.lam)
            slow_real = agent.slow_critic(dreams.past.features[:, :-1]).softmax(-1)
            cloned = None if self.clone is None else self.clone.policy(dreams.features[:, :-1])
        features, known = dreams.features[:, :-1], dreams.past.mask[:, :-1]
        replays, clone_weight, figures = config.replay_value > 0 and known.shape[1] > 0, self.clone_weight, {}
        for _ in range(config.epochs):
            policy = agent.policy(features)
            # What stands after an end has no weight, and must not overflow either.
            ratio = (policy.log_prob(dreams.actions) - dreams.log_probs).masked_fill(weights == 0, 0.0).exp()
            clipped = ratio.clamp(1 - config.clip_ratio, 1 + config.clip_ratio)
            gain = torch.minimum(ratio * advantages, clipped * advantages)
            entropy = policy.entropy()
            actor_loss = -(weights * (gain + self.entropy_weight * entropy)).mean()
            if cloned is not None:
                apart = policy.divergence(cloned)
                actor_loss = actor_loss + clone_weight * (weights * apart).mean()
                figures["clone_kl"] = (weights * apart.detach()).sum() / weights.sum()
            logits = agent.critic(features)
            pull = -(slow * logits.log_softmax(-1)).sum(-1)
            critic_loss = (weights * (agent.twohot.loss(logits, returns) + config.slow_weight * pull)).mean()
            if replays:
                logits = agent.critic(dreams.past.features[:, :-1])
                pull = -(slow_real * logits.log_softmax(-1)).sum(-1)
                loss = agent.twohot.loss(logits, real) + config.slow_weight * pull
                critic_loss = critic_loss + config.replay_value * (loss * known).sum() / known.sum().clamp(min=1)
            torch.autograd.backward(actor_loss + critic_loss)
            for part in (agent.actor, agent.critic):
                nn.utils.clip_grad_norm_(part.parameters(), config.clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            agent.update_slow()
            spread = (weights * policy.spread().detach()).sum() / weights.sum()
            self.adapt_entropy(spread)
        self.step += 1
        self.whole = True
        seen = torch.where(self.reward_unit > 0, self.reward_unit, 1.0)  # as `normalise` has it
        rewarded = (alive * dreams.rewards.abs()).amax(1) > seen / 2
        return {
            "imagined_return": (alive * dreams.rewards).sum(1).mean(),
            "rewarded": rewarded.float().mean(),
            "lambda_return": returns[:, 0].mean(),
            "value": values[:, 0].mean(),
            "explained_variance": explained_variance(values[:, :-1], returns, alive),
            "entropy": (weights * entropy.detach()).sum() / weights.sum(),
            "spread": spread,
            "entropy_weight": self.entropy_weight.clone(),
            "actor": actor_loss.detach(),
            "critic": critic_loss.detach(),
            "return_scale": agent.return_scale.clone(),
            **figures,
        }

    def adapt_entropy(self, spread: Tensor) -> None:
        """Raise the entropy weight while less than the wanted share of actions is in play, else lower it.

        Dual ascent on the constraint, as Soft Actor-Critic does it (Haarnoja et al. 2018, section 5), in logarithms.
        """
        if self.config.target_spread is not None:
            missing = (self.config.target_spread / spread).log()
            self.entropy_weight = (self.entropy_weight * (ENTROPY_RATE * missing).exp()).clamp(max=LARGEST_ENTROPY)

    def extra_state(self) -> Mapping[str, Any]:
        """Weights that are adapted, what the policy was cloned from, generators, and where the readers stand."""
        return {
            "entropy_weight": self.entropy_weight,
            "reward_unit": self.reward_unit,
            "clone": None if self.clone is None else self.clone.state_dict(),
            "data_generator": self.data_generator.bit_generator.state,
            "noise_generator": self.noise_generator.get_state(),
            "contexts": self.contexts.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up `extra_state`."""
        self.entropy_weight = state["entropy_weight"]
        # Earlier versions knew neither.
        self.reward_unit = state.get("reward_unit", self.reward_unit)
        if state.get("clone") is not None:
            self.hold_to(state["clone"])
        self.data_generator.bit_generator.state = state["data_generator"]
        self.noise_generator.set_state(state["noise_generator"].cpu())
        self.contexts.load_state_dict(state["contexts"], self.model)
