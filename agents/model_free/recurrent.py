"""A recurrent policy on frames or features: its network, and the player that remembers one episode per row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lssvwm.agents.dreamer.action_head import ActionHead, allowed_in, check_actions
from lssvwm.agents.dreamer.distributions import ActionDistribution, masked
from lssvwm.envs.policy import Actions, FrameArray, IntArray
from lssvwm.worldmodel.checkpoint import load_weights, read_state, taking_up
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.layers.conditioning import Goal, no_actions
from lssvwm.worldmodel.told import ToldPart, read_told, told_now

SMALLEST = 8
"""Pixels of a frame's side below which the convolutions have nothing to stand on."""


@dataclass(frozen=True)
class RecurrentConfig:
    """The network of a recurrent policy."""

    observation: tuple[int, ...]
    """Shape of an observation: frames (h, w, 3) uint8, or features (F,)."""
    num_actions: int
    """Discrete actions; 0 where an action is a vector (`worldmodel.actions`)."""
    hidden: int = 128
    """Width of the recurrent state and of the encoding (CleanRL, ppo_atari_lstm: 128)."""
    channels: int = 16
    """Of the first convolution; the later ones have twice as many (half of CleanRL's, for two cores)."""
    low: tuple[float, ...] = ()
    """The lowest value of each number of a vector."""
    high: tuple[float, ...] = ()
    """Highest values."""
    choices: tuple[int, ...] = ()
    """From how many each number chooses, 0 where it lies between its bounds; () where all do."""
    told: tuple[ToldPart, ...] = ()
    """What comes with every observation besides (`worldmodel.told`)."""

    def __post_init__(self) -> None:
        check_actions(self)
        shape = self.observation
        frames = len(shape) == 3 and shape[2] == 3 and min(shape[:2]) >= SMALLEST
        if not frames and len(shape) != 1:
            raise InputError(
                f"a recurrent policy reads frames (h, w, 3) of at least {SMALLEST} pixels a side, or features (F,), "
                f"these observations are {shape}: choose another size or observation"
            )

    @property
    def action_size(self) -> int:
        """Numbers of an action that is a vector; 0 where actions are discrete."""
        return len(self.low)


class Judgement(NamedTuple):
    """What the network makes of frames."""

    policy: ActionDistribution  # over (...) actions
    values: Tensor  # (...) expected return


class RecurrentNet(nn.Module):
    """Encoder of an observation and the action that led to it, a GRU over time, an actor and a critic.

    The reward that came with the observation is no input: who plays a real episode is shown frames only.
    """

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder(config)
        self.goal = Goal(config.told, config.hidden) if config.told else None
        self.head = ActionHead(config)
        self.cell = nn.GRUCell(config.hidden + self.head.told, config.hidden)
        self.actor = nn.Linear(config.hidden, self.head.scores)
        self.critic = nn.Linear(config.hidden, 1)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.orthogonal_(module.weight, 2**0.5)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        for weight in (self.cell.weight_ih, self.cell.weight_hh):
            nn.init.orthogonal_(weight)
        # A first policy that is nearly even explores; a large one hardly recovers (Engstrom et al. 2020, CleanRL).
        nn.init.orthogonal_(self.actor.weight, 0.01)
        nn.init.orthogonal_(self.critic.weight, 1.0)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.actor.weight.device

    def empty(self, rows: int) -> Tensor:
        """The state (rows, H) before anything was seen."""
        return torch.zeros(rows, self.config.hidden, device=self.device)

    def no_actions(self, rows: int) -> Tensor:
        """What led to the first observations of episodes."""
        return no_actions(self.config, rows, self.device)

    def encode(self, observations: Tensor, led_here: Tensor, told: Tensor | None = None) -> Tensor:
        """Inputs (..., E) of the GRU, from observations and the actions (...) or (..., A) that led to them, or none.

        Here and below `told` (..., G) is what came with the observations, for networks that are told something.
        """
        shape = self.config.observation
        flat = observations.flatten(0, observations.ndim - len(shape) - 1)
        if len(shape) == 3:
            flat = flat.permute(0, 3, 1, 2).float() / 255 - 0.5
        lead = led_here.shape[: led_here.ndim - bool(self.config.action_size)]
        seen = self.encoder(flat.float()).view(*lead, self.config.hidden)  # also of no frame
        if self.goal is not None and told is not None:
            seen = seen + self.goal(told)
        return torch.cat([seen, self.head.tell(led_here).to(seen.dtype)], -1)

    def forward(self, observations: Tensor, led_here: Tensor, state: Tensor, told: Tensor | None = None) -> Tensor:
        """The state (B, H) after one more observation."""
        after: Tensor = self.cell(self.encode(observations, led_here, told), state)
        return after

    def watch(
        self, observations: Tensor, led_here: Tensor, state: Tensor, known: Tensor, told: Tensor | None = None
    ) -> Tensor:
        """The state (B, H) after frames (B, C, ...) and their actions, from `state`; skips what is not `known`."""
        seen = self.encode(observations[known], led_here[known], None if told is None else told[known])
        inputs = seen.new_zeros(*known.shape, seen.shape[-1]).index_put((known,), seen)
        for t, at_once in enumerate(inputs.unbind(1)):
            state = torch.where(known[:, t, None], self.cell(at_once, state), state)
        return state

    def follow(
        self,
        observations: Tensor,
        led_here: Tensor,
        state: Tensor,
        started: Tensor,
        warm: Tensor | None,
        told: Tensor | None = None,
    ) -> Tensor:
        """States (T, B, H) after each of T observations (T, B, ...), from `state` (B, H) before the first.

        Where `started` (T, B), an episode begins: its state before that frame is that of `warm` (T, B, H), zero
        without, whatever the row did before.
        """
        states = []
        for t, inputs in enumerate(self.encode(observations, led_here, told).unbind(0)):
            begin = torch.zeros_like(state) if warm is None else warm[t]
            state = self.cell(inputs, torch.where(started[t, :, None], begin, state))
            states.append(state)
        return torch.stack(states)

    def judge(self, states: Tensor, allowed: Tensor | None = None) -> Judgement:
        """Actions and values, from states (..., H), and what is `allowed` (..., n) bool where there are masks."""
        return Judgement(masked(self.head.policy(self.actor(states)), allowed), self.critic(states)[..., 0])


