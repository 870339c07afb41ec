"""Rollouts of a recurrent policy: collected in rows that begin and end episodes as they come, and replayed to learn.

t             0     1     2          3        4
observation   o0    o1    o2   (e0)  o0'      o1'      o2 was left into the end of an episode, e0; the next began
started       -     -     -          yes      -
action        a0    a1    a2         a0'      a1'      taken on seeing the observation above
reward        r0    r1    r2         r0'      r1'      came with what the action led to
ended         -     -     yes        -        -
next value    V1    V2    V(e0)      V1'      V2'      V(e0) is 0 if it terminated; V2' lies beyond
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lssvwm.agents.dreamer.action_head import allowed_in
from lssvwm.agents.model_free.recurrent import RecurrentNet
from lssvwm.agents.model_free.resuming import Moved, ResumableRows
from lssvwm.worldmodel.episodes.data import without_actions
from lssvwm.worldmodel.told import size_of, told_now

REWARDED = 0.05
"""What a reward must exceed to count as success when it ends an episode; those of dreams are never exactly nothing."""
WATCHED = 64
"""Frames of contexts that are watched at once where no gradient has to reach them."""
KEPT = 100
"""Episodes over which return, length and success are averaged (Stable-Baselines3)."""


@dataclass(frozen=True)
class Contexts:
    """What K episodes showed before their first observation, and where in the rollout they began.

    The newest C frames at most, shorter ones with something else in front; and what the network made of all before.
    """

    state: Tensor  # (K, H)
    observations: Tensor  # (K, C, ...)
    led_here: Tensor  # (K, C) or (K, C, A) the actions that led to them
    known: Tensor  # (K, C) bool, False in front of a shorter one
    time: Tensor  # (K,)
    row: Tensor  # (K,)
    told: Tensor | None = None  # (K, C, G), the same with all frames of an episode


@dataclass(frozen=True)
class Rollout:
    """T steps of N rows, as drawn above. All of it was seen or done; nothing is padding."""

    state: Tensor  # (N, H) of the network before the first observation
    contexts: Contexts | None
    observations: Tensor  # (T, N, ...)
    led_here: Tensor  # (T, N) or (T, N, A) the action that led to the observation, or none
    started: Tensor  # (T, N) bool
    actions: Tensor  # (T, N) or (T, N, A)
    log_probs: Tensor  # (T, N) of those actions when they were taken
    values: Tensor  # (T, N) when they were taken
    rewards: Tensor  # (T, N)
    ended: Tensor  # (T, N) bool
    next_values: Tensor  # (T, N)
    allowed: Tensor | None = None  # (T, N, n) bool, what the actions were chosen from; None without masks
    told: Tensor | None = None  # (T, N, G) what came with the observations; None where nothing is told


def replay(net: RecurrentNet, rollout: Rollout, rows: Tensor) -> Tensor:
    """States (T, n, H) of `rows` (n,) after each observation, with the weights of now.

    States before the rollout, and before the frames of contexts, are those that were kept (R2D2, section 3); those
    frames are watched anew, so that learning reaches them.
    """
    started, contexts, warm = rollout.started[:, rows], rollout.contexts, None
    if contexts is not None:
        which, column = (contexts.row[:, None] == rows).nonzero(as_tuple=True)
        if len(which):
            parts = (contexts.observations, contexts.led_here, contexts.state, contexts.known, contexts.told)
            states = net.watch(*(None if part is None else part[which] for part in parts))  # type: ignore[arg-type]
            warm = net.empty(started.numel()).view(*started.shape, -1)
            warm = warm.index_put((contexts.time[which], column), states)
    seen, led_here = rollout.observations[:, rows], rollout.led_here[:, rows]
    told = None if rollout.told is None else rollout.told[:, rows]
    return net.follow(seen, led_here, rollout.state[rows], started, warm, told)


def generalised_advantages(
    rewards: Tensor, values: Tensor, next_values: Tensor, ended: Tensor, discount: float, lam: float
) -> Tensor:
    """Advantages (T, N) of actions, all arguments (T, N) as in `Rollout` (Schulman et al. 2016, equation 16).

    delta_t = r_t + discount * next_value_t - value_t
    A_t = delta_t + discount * lam * A_{t+1},   A_{t+1} = 0 after the last step and where an episode ended
    """
    deltas = rewards + discount * next_values - values
    keep = discount * lam * ~ended
    advantage = torch.zeros_like(deltas[0])
    advantages = []
    for t in reversed(range(len(deltas))):
        advantage = deltas[t] + keep[t] * advantage
        advantages.append(advantage)
    return torch.stack(advantages[::-1])


class _Cut(NamedTuple):
    """What was seen last where it went on out of sight: its value stands for the rest."""

    time: Tensor  # (k,)
    row: Tensor  # (k,)
    observations: Tensor  # (k, ...)
    led_here: Tensor  # (k,)
    state: Tensor  # (k, H) before these observations
    told: Tensor  # (k, G)


class Finished:
    """Return, length and success of the last episodes that ended."""

    def __init__(self, rows: int) -> None:
        self.now = np.zeros((rows, 2))  # return and length, so far
        self.past: list[list[float]] = []

    def add(self, moved: Moved) -> None:
        """Count one more step."""
        self.now = self.now + np.stack([moved.rewards, np.ones_like(moved.rewards)], 1)
        for row in np.flatnonzero(moved.terminated | moved.truncated):
            success = bool(moved.terminated[row]) and moved.rewards[row] > REWARDED
            self.past = [*self.past[1 - KEPT :], [*self.now[row].tolist(), float(success)]]
            self.now[row] = 0

    def means(self) -> dict[str, float]:
        """Means over the last hundred episodes; nan before the first has ended."""
        means = np.mean(self.past, 0).tolist() if self.past else [float("nan")] * 3
        return dict(zip(("episodic_return", "episodic_length", "success_rate"), means, strict=True))


class Collector:
    """Plays the policy of `net` in `rows`, which go on from rollout to rollout."""

    def __init__(self, net: RecurrentNet, rows: ResumableRows, burn_in: int) -> None:
        self.net, self.rows, self.burn_in = net, rows, burn_in
        count = len(rows.ended)
        self.state = net.empty(count)
        self.observations: Tensor | None = None  # of every row, after the last step
        self.allowed: Tensor | None = None  # (N, n) bool, after those observations; None without masks
        self.led_here = net.no_actions(count)
        self.told = torch.zeros(count, size_of(net.config.told), device=net.device)
        self.finished = Finished(count)

    @torch.no_grad()
    def collect(self, steps: int, generator: torch.Generator) -> Rollout:
        """`steps` steps of every row, with actions drawn from `generator`."""
        state, device = self.state, self.net.device
        seen, contexts, cuts, masks, told = [], [], [], [], list[Tensor]()
        for t in range(steps):
            started = torch.tensor(self.rows.ended, device=device)
            if self.rows.ended.any():
                contexts += self._begin(t, started)
            assert self.observations is not None
            after = self.net(self.observations, self.led_here, self.state, self.told)
            policy, values = self.net.judge(after, self.allowed)
            masks.append(self.allowed)
            actions = policy.sample(generator)
            moved = self.rows.step(actions)
            self.finished.add(moved)
            rewards = torch.as_tensor(moved.rewards, dtype=torch.float32, device=device)
            ended = torch.tensor(moved.terminated | moved.truncated, device=device)
            seen.append(
                (self.observations, self.led_here, started, actions, policy.log_prob(actions), values, rewards, ended)
            )
            told.append(self.told)
            self._hear(moved.info)
            self.observations, self.led_here, self.state = self._shown(moved.observations), actions, after
            self.allowed = self._allowed(moved.info, moved.terminated | moved.truncated)
            out_of_sight = moved.truncated if t < steps - 1 else np.ones_like(moved.truncated)
            if (cut := torch.tensor(out_of_sight & ~moved.terminated, device=device)).any():
                row = cut.nonzero()[:, 0]
                cuts.append(
                    _Cut(torch.full_like(row, t), row, self.observations[row], actions[row], after[row], self.told[row])
                )
        columns = (torch.stack(column) for column in zip(*seen, strict=True))
        observations, led_here, began, acted, log_probs, values, rewards, ended = columns
        next_values = torch.cat([values[1:], values[:1]]).masked_fill(ended, 0.0)
        if cuts:
            last = _Cut(*map(torch.cat, zip(*cuts, strict=True)))
            beyond = self.net.judge(self.net(*last[2:])).values
            next_values = next_values.index_put((last.time, last.row), beyond)
        return Rollout(
            state=state,
            contexts=_joined(contexts),
            observations=observations,
            led_here=led_here,
            started=began,
            actions=acted,
            log_probs=log_probs,
            values=values,
            rewards=rewards,
            ended=ended,
            next_values=next_values,
            allowed=_stacked(masks),
            told=torch.stack(told) if self.net.config.told else None,
        )

    def _begin(self, time: int, started: Tensor) -> list[Contexts]:
        """Start episodes, each from what its context leaves behind; returns contexts, if there were any."""
        shown, info = self.rows.begin()
        self._hear(info)
        self.observations = self._shown(shown)
        # Of rows that go on, the environment may tell nothing.
        begun, going = self._allowed(info, ~started.cpu().numpy()), self.allowed
        self.allowed = begun if begun is None or going is None else torch.where(started[:, None], begun, going)
        self.state = torch.where(started[:, None], 0.0, self.state)
        self.led_here = without_actions(self.led_here, started)
        # Features come out of a world model that has watched the context already.
        if "context_frames" not in info or len(self.net.config.observation) == 1:
            return []
        has = torch.as_tensor(info["_context_frames"], device=self.net.device)
        row = (started & has).nonzero()[:, 0]
        frames = torch.as_tensor(info["context_frames"], device=self.net.device)[row]
        led_here = torch.as_tensor(info["context_actions"], device=self.net.device)[row]
        lengths = torch.as_tensor(info["context_length"], device=self.net.device)[row]
        known = torch.arange(frames.shape[1], device=self.net.device) >= frames.shape[1] - lengths[:, None]
        self.led_here[row] = led_here[:, -1]
        told = self.told[row][:, None].expand(-1, frames.shape[1], -1)
        # The last frame of a context is the first observation.
        before = max(frames.shape[1] - 1 - self.burn_in, 0)
        state = self.net.empty(len(row))
        for begin in range(0, before, WATCHED):
            span = slice(begin, min(begin + WATCHED, before))
            state = self.net.watch(frames[:, span], led_here[:, span], state, known[:, span], told[:, span])
        span = slice(before, -1)
        newest = (state, frames[:, span], led_here[:, span], known[:, span])
        earlier = Contexts(*newest, torch.full_like(row, time), row, told[:, span] if self.net.config.told else None)
        if earlier.led_here.numel() == 0:
            return []
        self.state[row] = self.net.watch(*newest[1:3], state, earlier.known, earlier.told)
        return [earlier]

    def _hear(self, info: Mapping[str, Any]) -> None:
        """Note what rows are told; of those that `info` says nothing of, what they were told before holds."""
        if parts := self.net.config.told:
            told = told_now(info, len(self.told), parts, self.told.cpu().numpy())
            self.told = torch.from_numpy(told).to(self.net.device)

    def _allowed(self, info: Mapping[str, Any], but: NDArray[np.bool_]) -> Tensor | None:
        """What masks allow in all rows `but` these, (N, n) bool."""
        return allowed_in(info, len(but), self.net.config, self.net.device, but)

    def _shown(self, observations: Any) -> Tensor:
        return torch.as_tensor(observations, device=self.net.device)

    def state_dict(self) -> dict[str, Any]:
        """What the next rollout goes on from."""
        return {
            "state": self.state,
            "observations": self.observations,
            "led_here": self.led_here,
            "allowed": self.allowed,
            "told": self.told,
            "rows": self.rows.state_dict(),
            "now": self.finished.now.tolist(),
            "past": self.finished.past,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.state, self.observations, self.led_here = state["state"], state["observations"], state["led_here"]
        self.allowed = state.get("allowed")  # older files know no masks
        self.told = state.get("told", self.told)
        self.rows.load_state_dict(state["rows"])
        self.finished.now, self.finished.past = np.array(state["now"]), state["past"]
        self.finished.now[self.rows.ended] = 0  # also of dreams that were left, of a world that is no more


def _stacked(masks: list[Tensor | None]) -> Tensor | None:
    some = next((mask for mask in masks if mask is not None), None)
    return None if some is None else torch.stack([torch.ones_like(some) if mask is None else mask for mask in masks])


def _joined(parts: list[Contexts]) -> Contexts | None:
    if not parts:
        return None
    longest = max(part.known.shape[1] for part in parts)

    def filled(values: Tensor) -> Tensor:
        front = values.new_zeros(len(values), longest - values.shape[1], *values.shape[2:])
        return torch.cat([front, values], 1)

    whole = {name: torch.cat([getattr(part, name) for part in parts]) for name in ("state", "time", "row")}
    frames = ("observations", "led_here", "known", *(("told",) if parts[0].told is not None else ()))
    return Contexts(**whole, **{name: torch.cat([filled(getattr(part, name)) for part in parts]) for name in frames})
