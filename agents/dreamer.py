"""Learning by imagined rollouts: actor and critic trained on dreams alone (DreamerV3, on a video world model)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from agents.actor_critic import ActorCritic, ActorCriticConfig, continuation_weights, lambda_returns, sample_action
from worldmodel.checkpoint import read_state, replace
from worldmodel.episodes import Clips
from worldmodel.model import WorldModel, weights_from
from worldmodel.stepping import rewinding, run_steps
from worldmodel.training import check_same

STATE = "policy.pt"


class ContextSource(Protocol):
    """Where the real beginnings of dreams come from; `EpisodeStore` is one."""

    def sample_contexts(self, batch: int, length: int, generator: np.random.Generator, *, start: Any = "any") -> Clips:
        """Draw `batch` windows of `length` frames after which the episode went on."""
        ...


@dataclass(frozen=True)
class DreamerConfig:
    """How a policy learns in dreams."""

    rows: int = 64
    """Dreams at a time."""
    horizon: int = 15
    """Imagined steps per dream (DreamerV3, DIAMOND)."""
    context: int = 16
    """Longest real context; each batch of dreams draws a length from 1 to this."""
    episode_start: float = 0.5
    """Share of batches whose contexts begin with an episode, as every real evaluation does."""
    steps: int = 2
    """Denoising steps per imagined frame."""
    discount: float = 0.97
    """What a reward one step later is worth."""
    lam: float = 0.95
    """Lambda of the returns: 0 trusts the critic after one step, 1 only at the end of a dream."""
    entropy: float = 1e-2
    """Weight of the entropy bonus, in units of normalised advantage."""
    lr: float = 1e-3
    """Learning rate of actor and critic."""
    epochs: int = 4
    """Gradient steps per batch of dreams. Imagining costs far more than learning from it, so a batch is used several
    times, kept honest by clipped probability ratios (PPO); with 1 this is DreamerV3's plain policy gradient."""
    clip_ratio: float = 0.2
    """How far the probability of an action may move within a batch, as a ratio (PPO)."""
    slow_weight: float = 1.0
    """Weight of the critic's pull towards its slow copy (DreamerV3)."""
    clip: float = 1.0
    """Largest gradient norm."""
    save_seconds: float = 60.0
    """Time between checkpoints."""
    seed: int = 0
    """Which contexts and which dreams are drawn, and the first weights."""


@dataclass(frozen=True)
class Dreams:
    """B imagined rollouts of H steps on the one time-line; frame 0 is the last real one."""

    features: Tensor  # (B, H + 1, F)
    actions: Tensor  # (B, H), entry i led to frame i + 1
    log_probs: Tensor  # (B, H), of those actions when they were taken
    rewards: Tensor  # (B, H), came with frame i + 1
    terminations: Tensor  # (B, H), probability that the episode ended in frame i + 1


