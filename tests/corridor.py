"""A real world of five cells that is known by hand, and its exact model with the verbs of `WorldModel`.

Cell c is left forwards by the action `ADVANCE[c]` and backwards by the other one (in cell 0 it stays). Cell 4 is the
goal: reward 1, terminated. The right action depends on the cell, so whoever mixes up two moments cannot act well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exact_worlds import BACKBONE
from lssvwm.agents.dreamer.actor_critic import ActorCritic, ActorCriticConfig
from lssvwm.envs.factory import EnvConfig, make_vec
from lssvwm.envs.policy import FrameArray, IntArray
from lssvwm.worldmodel.actions import ActionPart
from lssvwm.worldmodel.episodes import NO_ACTION, Episode
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.model import Features, Imagined
from lssvwm.worldmodel.told import ToldPart
from vector_play import play

ADVANCE = (1, 0, 0, 1)
GOAL = len(ADVANCE)
CORRIDOR = EnvConfig("Corridor-v0")
"""Truncates after 12 steps."""


def show(cells: Tensor) -> Tensor:
    """Cells (...) -> frames (..., 16, 16, 3) uint8: three bright columns where the agent is."""
    bright = torch.arange(16) // 3 == cells[..., None]  # (..., 16)
    return (200 * bright[..., None, :, None].expand(*cells.shape, 16, 16, 3)).to(torch.uint8)


def read(frames: Tensor) -> Tensor:
    """Inverse of `show`."""
    return frames[..., 0, ::3, 0].argmax(-1)


def follow(cells: Tensor, actions: Tensor) -> Tensor:
    """Where `actions` lead from `cells`, both (B,); the goal is never left."""
    right = torch.tensor(ADVANCE)[cells.clamp(max=GOAL - 1)] == actions
    return torch.where((cells == GOAL) | right, (cells + 1).clamp(max=GOAL), (cells - 1).clamp(min=0))


class Corridor(gym.Env[FrameArray, np.int64]):
    """Starts in cell 0."""

    observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FrameArray, dict[str, Any]]:
        super().reset(seed=seed)
        self.cell = 0
        return self._frame(), {}

    def step(self, action: Any) -> tuple[FrameArray, float, bool, bool, dict[str, Any]]:
        self.cell += 1 if action == ADVANCE[self.cell] else -min(self.cell, 1)
        return self._frame(), float(self.cell == GOAL), self.cell == GOAL, False, {}

    def _frame(self) -> FrameArray:
        frame: FrameArray = show(torch.tensor(self.cell)).numpy()
        return frame


gym.register("Corridor-v0", entry_point="corridor:Corridor", max_episode_steps=12)


class Script:
    """Plays the same list of actions in every row, over and over."""

    def __init__(self, actions: Sequence[int]) -> None:
        self.actions = actions
        self.clock: dict[int, int] = {}

    def reset(self, rows: IntArray, seeds: IntArray) -> None:
        self.clock |= dict.fromkeys(rows.tolist(), 0)

    def act(self, frames: FrameArray, info: Mapping[str, Any]) -> IntArray:
        now = np.array([self.actions[self.clock[row] % len(self.actions)] for row in range(len(frames))])
        for row in range(len(frames)):
            self.clock[row] += 1
        return now


def play_corridor(policy: Any, seeds: Sequence[int], rows: int = 1) -> list[Episode]:
    envs = make_vec(CORRIDOR, rows, processes=False)
    try:
        return list(play(envs, policy, seeds))
    finally:
        envs.close()


@dataclass(frozen=True)
class ExactConfig:
    features: int = GOAL + 1
    num_actions: int = 2
    action_size: int = 0
    shortcut: bool = False
    usual_steps: int = 1
    action_parts: tuple[ActionPart, ...] = ()
    told: tuple[ToldPart, ...] = ()


class ExactModel:
    """The corridor as a world model. Features (B, 5): the cell, one-hot. Memory: the cell, -1 before the first frame.

    It refuses actions that did not lead where the frames say. What it dreams past the goal is nonsense that must not
    count: `beyond` reward at every step, no termination.
    """

    device, backbone = torch.device("cpu"), BACKBONE
    config = ExactConfig()
    strict = True

    def __init__(self, beyond: float = 0.0) -> None:
        self.beyond = beyond

    def eval(self) -> ExactModel:
        return self

    def state_dict(self) -> dict[str, Tensor]:
        return {"beyond": torch.tensor(self.beyond)}

    def empty(self, rows: int) -> Memory:
        return Memory((), torch.full((rows,), NO_ACTION))

    def observe(self, frames: Tensor, actions: Tensor, memory: Memory | None = None) -> tuple[Features, Memory]:
        cells = read(frames)
        before = torch.cat([(memory or self.empty(len(frames))).frames[:, None], cells[:, :-1]], 1)
        first = before < 0
        led = follow(before.clamp(min=0).flatten(), actions.flatten()).view_as(cells) == cells
        led |= not self.strict
        assert bool((first | (led & (actions >= 0))).all()), "these actions did not lead to these frames"
        assert bool((~first | (cells == 0) | (actions >= 0)).all()), "an episode begins in cell 0"
        ended = (cells == GOAL).float()
        return Features(self.look(cells), ended, ended, inputs=self.look(cells)), Memory((), cells[:, -1])

    def imagine(self, actions: Tensor, memory: Memory, **_: Any) -> Imagined:
        cells = memory.frames
        after = follow(cells, actions)
        arrived = ((after == GOAL) & (cells != GOAL)).float()
        reward = torch.where(cells == GOAL, self.beyond, arrived)
        return Imagined(show(after), reward, arrived, self.look(after), Memory((), after))

    def look(self, cells: Tensor) -> Tensor:
        return torch.eye(GOAL + 1)[cells]


class Lenient(ExactModel):
    """Rows that have nothing more to play are shown what another row sees."""

    strict = False


class StaleModel(ExactModel):
    """The same model with one mistake: the features that come with a dreamed frame are those of the frame before."""

    def imagine(self, actions: Tensor, memory: Memory, **_: Any) -> Imagined:
        right = super().imagine(actions, memory)
        return Imagined(right.frame, right.reward, right.termination, self.look(memory.frames), right.memory)


def agent_that_plays(table: Sequence[int], certainty: float = 50.0) -> ActorCritic:
    """An actor that takes `table[cell]` in each cell; the critic says zero."""
    agent = ActorCritic(ActorCriticConfig(GOAL + 1, 2, layers=0, unimix=0.0))
    with torch.no_grad():
        for cell, action in enumerate(table):
            agent.actor[-1].weight[action, cell] = certainty
    return agent


def outcomes(episodes: Sequence[Episode]) -> Iterator[tuple[list[int], NDArray[np.int64], NDArray[np.float32]]]:
    """Cells, actions and rewards of each episode."""
    for episode in episodes:
        yield read(torch.tensor(episode.image)).tolist(), episode.action, episode.reward
