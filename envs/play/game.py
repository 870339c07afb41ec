"""The game: a dream and, where there is one, the real world, driven by the same actions from the same context."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lssvwm.envs.dream.options import UncertaintyKind
from lssvwm.envs.dream.state import DreamState
from lssvwm.envs.keys import Keys
from lssvwm.envs.play.context import PlayContext, choose_context
from lssvwm.envs.play.dream_side import ENDS_ABOVE, DreamSide, DreamStep
from lssvwm.envs.play.policy import PolicyPlayer
from lssvwm.envs.play.real_side import RealSide, recorded_config
from lssvwm.envs.play.trajectory import Trajectory, save_episodes, save_video
from lssvwm.envs.policy import FrameArray
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import EpisodeStore

_PACE = 30
"""Steps over which times are averaged."""


@dataclass(frozen=True)
class Snapshot:
    """A moment of the dream to go back to."""

    state: DreamState
    length: int
    last: DreamStep
    terminated: bool


@dataclass(frozen=True)
class Pictures:
    """What both sides show, (h, w, 3) uint8 each."""

    dream: FrameArray
    real: FrameArray | None


class Game:
    """Both sides. Nothing here knows of a browser; every call comes from one thread."""

    def __init__(
        self,
        store: EpisodeStore,
        dream: DreamSide,
        real: RealSide | None,
        policy: PolicyPlayer | None,
        keys: Keys,
        *,
        seed: int,
        past: int,
        out: Path,
    ) -> None:
        self.store, self.dream, self.real, self.policy, self.keys = store, dream, real, policy, keys
        self._seed, self._past, self._out = seed, past, out
        self._times: deque[float] = deque(maxlen=_PACE)
        self._real_times: deque[float] = deque(maxlen=_PACE)
        self.begin(0)

    def begin(self, number: int) -> None:
        """Both sides stand after the context `number`."""
        self.context: PlayContext = choose_context(self.store, number, seed=self._seed, longest=self._past)
        self.dream.begin(self.context, self._seed)
        parts = self.dream.world.model.config.told
        self.dream_trajectory = Trajectory(self.context.clips, parts)
        self.snapshot: Snapshot | None = None
        self.apart = False
        self.real_trajectory: Trajectory | None = None
        if self.real is not None:
            ended = self.real.begin(self.context)
            self.real_trajectory = Trajectory(self.context.clips, parts)
            if self.context.seed is None or ended:  # what was recorded is no past of this world
                self.real_trajectory.frames, self.real_trajectory.given = [self.real.frame], 1
                self.real_trajectory.actions, self.real_trajectory.rewards = [-1], [0.0]
            self.real_trajectory.truncated = ended

    @property
    def over(self) -> bool:
        """Whether neither side goes on."""
        return self.dream_trajectory.ended and (self.real_trajectory is None or self.real_trajectory.ended)

    def step(self, action: int | None) -> None:
        """Take `action` on both sides, or None for the policy's, which looks at the dream while that goes on."""
        if self.over:
            return
        if action is None:
            action = self._policy_action()
        if not self.dream_trajectory.ended:
            step = self.dream.step(action)
            self._times.append(step.seconds or 0.0)
            ended = (step.termination or 0.0) > ENDS_ABOVE
            self.dream_trajectory.add(self.dream.frame, action, step.reward, ended, False)
        if self.real is not None and self.real_trajectory is not None and not self.real_trajectory.ended:
            led = self.real.step(action)
            self._real_times.append(led.seconds)
            self.real_trajectory.add(self.real.frame, action, led.reward, led.terminated, led.truncated)

    def keep(self) -> None:
        """Remember this moment of the dream."""
        self.snapshot = Snapshot(
            self.dream.get_state(), len(self.dream_trajectory), self.dream.last, self.dream_trajectory.terminated
        )

    def back(self) -> None:
        """Let the dream go on from the moment that was kept; the real world stays where it is."""
        if self.snapshot is None:
            raise InputError("no moment was kept in this dream: take a snapshot first")
        self.apart = self.apart or len(self.dream_trajectory) != self.snapshot.length
        self.dream.set_state(self.snapshot.state)
        self.dream.last = self.snapshot.last
        self.dream_trajectory.cut(self.snapshot.length)
        self.dream_trajectory.terminated = self.snapshot.terminated
        if self.policy is not None:
            self.policy.forget()

    def change(self, *, steps: int | None = None, uncertainty: UncertaintyKind | None = None) -> None:
        """Dream on with other denoising steps, or another measure of uncertainty."""
        self.dream.change(steps=steps, uncertainty=uncertainty)
        self._times.clear()

    def save(self, what: str, fps: float) -> str:
        """Write what happened since the context began: "episode" or "video". Returns where, as a sentence."""
        if what == "video":
            return save_video(self._out, self.dream_trajectory, self.real_trajectory, fps)
        rate = self.dream.world.told_fps  # `fps` is the pace of the page
        sides = (self.dream_trajectory, self.real_trajectory, self.real)
        return save_episodes(self._out, self.context, *sides, rate, recorded_config(self.dream.world.checkpoint))

    def pictures(self) -> Pictures:
        """The current frames."""
        return Pictures(self.dream.frame, None if self.real is None else self.real.frame)

    def state(self) -> dict[str, Any]:
        """What the page shows besides the pictures, as JSON has it."""
        last, window = self.dream.last, self.dream.world.model.config.window
        state: dict[str, Any] = {
            "number": self.context.number,
            "episode": self.context.episode,
            "past": self.context.frames,
            "kept": None if self.snapshot is None else self.snapshot.length - self.dream_trajectory.given,
            "over": self.over,
            "dream": {
                "reward": last.reward,
                "total": self.dream_trajectory.total,
                "termination": last.termination,
                "uncertainty": last.uncertainty,
                "kind": self.dream.uncertainty,
                "steps": self.dream.steps,
                "ended": self.dream_trajectory.terminated,
                "full": self.dream_trajectory.ended and not self.dream_trajectory.terminated,
                "played": len(self.dream_trajectory) - self.dream_trajectory.given,
                "memory": self.dream.read,
                "window": window,
                "milliseconds": _mean(self._times),
            },
            "real": None,
        }
        if self.real is not None and self.real_trajectory is not None:
            state["real"] = {
                "reward": self.real_trajectory.rewards[-1]
                if len(self.real_trajectory) > self.real_trajectory.given
                else 0.0,
                "total": self.real_trajectory.total,
                "ended": self.real_trajectory.ended,
                "played": len(self.real_trajectory) - self.real_trajectory.given,
                "notice": self.real.notice,
                "apart": self.apart,
                "milliseconds": _mean(self._real_times),
            }
        return state

    def _policy_action(self) -> int:
        if self.policy is None:
            raise InputError("no policy was loaded: start again with --policy")
        watched = (
            self.dream_trajectory
            if self.real_trajectory is None or not self.dream_trajectory.ended
            else self.real_trajectory
        )
        return self.policy.next(watched, self._seed + self.context.number)

    def close(self) -> None:
        """Close the real world."""
        if self.real is not None:
            self.real.env.close()


def _mean(seconds: deque[float]) -> float | None:
    return 1000 * sum(seconds) / len(seconds) if seconds else None