class Dreamer:
    """Trains an `ActorCritic` in the dreams of `model`; `out` receives `policy.pt`, from which it continues exactly."""

    def __init__(
        self,
        model: WorldModel,
        source: ContextSource,
        config: DreamerConfig,
        out: Path,
        *,
        writer: SummaryWriter | None = None,
    ) -> None:
        self.model, self.source, self.config, self.out, self.writer = model.eval(), source, config, out, writer
        with weights_from(config.seed):
            agent = ActorCritic(ActorCriticConfig(model.config.features, model.config.num_actions))
        self.agent = agent.to(model.device)
        self.optimizer = torch.optim.AdamW(
            [*self.agent.actor.parameters(), *self.agent.critic.parameters()], lr=config.lr, weight_decay=0.0, eps=1e-5
        )
        self.step, self.whole = 0, True
        self.recent: list[dict[str, Tensor]] = []
        self.data_generator = np.random.default_rng(config.seed)
        self.noise_generator = torch.Generator(model.device).manual_seed(config.seed)
        if (out / STATE).exists():
            self.load()

    def train(self, until: int, *, progress: bool = True) -> dict[str, float]:
        """Train up to batch of dreams number `until` and save; returns means over the last fifty batches at most."""
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
        """Nothing comes before the first batch."""

    def train_step(self) -> dict[str, Tensor]:
        """Dream one batch and learn from it."""
        with rewinding(self.data_generator, self.noise_generator):
            return self.learn(self.dream())

    def agree(self, flag: bool) -> bool:
        """One process does all of it."""
        return flag

    @torch.no_grad()
    def dream(self) -> Dreams:
        """Observe real contexts, then follow the current policy through the imagination."""
        config = self.config
        length = int(self.data_generator.integers(1, config.context + 1))
        start = "episode" if self.data_generator.random() < config.episode_start else "any"
        clips = self.source.sample_contexts(config.rows, length, self.data_generator, start=start).to(self.model.device)
        seen, memory = self.model.observe(clips.frames, clips.actions)
        features = [seen.features[:, -1]]
        actions, log_probs, rewards, terminations = [], [], [], []
        for _ in range(config.horizon):
            policy = self.agent.policy(features[-1])
            action = sample_action(policy, self.noise_generator)
            imagined = self.model.imagine(action, memory, steps=config.steps, generator=self.noise_generator)
            memory = imagined.memory
            features.append(imagined.features)
            actions.append(action)
            log_probs.append(policy.log_prob(action))
            rewards.append(imagined.reward)
            terminations.append(imagined.termination)
        return Dreams(*(torch.stack(values, 1) for values in (features, actions, log_probs, rewards, terminations)))

    def learn(self, dreams: Dreams) -> dict[str, Tensor]:
        """Several clipped policy-gradient and critic steps on one batch of dreams."""
        self.whole = False
        config, agent = self.config, self.agent
        with torch.no_grad():
            continues = config.discount * (1 - dreams.terminations)
            values = agent.value(dreams.features)
            returns = lambda_returns(dreams.rewards, continues, values, config.lam)
            weights = continuation_weights(continues)
            alive = continuation_weights(1 - dreams.terminations)
            agent.update_scale(returns, alive)
            advantages = agent.normalise(returns - values[:, :-1])
            slow = agent.slow_critic(dreams.features[:, :-1]).softmax(-1)
        features = dreams.features[:, :-1]
        for _ in range(config.epochs):
            policy = agent.policy(features)
            ratio = (policy.log_prob(dreams.actions) - dreams.log_probs).exp()
            clipped = ratio.clamp(1 - config.clip_ratio, 1 + config.clip_ratio)
            gain = torch.minimum(ratio * advantages, clipped * advantages)
            entropy = policy.entropy()
            actor_loss = -(weights * (gain + config.entropy * entropy)).mean()
            logits = agent.critic(features)
            pull = -(slow * logits.log_softmax(-1)).sum(-1)
            critic_loss = (weights * (agent.twohot.loss(logits, returns) + config.slow_weight * pull)).mean()
            torch.autograd.backward(actor_loss + critic_loss)
            nn.utils.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], config.clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            agent.update_slow()
        self.step += 1
        self.whole = True
        return {
            "imagined_return": (alive * dreams.rewards).sum(1).mean(),
            "lambda_return": returns[:, 0].mean(),
            "value": values[:, 0].mean(),
            "entropy": entropy.detach().mean(),
            "actor": actor_loss.detach(),
            "critic": critic_loss.detach(),
            "return_scale": agent.return_scale.clone(),
        }

    def save(self) -> None:
        """Write the policy and all that is needed to continue it."""
        self.out.mkdir(parents=True, exist_ok=True)
        state: Mapping[str, Any] = {
            "step": self.step,
            "config": asdict(self.config),
            "networks": asdict(self.agent.config),
            "recent": self.recent,
            "agent": self.agent.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "data_generator": self.data_generator.bit_generator.state,
            "noise_generator": self.noise_generator.get_state(),
        }
        replace(self.out / STATE, lambda path: torch.save(state, path))

    def load(self) -> None:
        """Continue from `policy.pt`; refuses one of another configuration, naming what differs."""
        path = self.out / STATE
        state = read_state(path, self.model.device)
        check_same(path, state["networks"], asdict(self.agent.config))
        check_same(path, state["config"], asdict(self.config), but=("save_seconds",))
        self.step, self.recent = state["step"], state["recent"]
        self.agent.load_state_dict(state["agent"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.data_generator.bit_generator.state = state["data_generator"]
        self.noise_generator.set_state(state["noise_generator"].cpu())
