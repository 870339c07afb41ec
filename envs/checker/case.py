"""What the rules share: the environment under test, how it is played, and what is known of it so far."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode, VectorEnv

from lssvwm.envs.checker.data import difference
from lssvwm.envs.checker.driver import Actions, CaseError, Driver, Event, Result, Seed, guarded
from lssvwm.envs.checker.report import Findings

RowEvents = list[list[Event]]


@dataclass(frozen=True)
class CheckSettings:
    """What the caller asked for; None of `snapshots` and `pickling` means: where the environment offers it."""

    num_envs: int
    steps: int
    seed: int
    single: Callable[[], gym.Env[Any, Any]] | None
    max_episode_steps: int | None
    snapshots: bool | None
    pickling: bool | None
    wrappers: bool
    tolerance: float


@dataclass
class Case:
    """One environment in one mode with one output. Rules reset it; a rule that may break it takes a fresh one."""

    make: Callable[[], VectorEnv[Any, Any, Any]]
    settings: CheckSettings
    findings: Findings
    asked_mode: AutoresetMode | None
    asked_output: str | None
    env: VectorEnv[Any, Any, Any]
    mode: AutoresetMode = AutoresetMode.NEXT_STEP
    base: RowEvents = field(default_factory=list)  # the events of `play()`
    listed: RowEvents | None = None  # the same with a seed for every row, where the environment takes one
    kept: list[Any] = field(default_factory=list)  # what has to live as long as the environment
    independent: bool = False  # rows were seen to depend on nothing but their own seeds and actions

    @property
    def ends(self) -> int:
        """Episodes that ended in the base run."""
        return sum(event.done for row in self.base for event in row)

    def seeds(self) -> list[int]:
        """One seed per row."""
        return [self.settings.seed + row for row in range(self.settings.num_envs)]

    def actions(self, offset: int = 0) -> Actions:
        """The actions of every run of the check; others with an `offset`."""
        return Actions(self.env.single_action_space, self.settings.num_envs, self.settings.seed + 104729 * offset)

    def drive(
        self, env: VectorEnv[Any, Any, Any] | None = None, watchers: Sequence[Callable[[Result], None]] = (), **how: Any
    ) -> Driver:
        """A new run of the environment, or of `env`."""
        return Driver(self.env if env is None else env, self.mode, self.actions(), watchers, **how)

    def play(self, seed: Seed = None, **how: Any) -> RowEvents:
        """The events of a whole run; with the arguments left out the same as `base`."""
        return self.drive(**how).play(self.settings.seed if seed is None else seed, self.settings.steps)

    def renew(self) -> None:
        """Replace the environment by a fresh one."""
        self.close()
        self.env = self.make()

    def close(self) -> None:
        """Close the environment; where that fails, the rule about closing says so."""
        with contextlib.suppress(CaseError):
            guarded("close()", self.env.close)


def first_difference(one: RowEvents, two: RowEvents, tolerance: float = 0.0) -> str | None:
    """Where two runs differ, in words. Runs of different length are compared as far as both go."""
    for row, (mine, yours) in enumerate(zip(one, two, strict=True)):
        if (text := row_difference(mine, yours, tolerance)) is not None:
            return f"row {row}, {text}"
    return None


def row_difference(one: Sequence[Event], two: Sequence[Event], tolerance: float = 0.0) -> str | None:
    """The same for the events of one row."""
    for index, (first, second) in enumerate(zip(one, two, strict=False)):
        parts: dict[str, tuple[Any, Any]] = {
            "reward": (first.reward, second.reward),
            "terminated": (first.terminated, second.terminated),
            "truncated": (first.truncated, second.truncated),
        }
        if first.observation is not None and second.observation is not None:  # not reported is another rule's finding
            parts["observation"] = (first.observation, second.observation)
        for name, (mine, yours) in parts.items():
            if (text := difference(mine, yours, tolerance)) is not None:
                what = "reset" if first.reward is None else "transition"
                return f"event {index} ({what}): {name} {text}"
    return None
