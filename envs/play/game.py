"""The game: a dream and, where there is one, the real world, driven by the same actions from the same past."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lssvwm.envs.dream.options import Doubt
from lssvwm.envs.dream.state import DreamState
from lssvwm.envs.keys import Keys
from lssvwm.envs.play.beginning import Beginning, choose
from lssvwm.envs.play.dream_side import ENDS_ABOVE, DreamSide, Told
from lssvwm.envs.play.pilot import Pilot
from lssvwm.envs.play.real_side import RealSide
from lssvwm.envs.play.record import Record
from lssvwm.envs.play.saving import save_episodes, save_video
from lssvwm.envs.policy import FrameArray
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import EpisodeStore

_PACE = 30
"""Steps over which times are averaged."""


@dataclass(frozen=True)
class Kept:
    """A moment of the dream to go back to."""

    state: DreamState
    length: int
    told: Told
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
        pilot: Pilot | None,
        keys: Keys,
        *,
        seed: int,
        past: int,
        out: Path,
    ) -> None:
        self.store, self.dream, self.real, self.pilot, self.keys = store, dream, real, pilot, keys
        self._seed, self._past, self._out = seed, past, out
        self._times: deque[float] = deque(maxlen=_PACE)
        self._real_times: deque[float] = deque(maxlen=_PACE)
        self.begin(0)

    def begin(self, number: int) -> None:
        """Both sides stand after the past of beginning `number`."""
        self.beginning: Beginning = choose(self.store, number, seed=self._seed, longest=self._past)
        self.dream.begin(self.beginning, self._seed)
        self.dreamt = Record(self.beginning.clips)
        self.kept: Kept | None = None
        self.apart = False
        self.happened: Record | None = None
        if self.real is not None:
            ended = self.real.begin(self.beginning)
            self.happened = Record(self.beginning.clips)
            if self.beginning.seed is None or ended:  # what was recorded is no past of this world
                self.happened.frames, self.happened.given = [self.real.frame], 1
                self.happened.actions, self.happened.rewards = [-1], [0.0]
            self.happened.truncated = ended

    @property
    def over(self) -> bool:
        """Whether neither side goes on."""
        return self.dreamt.ended and (self.happened is None or self.happened.ended)

    def step(self, action: int | None) -> None:
        """Take `action` on both sides, or None for the policy's, which looks at the dream while that goes on."""
        if self.over:
            return
        if action is None:
            action = self._policy_action()
        if not self.dreamt.ended:
            told = self.dream.step(action)
            self._times.append(told.seconds or 0.0)
            ended = (told.termination or 0.0) > ENDS_ABOVE
            self.dreamt.add(self.dream.frame, action, told.reward, ended, False)
        if self.real is not None and self.happened is not None and not self.happened.ended:
            happened = self.real.step(action)
            self._real_times.append(happened.seconds)
            self.happened.add(self.real.frame, action, happened.reward, happened.terminated, happened.truncated)

    def keep(self) -> None:
        """Remember this moment of the dream."""
        self.kept = Kept(self.dream.get_state(), len(self.dreamt), self.dream.told, self.dreamt.terminated)

    def back(self) -> None:
        """Let the dream go on from the moment that was kept; the real world stays where it is."""
        if self.kept is None:
            raise InputError("no moment was kept in this dream: take a snapshot first")
        self.apart = self.apart or len(self.dreamt) != self.kept.length
        self.dream.set_state(self.kept.state)
        self.dream.told = self.kept.told
        self.dreamt.cut(self.kept.length)
        self.dreamt.terminated = self.kept.terminated
        if self.pilot is not None:
            self.pilot.forget()

    def change(self, *, steps: int | None = None, uncertainty: Doubt | None = None) -> None:
        """Dream on with other denoising steps, or another measure of uncertainty."""
        self.dream.change(steps=steps, uncertainty=uncertainty)
        self._times.clear()

    def save(self, what: str, fps: float) -> str:
        """Write what happened since the past began: "episode" or "video". Returns where, as a sentence."""
        if what == "video":
            return save_video(self._out, self.dreamt, self.happened, fps)
        rate = self.dream.world.told_fps  # `fps` is the pace of the page
        return save_episodes(self._out, self.beginning, self.dreamt, self.happened, self.real, rate)

    def pictures(self) -> Pictures:
        """The current frames."""
        return Pictures(self.dream.frame, None if self.real is None else self.real.frame)

    def state(self) -> dict[str, Any]:
        """What the page shows besides the pictures, as JSON has it."""
        told, window = self.dream.told, self.dream.world.model.config.window
        state: dict[str, Any] = {
            "number": self.beginning.number,
            "episode": self.beginning.episode,
            "past": self.beginning.frames,
            "kept": None if self.kept is None else self.kept.length - self.dreamt.given,
            "over": self.over,
            "dream": {
                "reward": told.reward,
                "total": self.dreamt.total,
                "termination": told.termination,
                "uncertainty": told.uncertainty,
                "kind": self.dream.uncertainty,
                "steps": self.dream.steps,
                "ended": self.dreamt.terminated,
                "full": self.dreamt.ended and not self.dreamt.terminated,
                "played": len(self.dreamt) - self.dreamt.given,
                "memory": self.dream.read,
                "window": window,
                "milliseconds": _mean(self._times),
            },
            "real": None,
        }
        if self.real is not None and self.happened is not None:
            state["real"] = {
                "reward": self.happened.rewards[-1] if len(self.happened) > self.happened.given else 0.0,
                "total": self.happened.total,
                "ended": self.happened.ended,
                "played": len(self.happened) - self.happened.given,
                "notice": self.real.notice,
                "apart": self.apart,
                "milliseconds": _mean(self._real_times),
            }
        return state

    def _policy_action(self) -> int:
        if self.pilot is None:
            raise InputError("no policy was loaded: start again with --policy")
        watched = self.dreamt if self.happened is None or not self.dreamt.ended else self.happened
        return self.pilot.next(watched, self._seed + self.beginning.number)

    def close(self) -> None:
        """Close the real world."""
        if self.real is not None:
            self.real.env.close()


def _mean(seconds: deque[float]) -> float | None:
    return 1000 * sum(seconds) / len(seconds) if seconds else None
