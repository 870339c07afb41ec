"""Behaviour cloning: a policy learns what recorded players meant to do, as a start where dreams find no reward."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lssvwm.agents.dreamer.actor_critic import ActorCritic
from lssvwm.agents.dreamer.learner import ActorCriticLearner
from lssvwm.worldmodel.checkpoint import load_weights
from lssvwm.worldmodel.common.errors import InputError, check_least
from lssvwm.worldmodel.common.loggers import Scalars
from lssvwm.worldmodel.common.stepping import Figures, run_steps
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.episodes.data import INTENDED_KEY
from lssvwm.worldmodel.model import WorldModel

STATE = "cloning.pt"
ASK_EVERY = 20
"""Batches between two looks at what is held out."""


@dataclass(frozen=True)
class CloningConfig:
    """How a policy learns from recorded episodes (Pomerleau 1989)."""

    steps: int = 500
    """Batches of frames to learn from: before dreams begin, or with `--algo clone` in each round."""
    batch: int = 512
    """Frames per batch, drawn from all episodes alike."""
    best: float | None = None
    """Share of the episodes that is cloned, those of the highest returns; None: all. What random play reached by
    accident is worth cloning where reward is rare."""
    lr: float = 1e-3
    """Learning rate of actor and critic."""
    entropy: float = 1e-2
    """Weight of an entropy bonus: a policy that is certain explores nothing when dreams begin. 0: plain cloning."""
    held_out: float = 0.1
    """Share of the episodes, rounded down, that is not cloned but asked: the actor that answers best of those that are
    asked, every 20 batches, is kept, since few episodes are soon known by heart. Figure `held_out` beside `actor`, both
    the mean negative log-probability of what was meant. 0, or too few episodes: the last is kept."""
    critic: bool = True
    """Train the critic too, on the discounted returns of the same episodes."""
    discount: float = 0.97
    """What a reward one step later is worth to the critic; use that of the dreams."""
    rows: int = 16
    """Episodes that the world model watches at once."""
    length: int = 64
    """Frames of each that it watches at once. Neither changes what is learned."""
    clip: float = 1.0
    """Largest gradient norm, of actor and critic each."""
    save_seconds: float = 60.0
    """Time between checkpoints."""
    hidden: int = 256
    """Width of the hidden layers of actor and critic."""
    layers: int = 2
    """Hidden layers of actor and critic."""
    seed: int = 0
    """Which frames are drawn, and the first weights."""

    def __post_init__(self) -> None:
        check_least(self, 1, "batch", "rows", "length", "hidden", "layers", prefix="CloningConfig.")
        if self.best is not None and not 0 < self.best <= 1:
            raise InputError(f"best={self.best} is a share of the episodes: give a number above 0 and up to 1, or None")
        if not 0 <= self.held_out < 1:
            raise InputError(f"held_out={self.held_out} is a share of the episodes: give a number from 0 to below 1")
        if self.entropy < 0 or not 0 <= self.discount <= 1:
            raise InputError(
                f"entropy={self.entropy} and discount={self.discount}: entropy is at least 0, discount from 0 to 1"
            )


@dataclass(frozen=True)
class Lessons:
    """What M frames of E episodes teach: the action that was meant next, and the return from there on."""

    features: Tensor  # (M, F)
    actions: Tensor  # (M,) or (M, A), entry i was meant after frame i was seen
    returns: Tensor  # (M,), discounted, of the rewards up to the end of the recording
    episode: Tensor  # (M,) which one
    beyond: Tensor  # (M,) what the value of that episode's last frame is worth here; 0 where it terminated
    last: Tensor  # (E, F) features of the last frames


class Cloner(ActorCriticLearner):
    """Trains an `ActorCritic` on the episodes of `store` as `model` sees them; continues exactly from `cloning.pt`.

    The world model watches whole episodes from their first frame, as it does in play, and so what the actor reads
    holds all that was remembered. That happens once, before the first batch: F numbers per frame stay in memory.
    """

    FILE = STATE
    config: CloningConfig

    def __init__(
        self,
        model: WorldModel,
        store: EpisodeStore,
        config: CloningConfig,
        out: Path,
        *,
        writer: Scalars | None = None,
    ) -> None:
        """Clone the episodes of `store`."""
        super().__init__(model, config, out, writer)
        self.store = store
        self.lessons: Lessons | None = None
        self.questions: Lessons | None = None
        self.answered, self.lowest = math.nan, math.inf
        self.best: dict[str, Tensor] = {}
        self.resume()

    @property
    def chosen(self) -> ActorCritic:
        """A copy of the networks, with the actor that answered best, or, with nothing held out, as it is."""
        found = super().chosen
        if self.best:
            found.actor.load_state_dict(self.best)
        return found

    def extra_state(self) -> Mapping[str, Any]:
        """`chosen` in place of the networks, for whoever reads the file as a policy, and these beside it."""
        kept = {"answered": self.answered, "lowest": self.lowest}
        return {self.NETWORK: self.chosen.state_dict(), "last": self.agent.state_dict(), **kept}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `extra_state` gave; files of before know nothing of it."""
        self.answered, self.lowest = state.get("answered", math.nan), state.get("lowest", math.inf)
        if "last" in state:
            if math.isfinite(self.lowest):
                self.best = self._actor()  # `resume` has taken up `chosen`
            load_weights(self.agent, state["last"], self.out / self.FILE)

    def train(self, until: int, *, progress: bool = True) -> dict[str, float]:
        """Train up to batch number `until` and save; returns means over the last hundred batches at most."""
        return run_steps(
            self,
            until,
            name="cloning",
            unit="frame",
            units=self.config.batch,
            shown=("actor", "held_out", "entropy"),
            every=ASK_EVERY,
            save_seconds=self.config.save_seconds,
            writer=self.writer,
            progress=progress,
        )

    def prepare(self) -> None:
        """Watch the episodes."""
        self.agent.train()
        if self.lessons is None:
            names = best_episodes(self.store, self.config.best)
            # From the middle of as many stretches: where names stand by their returns, the best of all is cloned.
            number = math.floor(self.config.held_out * len(names))
            asked = {names[int((i + 0.5) * len(names) / number)] for i in range(number)}
            self.lessons = watch(self.model, self.store, [n for n in names if n not in asked], self.config)
            self.questions = watch(self.model, self.store, sorted(asked), self.config) if asked else None

    def train_step(self) -> Figures:
        """Learn from one batch of frames."""
        config, agent, lessons = self.config, self.agent, self.lessons
        assert lessons is not None
        round_ends = max(1, config.steps)
        if self.best and self.step % round_ends == 0:  # a new round: other questions, or another world model
            agent.actor.load_state_dict(self.best)
            self.optimizer.state.clear()  # moments of weights that are gone
            self.lowest, self.best = math.inf, {}
        # From the number of the batch alone, so that there is no state to save.
        drawn = np.random.default_rng((config.seed, self.step)).integers(len(lessons.actions), size=config.batch)
        index = torch.from_numpy(drawn).to(self.model.device)
        features = lessons.features[index]
        policy = agent.policy(features)
        entropy = policy.entropy().mean()
        actor_loss = -policy.log_prob(lessons.actions[index]).mean()
        loss = actor_loss - config.entropy * entropy
        figures: dict[str, Tensor | float] = {"actor": actor_loss.detach(), "entropy": entropy.detach()}
        if config.critic:
            with torch.no_grad():
                values = agent.value(lessons.last[lessons.episode[index]])
                targets = lessons.returns[index] + lessons.beyond[index] * values
            critic_loss = agent.twohot.loss(agent.critic(features), targets).mean()
            figures["critic"], loss = critic_loss.detach(), loss + critic_loss
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        for part in (agent.actor, agent.critic):
            nn.utils.clip_grad_norm_(part.parameters(), config.clip)
        self.whole = False
        self.optimizer.step()
        agent.update_slow()
        agent.familiarity.update(features, torch.ones_like(features[:, 0]))
        self.step += 1
        if self.questions is not None:
            if not self.best or self.step % ASK_EVERY == 1 or self.step % round_ends == 0:
                self._ask(self.questions)
            figures["held_out"] = self.answered
        self.whole = True
        return figures

    @torch.no_grad()
    def _ask(self, questions: Lessons) -> None:
        """Keep the actor where it answers better than ever before. The critic learns from all batches."""
        answers = self.agent.policy(questions.features).log_prob(questions.actions)
        self.answered = -float(answers.mean())
        if self.answered < self.lowest:
            self.lowest = self.answered
            self.best = self._actor()

    def _actor(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.agent.actor.state_dict().items()}


