"""Learning by imagined rollouts: actor and critic trained on dreams alone (DreamerV3, on a video world model)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from agents.actor_critic import (
    ActorCritic,
    continuation_weights,
    fits,
    interface,
    lambda_returns,
    networks_for,
)
from agents.imagination import Dreams, dream, replayed_returns
from agents.streaming import ContextSource, StreamingContexts, WindowContexts
from agents.world_model_policy import WorldModelPolicy
from worldmodel.atomic import replace
from worldmodel.checkpoint import read_state, taking_up
from worldmodel.errors import InputError
from worldmodel.model import WorldModel, weights_from
from worldmodel.stepping import rewinding, run_steps, settled
from worldmodel.training import check_same

STATE = "policy.pt"
ContextKind = Literal["stream", "window"]
ENTROPY_RATE = 0.05
"""How fast the logarithm of the entropy weight follows, per gradient step and unit of missing log-spread."""
LARGEST_ENTROPY = 1.0
"""The weight stops here: that of an advantage as large as the spread of returns."""


@dataclass(frozen=True)
class DreamerConfig:
    """How a policy learns in dreams; docs/dreamer.md sets the defaults beside those of the papers."""

    rows: int = 64
    """Dreams at a time (DIAMOND: 32; DreamerV3: one from each of 1024 states)."""
    horizon: int = 15
    """Imagined steps per dream (DreamerV3, R2I, DIAMOND)."""
    contexts: ContextKind = "stream"
    """Where dreams begin. stream: in rows that read on through whole episodes and remember all of them (DreamerV3 goes
    on from stored states, `replay_context`); window: in windows read from empty memory, which know nothing older."""
    context: int = 16
    """Most real frames that a row reads before a dream; each batch draws a number from 1 to this."""
    episode_start: float = 0.5
    """Share of rows (with windows: of batches) that read the first frames of an episode, where real play begins."""
    steps: int | None = None
    """Denoising steps per imagined frame (DIAMOND: 3; Dreamer 4: 4). None: 2, or 1 of a world model with `shortcut`."""
    discount: float = 0.97
    """What a reward one step later is worth (DreamerV3, R2I, Dreamer 4: 0.997; DIAMOND: 0.985)."""
    lam: float = 0.95
    """Lambda of the returns: 0 trusts the critic after one step, 1 only at the end of a dream (all: 0.95)."""
    entropy: float = 1e-2
    """Weight of the entropy bonus, in units of normalised advantage; with a target, the first weight. More than the
    papers use (DreamerV3: 3e-4; DIAMOND: 1e-3), for runs of a hundred batches instead of many thousands."""
    target_spread: float | None = None
    """Share of the actions that the policy should keep in play, in (0, 1): the entropy weight then adapts to it.
    None keeps the weight."""
    lr: float = 1e-3
    """Learning rate of actor and critic (DreamerV3: 4e-5; R2I on Memory Maze and DIAMOND: 1e-4)."""
    epochs: int = 4
    """Gradient steps per batch of dreams. Imagining costs far more than learning from it, so a batch is used several
    times, kept honest by clipped probability ratios (PPO); with 1 this is DreamerV3's plain policy gradient."""
    clip_ratio: float = 0.2
    """How far the probability of an action may move within a batch, as a ratio (PPO)."""
    reset_every: int = 0
    """Begin with new networks after every so many batches; 0 never does. What was learned first, in a world model that
    knew little, hinders what could be learned later (Nikishin et al. 2022, "The Primacy Bias"); give the batches of a
    round, and the data and the world model are all that outlasts it."""
    slow_weight: float = 1.0
    """Weight of the critic's pull towards its slow copy (DreamerV3)."""
    replay_value: float = 0.3
    """Weight of the critic's loss on the real rewards of the frames that rows have read (DreamerV3, `repval_loss`); 0
    learns from dreams alone."""
    clip: float = 1.0
    """Largest gradient norm, of actor and critic each."""
    ended: float = 0.01
    """A dream that goes on with no more than this probability has ended, and is not followed further, which is time
    saved; 0 follows every dream to the horizon."""
    save_seconds: float = 60.0
    """Time between checkpoints."""
    seed: int = 0
    """Which contexts and which dreams are drawn, and the first weights."""

    def __post_init__(self) -> None:
        for name in ("rows", "horizon", "context", "steps", "epochs"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"{name}={getattr(self, name)}: give at least 1")
        if self.contexts not in get_args(ContextKind):
            raise InputError(f"contexts={self.contexts!r}: choose stream or window")
        for name in ("discount", "lam", "episode_start"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}={getattr(self, name)}: give a number from 0 to 1")
        if self.entropy < 0 or (self.target_spread is not None and self.entropy == 0):
            raise InputError(f"entropy={self.entropy}: give a weight of at least 0, above 0 with target_spread")
        if self.target_spread is not None and not 0 < self.target_spread < 1:
            raise InputError(f"target_spread={self.target_spread}: give a share between 0 and 1")
        if not 0 <= self.ended < 1:
            raise InputError(f"ended={self.ended}: give a probability from 0 to below 1")
        if self.replay_value < 0:
            raise InputError(f"replay_value={self.replay_value}: give a weight of at least 0")
        if self.reset_every < 0:
            raise InputError(f"reset_every={self.reset_every}: give a number of batches, or 0")