def encoder(config: RecurrentConfig) -> nn.Sequential:
    """From observations (B, 3, h, w) or (B, F) to (B, H)."""
    if len(config.observation) == 1:
        features = config.observation[0]
        return nn.Sequential(nn.Linear(features, config.hidden), nn.RMSNorm(config.hidden, eps=1e-5), nn.ReLU())
    height, width = (_halved(_halved(side // 4)) for side in config.observation[:2])
    narrow, wide = config.channels, 2 * config.channels
    return nn.Sequential(
        nn.Conv2d(3, narrow, 4, 4),
        nn.ReLU(),
        nn.Conv2d(narrow, wide, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(wide, wide, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(wide * height * width, config.hidden),
        nn.ReLU(),
    )


def _halved(side: int) -> int:
    return (side + 1) // 2


class RecurrentPolicy:
    """Plays episodes with a `RecurrentNet`: per row a state and random numbers of its own.

    Observations are those that the network learned from: frames, or features where a wrapper supplies them.
    """

    def __init__(self, net: RecurrentNet, *, greedy: bool = False) -> None:
        self.net, self.greedy = net.eval(), greedy
        self.state = net.empty(0)
        self.led_here = net.no_actions(0)
        self.generators: list[np.random.Generator] = []

    def reset(self, rows: IntArray, seeds: IntArray) -> None:
        """Rows that start an episode forget everything; rows that are new are added."""
        self._resize(max(len(self.generators), int(rows.max()) + 1))
        self.state[rows] = 0
        self.led_here[rows] = self.net.no_actions(len(rows))
        for row, seed in zip(rows.tolist(), seeds.tolist(), strict=True):
            self.generators[row] = np.random.default_rng(seed)

    @torch.no_grad()
    def act(self, frames: FrameArray, info: Mapping[str, Any]) -> Actions:
        """Next actions (N,) or (N, A) for observations (N, ...).

        Of `info`, masks are looked at (`envs.spaces.masks`), and what the network is told.
        """
        if len(frames) > len(self.generators):
            raise ValueError(f"{len(frames)} frames for {len(self.generators)} rows: reset every row before it acts")
        self._resize(len(frames))
        observations = torch.as_tensor(frames, device=self.net.device)
        if tuple(observations.shape[1:]) != self.net.config.observation:
            raise InputError(
                f"this policy reads observations {self.net.config.observation}, it was given "
                f"{tuple(observations.shape[1:])}: play it where it learned, or set --size as it was then"
            )
        told = None
        if parts := self.net.config.told:
            told = torch.from_numpy(told_now(info, len(frames), parts)).to(self.net.device)
        self.state = self.net(observations, self.led_here, self.state, told)
        allowed = allowed_in(info, len(frames), self.net.config, self.net.device)
        policy = self.net.judge(self.state, allowed).policy
        if self.greedy:
            self.led_here = policy.mode
        else:
            # One draw of its own per row, whatever the others do.
            draws = np.array([generator.random(policy.draws) for generator in self.generators])
            self.led_here = policy.at(torch.as_tensor(draws, device=self.net.device))
        chosen: Actions = self.led_here.cpu().numpy().copy()  # the caller owns it
        return chosen

    def took(self, actions: Actions) -> None:
        """Actions (N,) or (N, A) were done, instead of those that it chose last."""
        self.led_here = torch.as_tensor(actions).to(self.led_here, copy=True)

    def _resize(self, count: int) -> None:
        """Add rows that have seen nothing, or drop the last ones, left over from play with more rows."""
        kept = min(count, len(self.generators))
        if count == len(self.generators):
            return
        fresh = self.net.no_actions(count - kept)
        self.state = torch.cat([self.state[:kept], self.net.empty(count - kept)])
        self.led_here = torch.cat([self.led_here[:kept], fresh])
        self.generators = self.generators[:kept] + [np.random.default_rng(0) for _ in range(count - kept)]


def load_net(path: Path, device: torch.device | str = "cpu") -> RecurrentNet:
    """The network of a `ppo.pt`, ready to play."""
    if not path.is_file():
        raise InputError(f"{path} does not exist: train a policy with train_agent.py --algo ppo first")
    state = read_state(path, torch.device(device))
    with taking_up(path):
        networks = {**state["networks"], "observation": tuple(state["networks"]["observation"])}
        networks["told"] = read_told(networks.get("told", ()))
        net = RecurrentNet(RecurrentConfig(**networks)).to(device)
        load_weights(net, state["net"], path)
    return net.eval()