def best_episodes(store: EpisodeStore, share: float | None) -> list[str]:
    """Names of the episodes of the highest undiscounted returns, best first; at least one. All of them for None.

    Raises InputError where the store is empty.
    """
    if not len(store):
        raise InputError(f"{store.root} holds no episodes to clone: record some, or name another folder")
    if share is None:
        return list(store.names)
    returns = [float(np.sum(store.read_array(name, "reward"))) for name in store.names]  # type: ignore[arg-type]
    order = np.argsort(-np.array(returns), kind="stable")[: math.ceil(share * len(returns))]
    return [store.names[i] for i in order]


@torch.no_grad()
def watch(model: WorldModel, store: EpisodeStore, names: Sequence[str], config: CloningConfig) -> Lessons:
    """Let `model` observe whole episodes, and line up with every frame but the last what was meant to be done after it.

    That is what was done, unless the player was disturbed (`envs.policy.Disturbed`) and the recording says so.
    """
    index = {name: row for row, name in enumerate(store.names)}
    lengths, parts = store.lengths, list[Lessons]()
    waiting = sorted((index[name] for name in names), key=lambda row: int(lengths[row]))  # little is padding then
    for begin in range(0, len(waiting), config.rows):
        rows = np.array(waiting[begin : begin + config.rows])
        longest = int(lengths[rows].max())
        clips = store.gather(rows, np.zeros_like(rows), longest)
        memory, segments = model.empty(len(rows)), []
        for first in range(0, longest, config.length):
            shown = clips.span(slice(first, first + config.length)).to(model.device)
            seen, memory = model.observe(shown.frames, shown.actions, memory, **shown.goals)
            segments.append(seen.features)
        features = torch.cat(segments, 1)
        for row, steps in enumerate((lengths[rows] - 1).tolist()):
            meant = _intended(store, store.names[rows[row]], clips.actions[row, : steps + 1], model.config.num_actions)
            beyond = config.discount ** np.arange(steps, 0, -1) * (not clips.terminated[row, steps])
            returns = discounted_returns(clips.rewards[row, 1 : steps + 1].numpy(), config.discount)
            parts.append(
                Lessons(
                    features=features[row, :steps],
                    actions=meant[1:].to(model.device),
                    returns=torch.from_numpy(returns).to(features),
                    episode=torch.full((steps,), len(parts), device=model.device),
                    beyond=torch.from_numpy(beyond).to(features),
                    last=features[row, steps : steps + 1],
                )
            )
    return Lessons(*(torch.cat([getattr(part, name) for part in parts]) for name in Lessons.__annotations__))


def _intended(store: EpisodeStore, name: str, done: Tensor, count: int) -> Tensor:
    """What was meant instead of the actions `done` of an episode, whose first is none; those where nothing is told.

    Raises InputError for arrays of another shape, and for what is none of `count` actions, or no number.
    """
    told = store.read_array(name, INTENDED_KEY)
    if told is None:
        return done
    meant = torch.from_numpy(np.array(told, done.numpy().dtype))
    actions = meant[1:]
    known = actions.isfinite() if done.is_floating_point() else (actions >= 0) & (actions < count)
    if meant.shape != done.shape or not known.all():
        raise InputError(
            f"{store.root / name}: '{INTENDED_KEY}' has to be as 'action', {tuple(done.shape)}, of {count or 'finite'} "
            f"actions; it is {told.dtype} {told.shape}: record again, or leave it out, and what was done is cloned"
        )
    return meant


def discounted_returns(rewards: NDArray[np.floating[Any]], discount: float) -> NDArray[np.float64]:
    """Entry i: rewards[i] + discount * rewards[i + 1] + ... to the end, all (T,)."""
    returns, total = np.zeros(len(rewards)), 0.0
    for i in reversed(range(len(rewards))):
        returns[i] = total = float(rewards[i]) + discount * total
    return returns
