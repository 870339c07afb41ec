"""Plays a vector environment by the rules of its autoreset mode and writes down what every row saw."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array
from numpy.typing import NDArray

from lssvwm.envs.checker.data import arrays, difference, frozen, rows_of, scribble

Mask = NDArray[np.bool_]
Seed = int | list[int] | list[int | None] | None


class CaseError(Exception):
    """The environment under test raised where the contract allows the call, or returned what cannot be read on."""

    def __init__(self, message: str, code: str = "raises") -> None:
        super().__init__(message)
        self.code = code


class Event(NamedTuple):
    """What one row saw: the first observation of an episode (reward None), or a transition.

    The same list of events comes out of every autoreset mode, and of a single environment.
    """

    observation: Any
    reward: float | None = None
    terminated: bool = False
    truncated: bool = False

    @property
    def done(self) -> bool:
        """Whether it ends an episode."""
        return self.terminated or self.truncated


@dataclass(frozen=True)
class Result:
    """What `reset` (reward None) or `step` returned, unchanged, and for which rows (bool (N,)) it was a beginning or a
    transition."""

    observation: Any
    reward: Any
    terminated: Any
    truncated: Any
    info: Any
    begun: Mask
    advanced: Mask


class Actions:
    """Row i takes its k-th action at its k-th transition, on whichever step of the batch that falls."""

    def __init__(self, space: gym.Space[Any], num_envs: int, seed: int) -> None:
        self.space = space
        self._sources = [copy.deepcopy(space) for _ in range(num_envs)]
        for row, source in enumerate(self._sources):
            source.seed(seed + row)
        self._drawn: list[list[Any]] = [[] for _ in range(num_envs)]

    def of(self, row: int, index: int) -> Any:
        """Action `index` of `row`."""
        while len(self._drawn[row]) <= index:
            self._drawn[row].append(self._sources[row].sample())
        return self._drawn[row][index]

    def batch(self, indices: Sequence[int]) -> Any:
        """One action per row, as `action_space` batches them."""
        chosen = [self.of(row, index) for row, index in enumerate(indices)]
        empty: Any = create_empty_array(self.space, len(chosen))
        return concatenate(self.space, chosen, empty)


def guarded(call: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What `function` returns; whatever it raises becomes a CaseError that names `call`."""
    try:
        return function(*args, **kwargs)
    except Exception as error:  # anybody's environment: what it raises is a finding, not an error of the checker
        text = str(error).strip().splitlines()
        raise CaseError(f"{call} raised {type(error).__name__}{': ' + text[0][:200] if text else ''}") from error


def single_events(env: gym.Env[Any, Any], actions: Actions, row: int, seed: int, count: int) -> list[Event]:
    """The first `count` events of a single environment that takes the actions of `row`."""
    observation, _ = guarded("reset(seed=...) of the single environment", env.reset, seed=seed)
    events, taken = [Event(frozen(observation))], 0
    while len(events) < count:
        if events[-1].done:
            observation, _ = guarded("reset() of the single environment", env.reset)
            events.append(Event(frozen(observation)))
            continue
        result = guarded("step(...) of the single environment", env.step, actions.of(row, taken))
        taken += 1
        events.append(Event(frozen(result[0]), float(result[1]), bool(result[2]), bool(result[3])))
    return events


def final_rows(space: gym.Space[Any], info: Any, num_envs: int) -> list[Any]:
    """The final observation of every row, None where `info` has none: objects, or one batch as large as the rows."""
    value = info.get("final_obs") if isinstance(info, dict) else None
    if value is None:
        return [None] * num_envs
    objects = isinstance(value, list) or (isinstance(value, np.ndarray) and value.dtype == object)
    rows = [frozen(part) for part in value] if objects else rows_of(space, value)
    return rows if len(rows) == num_envs else [None] * num_envs


