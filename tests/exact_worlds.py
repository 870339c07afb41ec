"""Tiny worlds whose optimum is known by hand, with the verbs of `WorldModel`: two of memory, one of movement.

Memory is the state itself, so dreams in them are exact.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from doors import COLORS, color_of
from lssvwm.agents.dreamer.actor_critic import ActorCritic
from lssvwm.envs.dream import DreamVectorEnv
from lssvwm.worldmodel.actions import ActionPart, ActionSpec
from lssvwm.worldmodel.checkpoint import Checkpoint
from lssvwm.worldmodel.episodes import NO_ACTION, Clips, Episode, EpisodeStore
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.layers.runtime import Runtime
from lssvwm.worldmodel.model import Features, Imagined
from lssvwm.worldmodel.told import ToldPart, told_apart


@dataclass(frozen=True)
class Interface:
    """What a policy, and a dream environment, ask of a world model's configuration."""

    features: int
    num_actions: int
    action_size: int = 0
    action_parts: tuple[ActionPart, ...] = ()
    height: int = 8
    width: int = 8
    pose_size: int = 0
    chunk: int = 1
    shortcut: bool = False
    usual_steps: int = 1
    told: tuple[ToldPart, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def contexts_of(frames: Tensor, actions: Tensor) -> Clips:
    """First frames of episodes, (B, 1, h, w, 3)."""
    flat = torch.zeros(len(frames), 1)
    return Clips(frames, actions, flat, flat.bool(), torch.ones(len(frames), 1).bool())


def told(features: Tensor) -> Features:
    """Of one frame, which brought nothing: features (B, F)."""
    nothing = torch.zeros(len(features), 1)
    return Features(features[:, None], nothing, nothing, inputs=features[:, None])


BACKBONE = SimpleNamespace(runtime=Runtime(), use=lambda runtime: None)
"""What a `Sampler` sets; exact worlds have nothing to set."""


class CueWorld:
    """A cue is shown in the first frame only. After `WALK` steps, whatever they were, comes the choice: reward 1 for
    the action that the cue named, and the end either way. So the best return is 1, and 1 / CUES for whoever forgets.

    What is dreamed after the end is a trap: the choices of all cues, one after the other, and the wrong one rewarded.
    """

    CUES, WALK = 4, 3
    device, backbone = torch.device("cpu"), BACKBONE
    config = Interface(features=CUES * (WALK + 1), num_actions=CUES)

    lengths = np.array([2])  # of the episodes that its contexts are of

    def eval(self) -> CueWorld:
        return self

    def sample_contexts(self, batch: int, length: int, generator: np.random.Generator, *, start: Any = "any") -> Clips:
        cues = torch.from_numpy(generator.integers(self.CUES, size=batch))
        frames = cues.to(torch.uint8)[:, None, None, None, None].expand(-1, 1, 1, 1, 3)
        return contexts_of(frames, torch.full((batch, 1), NO_ACTION))

    def observe(self, frames: Tensor, actions: Tensor, memory: Memory | None = None) -> tuple[Features, Memory]:
        state = torch.stack([frames[:, 0, 0, 0, 0].long(), torch.zeros(len(frames)).long()], 1)  # (cue, steps taken)
        return told(self.look(state)), Memory((), state)

    def imagine(self, actions: Tensor, memory: Memory, **_: Any) -> Imagined:
        cue, taken = memory.frames.unbind(1)
        reward = torch.where(taken < self.WALK, 0.0, (actions == cue).float())
        trap = (actions != self.shown(memory.frames)).float()
        reward = torch.where(taken > self.WALK, trap, reward)
        after = torch.stack([cue, taken + 1], 1)
        ended = (taken == self.WALK).float()
        return Imagined(torch.zeros(len(cue), 1, 1, 3).byte(), reward, ended, self.look(after), Memory((), after))

    def shown(self, state: Tensor) -> Tensor:
        """The cue that the features tell: after the end others than the real one."""
        cue, taken = state.unbind(1)
        return (cue + (taken - self.WALK).clamp(min=0)) % self.CUES

    def look(self, state: Tensor) -> Tensor:
        place = state[:, 1].clamp(max=self.WALK)
        return torch.eye(self.config.features)[self.CUES * place + self.shown(state)]


class CodeWorld(CueWorld):
    """The cue names two digits, and an action is both (MultiDiscrete): only the right pair is rewarded."""

    config = Interface(
        features=CueWorld.config.features,
        num_actions=0,
        action_size=2,
        action_parts=(ActionPart("multi-discrete", (2,), (2, 2)),),
    )

    def sample_contexts(self, batch: int, length: int, generator: np.random.Generator, *, start: Any = "any") -> Clips:
        clips = super().sample_contexts(batch, length, generator, start=start)
        return contexts_of(clips.frames, torch.full((batch, 1, 2), torch.nan))

    def imagine(self, actions: Tensor, memory: Memory, **options: Any) -> Imagined:
        first, second = actions.long().unbind(1)
        return super().imagine(2 * first + second, memory, **options)


class ForgetfulWorld(CueWorld):
    """The same, with features that do not tell the cue after its frame."""

    def shown(self, state: Tensor) -> Tensor:
        return torch.where(state[:, 1] > 0, 0, state[:, 0])


class LongCueWorld:
    """The cue world with `walk` steps between cue and choice, episodes to read, and a `reward` for the right one.

    Whoever has not seen the first frame does not know the cue. Frames: red the cue, shown once, green the steps.

    Features (B, 5 + walk + 2): the cue, the last entry for none, and the steps taken, one-hot.
    """

    device, backbone = torch.device("cpu"), BACKBONE
    CUES = UNKNOWN = CueWorld.CUES

    def __init__(self, walk: int, reward: float = 1.0) -> None:
        self.walk, self.reward = walk, reward
        self.config = Interface(features=self.CUES + 1 + walk + 2, num_actions=self.CUES)

    def eval(self) -> LongCueWorld:
        return self

    def to(self, device: Any) -> LongCueWorld:
        return self

    def dreams(self, store: EpisodeStore, rows: int, **options: Any) -> DreamVectorEnv:
        checkpoint = Checkpoint(self, {}, 0, store.root)  # type: ignore[arg-type]
        return DreamVectorEnv(rows, checkpoint=checkpoint, contexts=store.root, **options)

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def empty(self, rows: int) -> Memory:
        return Memory((), torch.tensor([[self.UNKNOWN, 0]]).repeat(rows, 1))

    def observe(self, frames: Tensor, actions: Tensor, memory: Memory | None = None) -> tuple[Features, Memory]:
        cue, states = (memory or self.empty(len(frames))).frames[:, 0], []
        for colour in frames[:, :, 0, 0].long().unbind(1):
            cue = torch.where(colour[:, 0] > 0, colour[:, 0] // 60 - 1, cue)
            states.append(torch.stack([cue, colour[:, 1] // 2], 1))
        features = self.look(torch.stack(states, 1))
        nothing = torch.zeros(features.shape[:2])
        return Features(features, nothing, nothing, inputs=features), Memory((), states[-1])

    def imagine(self, actions: Tensor, memory: Memory, *, active: Tensor | None = None, **_: Any) -> Imagined:
        cue, taken = memory.frames.unbind(1)
        asked = taken == self.walk
        likely = torch.where(cue == self.UNKNOWN, 1 / self.CUES, (actions == cue).float())
        after = torch.stack([cue, (taken + 1).clamp(max=self.walk + 1)], 1)
        kept = after if active is None else torch.where(active[:, None], after, memory.frames)
        reward = self.reward * likely * asked
        return Imagined(self.show(after), reward, asked.float(), self.look(after), Memory((), kept))

    def look(self, state: Tensor) -> Tensor:
        cue, taken = state.unbind(-1)
        return torch.cat([torch.eye(self.CUES + 1)[cue], torch.eye(self.walk + 2)[taken]], -1)

    def show(self, state: Tensor) -> Tensor:
        """Frames (B, 8, 8, 3) of states (B, 2)."""
        cue, taken = state.unbind(-1)
        colour = torch.stack([torch.where(taken == 0, 60 * (cue + 1), 0), 2 * taken, torch.zeros_like(taken)], -1)
        return colour.to(torch.uint8)[:, None, None].expand(-1, 8, 8, 3)

    def record(self, store: EpisodeStore, episodes: int) -> EpisodeStore:
        """Episodes of random play."""
        source = torch.Generator().manual_seed(0)
        for _ in range(episodes):
            cue, taken = torch.randint(self.CUES, (), generator=source), torch.arange(self.walk + 2)
            actions = torch.randint(self.CUES, (self.walk + 2,), generator=source)
            last = taken == self.walk + 1
            store.append(
                Episode(
                    image=self.show(torch.stack([cue.expand(len(taken)), taken], 1)).numpy(),
                    action=torch.where(taken == 0, NO_ACTION, actions).numpy(),
                    reward=(self.reward * (last & (actions == cue))).numpy(),
                    terminated=last.numpy(),
                    truncated=torch.zeros_like(last).numpy(),
                )
            )
        return store

    @torch.no_grad()
    def right(self, agent: ActorCritic) -> float:
        """Exact: how probable the named action is when it is asked for, over all cues."""
        cues = torch.arange(self.CUES)
        asked = torch.stack([cues, torch.full_like(cues, self.walk)], 1)
        return float(agent.policy(self.look(asked)).probs.gather(1, cues[:, None]).mean())


class GoalWorld:
    """`doors.Doors`, in which only what is told says which action is rewarded; every action ends the episode.

    Whoever is told nothing gets the reward that is likely, 1 / `DOORS`, whatever it does.

    Features (B, DOORS + 1): the door that is named, the last entry for none, one-hot.
    """

    device, backbone = torch.device("cpu"), BACKBONE
    DOORS = len(COLORS)

    def __init__(self, told: tuple[ToldPart, ...] = ()) -> None:
        self.config = Interface(features=self.DOORS + 1, num_actions=self.DOORS, told=told)

    def eval(self) -> GoalWorld:
        return self

    def to(self, device: Any) -> GoalWorld:
        return self

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def empty(self, rows: int) -> Memory:
        told = torch.zeros(rows, sum(part.size for part in self.config.told)) if self.config.told else None
        return Memory((), torch.zeros(rows, dtype=torch.int64), told)

    def observe(
        self, frames: Tensor, actions: Tensor, memory: Memory | None = None, *, told: Tensor | None = None
    ) -> tuple[Features, Memory]:
        assert (told is None) == (not self.config.told), "told what it is to be told, and nothing else"
        rows, length = frames.shape[:2]
        goals = torch.zeros(rows, length, 0) if told is None else told
        features = torch.stack([self.look(goal) for goal in goals.unbind(1)], 1)
        nothing = torch.zeros(rows, length)
        after = Memory((), torch.zeros(rows, dtype=torch.int64), None if told is None else told[:, -1])
        return Features(features, nothing, nothing, inputs=features), after

    def imagine(self, actions: Tensor, memory: Memory, **_: Any) -> Imagined:
        goals = torch.zeros(len(actions), 0) if memory.told is None else memory.told
        features, rows = self.look(goals), len(actions)
        likely = features.gather(1, actions[:, None])[:, 0] + features[:, -1] / self.DOORS
        frames = torch.full((rows, 8, 8, 3), 150, dtype=torch.uint8)
        return Imagined(frames, likely, torch.ones(rows), features, memory)

    def look(self, told: Tensor) -> Tensor:
        doors = [self.DOORS] * len(told)
        for values in told_apart(told.numpy(), self.config.told).values():
            doors = [COLORS.index(color_of(value)) for value in values]
        return torch.eye(self.DOORS + 1)[torch.tensor(doors, dtype=torch.int64)]


class TargetWorld:
    """A point in the unit square, moved by what the action says, shall be at a target: reward minus the distance.

    It may move further to one side than to the other, so bounds that are mixed up show. The distance is the sum over
    both axes, so the best action is `target - point`, cut off at the bounds.
    """

    device, backbone = torch.device("cpu"), BACKBONE
    bounds = ((-0.5, -0.2), (0.4, 0.6))
    config = Interface(features=4, num_actions=0, action_size=2, action_parts=ActionSpec.box(*bounds).parts)

    lengths = np.array([2])

    def eval(self) -> TargetWorld:
        return self

    def sample_contexts(self, batch: int, length: int, generator: np.random.Generator, *, start: Any = "any") -> Clips:
        pixels = torch.from_numpy(generator.integers(256, size=(batch, 1, 2, 1, 3), dtype=np.uint8))
        return contexts_of(pixels, torch.full((batch, 1, 2), torch.nan))

    def observe(self, frames: Tensor, actions: Tensor, memory: Memory | None = None) -> tuple[Features, Memory]:
        state = (frames[:, 0, :, 0, :2] / 255).flatten(1)  # (B, 4): point, target
        return told(self.look(state)), Memory((), state)

    def imagine(self, actions: Tensor, memory: Memory, **_: Any) -> Imagined:
        low, high = map(torch.tensor, self.bounds)
        assert bool(((actions >= low) & (actions <= high)).all()), "an action out of its bounds"
        point, target = memory.frames.chunk(2, 1)
        after = torch.cat([point + actions, target], 1)
        reward = -(point + actions - target).abs().sum(1)
        frames = torch.zeros(len(point), 1, 1, 3).byte()
        return Imagined(frames, reward, torch.zeros(len(point)), self.look(after), Memory((), after))

    def look(self, state: Tensor) -> Tensor:
        return 4 * state - 2

    def best(self, state: Tensor) -> Tensor:
        """The best actions, (B, 2)."""
        point, target = state.chunk(2, 1)
        low, high = map(torch.tensor, self.bounds)
        return (target - point).clamp(low, high)