class Dreamer:
    """Trains an `ActorCritic` in the dreams of `model`; `out` receives `policy.pt`, from which it continues exactly.

    Where contexts are streamed and the memory of their readers exceeds `LARGEST_SAVED`, they read again: to rounding.
    It can be trained in portions, while the store grows and the world model learns: see `use`.
    """

    def __init__(
        self,
        model: WorldModel,
        source: ContextSource,
        config: DreamerConfig,
        out: Path,
        *,
        writer: SummaryWriter | None = None,
    ) -> None:
        """Train in dreams of `model` that begin in `source`."""
        self.model, self.config, self.out, self.writer = model.eval(), config, out, writer
        kind = StreamingContexts if config.contexts == "stream" else WindowContexts
        self.contexts = kind(source, config.rows, config.context, config.episode_start)
        self.step, self.whole = 0, True
        self.begin()
        self.recent: list[dict[str, float]] = []
        self.data_generator = np.random.default_rng(config.seed)
        self.noise_generator = torch.Generator(model.device).manual_seed(config.seed)
        if (out / STATE).exists():
            self.load()

    @property
    def logged(self) -> int:
        """Batches of dreams so far."""
        return self.step

    def begin(self) -> None:
        """New networks that have learned nothing; which ones follows from the seed and the number of batches so far."""
        seed = self.config.seed + self.step
        self.agent, self.optimizer = new_learner(self.model, seed=seed, lr=self.config.lr)
        self.entropy_weight = torch.tensor(self.config.entropy, device=self.model.device)

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

    def policy(self, *, greedy: bool = False) -> WorldModelPolicy:
        """What has been learned so far, playing the real environment; later training does not change it."""
        return WorldModelPolicy(self.model, copy.deepcopy(self.agent), greedy=greedy)

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
        """A model that was trained in between is told that it is used now."""
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

    def agree(self, flag: bool) -> bool:
        """One process does all of it."""
        return flag

    def dream(self) -> Dreams:
        """Let the rows read on and follow the current policy from there through the imagination."""
        config = self.config
        return dream(
            self.model,
            self.agent,
            self.contexts.next(self.model, self.data_generator),
            horizon=config.horizon,
            steps=config.steps,
            ended=config.ended,
            generator=self.noise_generator,
        )

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
            agent.familiarity.update(dreams.features[:, :-1], alive)
            advantages = agent.normalise(returns - values[:, :-1])
            slow = agent.slow_critic(dreams.features[:, :-1]).softmax(-1)
            real = replayed_returns(agent, dreams.past, returns[:, 0], config.discount, config.lam)
            slow_real = agent.slow_critic(dreams.past.features[:, :-1]).softmax(-1)
        features, known = dreams.features[:, :-1], dreams.past.mask[:, :-1]
        replays = config.replay_value > 0 and known.shape[1] > 0
        for _ in range(config.epochs):
            policy = agent.policy(features)
            # What stands after an end has no weight, and must not overflow either.
            ratio = (policy.log_prob(dreams.actions) - dreams.log_probs).masked_fill(weights == 0, 0.0).exp()
            clipped = ratio.clamp(1 - config.clip_ratio, 1 + config.clip_ratio)
            gain = torch.minimum(ratio * advantages, clipped * advantages)
            entropy = policy.entropy()
            actor_loss = -(weights * (gain + self.entropy_weight * entropy)).mean()
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
        return {
            "imagined_return": (alive * dreams.rewards).sum(1).mean(),
            "lambda_return": returns[:, 0].mean(),
            "value": values[:, 0].mean(),
            "entropy": (weights * entropy.detach()).sum() / weights.sum(),
            "spread": spread,
            "entropy_weight": self.entropy_weight.clone(),
            "actor": actor_loss.detach(),
            "critic": critic_loss.detach(),
            "return_scale": agent.return_scale.clone(),
        }

    def adapt_entropy(self, spread: Tensor) -> None:
        """Raise the entropy weight while less than the wanted share of actions is in play, else lower it.

        Dual ascent on the constraint, as Soft Actor-Critic does it (Haarnoja et al. 2018, section 5), in logarithms.
        """
        if self.config.target_spread is not None:
            missing = (self.config.target_spread / spread).log()
            self.entropy_weight = (self.entropy_weight * (ENTROPY_RATE * missing).exp()).clamp(max=LARGEST_ENTROPY)

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
            "entropy_weight": self.entropy_weight,
            "data_generator": self.data_generator.bit_generator.state,
            "noise_generator": self.noise_generator.get_state(),
            "contexts": self.contexts.state_dict(),
        }
        replace(self.out / STATE, lambda path: torch.save(state, path))

    def load(self) -> None:
        """Continue from `policy.pt`; refuses one of another configuration, naming what differs."""
        path = self.out / STATE
        state = read_state(path, self.model.device)
        with taking_up(path):
            check_same(path, state["networks"], self.agent.config)
            check_same(path, state["config"], self.config, but=("save_seconds",))
            self.step, self.recent = state["step"], settled(state["recent"])
            self.agent.load_state_dict(state["agent"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.entropy_weight = state["entropy_weight"]
            self.data_generator.bit_generator.state = state["data_generator"]
            self.noise_generator.set_state(state["noise_generator"].cpu())
            self.contexts.load_state_dict(state["contexts"], self.model)


class Learner(NamedTuple):
    """An actor-critic, and what trains its actor and its critic."""

    agent: ActorCritic
    optimizer: torch.optim.AdamW


def new_learner(model: WorldModel, *, seed: int, lr: float) -> Learner:
    """First weights from `seed`, for the features and actions of `model`; raises as `networks_for`."""
    networks = networks_for(model)
    with weights_from(seed):
        agent = ActorCritic(networks)
    agent = agent.to(model.device)
    learnt = [*agent.actor.parameters(), *agent.critic.parameters()]
    return Learner(agent, torch.optim.AdamW(learnt, lr=lr, weight_decay=0.0, eps=1e-5))