class Driver:
    """One run of `env`. `rows[i]` are the events of row i; `watchers` see every Result before anything else happens."""

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        mode: AutoresetMode,
        actions: Actions,
        watchers: Sequence[Callable[[Result], None]] = (),
        salt: int = 0,
        scribbling: bool = False,
    ) -> None:
        self.env, self.mode, self.actions, self.watchers = env, mode, actions, watchers
        self.num_envs = env.num_envs
        self.rows: list[list[Event]] = [[] for _ in range(self.num_envs)]
        self.ended: Mask = np.zeros(self.num_envs, bool)
        self.last: list[Any] = []  # the latest observation of every row
        self.modified = False  # whether step() wrote into the caller's actions
        self._taken = np.zeros(self.num_envs, int)
        self._tensors: torch.device | None = None
        self._ignored = Actions(actions.space, self.num_envs, 7919 + salt)
        self._scribbling = scribbling

    def fork(self, env: VectorEnv[Any, Any, Any] | None = None) -> Driver:
        """A driver that goes on from here, with no events so far, in the same environment or a copy `env`."""
        twin = Driver(self.env if env is None else env, self.mode, self.actions)
        twin.ended, twin.last, twin._taken = self.ended.copy(), self.last, self._taken.copy()
        twin._tensors = self._tensors
        return twin

    def play(self, seed: Seed, steps: int) -> list[list[Event]]:
        """Reset all rows and step them; the events of every row."""
        self.reset(seed)
        for _ in range(steps):
            self.step()
        return self.rows

    def reset(self, seed: Seed = None, mask: Mask | None = None) -> Result:
        """Begin new episodes in all rows or in those of `mask`."""
        options: dict[str, Any] = {} if mask is None else {"options": {"reset_mask": mask.copy()}}
        call = f"reset(seed={seed!r}{'' if mask is None else ', options={reset_mask: mask}'})"
        returned = guarded(call, self.env.reset, seed=seed, **options)
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise CaseError(f"{call} returned no pair of observation and info")
        observation, info = returned
        begun = np.ones(self.num_envs, bool) if mask is None else mask
        self._look_for_tensors(observation)
        rows = self._split(observation)
        for row in np.flatnonzero(begun):
            self.rows[row].append(Event(rows[row]))
        self.ended = self.ended & ~begun
        self.last = rows
        return self._show(Result(observation, None, None, None, info, begun, np.zeros(self.num_envs, bool)))

    def step(self, mask: Mask | None = None) -> Result:
        """Advance all rows, or those of `mask` where the environment takes one; finished ones begin again."""
        wanted = np.ones(self.num_envs, bool) if mask is None else mask
        if self.mode is AutoresetMode.DISABLED and (self.ended & wanted).any():
            self.reset(mask=self.ended & wanted)
        begun = self.ended & wanted  # empty when DISABLED
        advanced = wanted & ~begun
        result = self._advance(wanted, begun, advanced, mask)
        done = np.asarray(frozen(result.terminated), bool) | np.asarray(frozen(result.truncated), bool)
        self._write(result, begun, advanced, done & advanced)
        return self._show(result)

    def _advance(self, wanted: Mask, begun: Mask, advanced: Mask, mask: Mask | None) -> Result:
        given = self._given(begun)
        untouched = frozen(given)
        returned = guarded("step(actions)", self.env.step, given, **({} if mask is None else {"mask": wanted.copy()}))
        if not isinstance(returned, tuple) or len(returned) != 5:
            raise CaseError("step(actions) did not return observation, reward, terminated, truncated, info")
        self.modified |= difference(untouched, frozen(given)) is not None
        if self._scribbling:
            scribble(given)
        self._taken += advanced
        names = ("reward", "terminated", "truncated")
        for name, code, value in zip(names, ("reward", "flags", "flags"), returned[1:4], strict=True):
            if (shape := np.shape(frozen(value))) != (self.num_envs,):
                raise CaseError(f"{name} has the shape {shape}: return one entry per row, ({self.num_envs},)", code)
        return Result(*returned, begun, advanced)

    def _write(self, result: Result, begun: Mask, advanced: Mask, done: Mask) -> None:
        rows = self._split(result.observation)
        rewards, terminated, truncated = frozen((result.reward, result.terminated, result.truncated))
        same_step = self.mode is AutoresetMode.SAME_STEP
        finals = (
            final_rows(self.env.observation_space, result.info, self.num_envs) if same_step and done.any() else rows
        )
        for row in range(self.num_envs):
            if begun[row]:
                self.rows[row].append(Event(rows[row]))
            elif advanced[row]:
                seen = finals[row] if done[row] else rows[row]
                self.rows[row].append(Event(seen, float(rewards[row]), bool(terminated[row]), bool(truncated[row])))
                if same_step and done[row]:
                    self.rows[row].append(Event(rows[row]))
        if not same_step:
            self.ended = (self.ended & ~begun & ~advanced) | done
        self.last = rows

    def _show(self, result: Result) -> Result:
        for watch in self.watchers:
            watch(result)
        if self._scribbling:
            scribble((result.observation, result.reward, result.terminated, result.truncated, result.info))
        return result

    def _given(self, begun: Mask) -> Any:
        batch = self.actions.batch(self._taken.tolist())
        if begun.any():  # what NEXT_STEP says is ignored: another one in each run
            other = self._ignored.batch((self._taken + 1).tolist())
            for (_, part), (_, ignored) in zip(arrays(batch), arrays(other), strict=True):
                part[begun] = ignored[begun]
        if self._tensors is None:
            return batch
        if isinstance(batch, dict):
            return {key: torch.as_tensor(part, device=self._tensors) for key, part in batch.items()}
        return torch.as_tensor(batch, device=self._tensors)

    def _look_for_tensors(self, observation: Any) -> None:
        tensors = [leaf for _, leaf in arrays(observation) if isinstance(leaf, torch.Tensor)]
        self._tensors = tensors[0].device if tensors else None

    def _split(self, observation: Any) -> list[Any]:
        try:
            rows = guarded("", rows_of, self.env.observation_space, observation)
        except CaseError as failure:
            raise CaseError("observations cannot be split by observation_space", "observation") from failure
        if len(rows) != self.num_envs:
            raise CaseError(f"the observation has {len(rows)} rows: return {self.num_envs}, one each", "observation")
        return list(rows)
