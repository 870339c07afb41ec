"""What one may ask of a dream besides its world."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from gymnasium.vector import AutoresetMode

from lssvwm.worldmodel.common.errors import InputError, check_fields
from lssvwm.worldmodel.uncertainty import Ensemble, UncertaintyPenalty

Observation = Literal["frame", "features", "both"]
Output = Literal["numpy", "torch"]
Terminate = Literal["sample", "threshold", "never"]
UncertaintyKind = Literal["none", "heads", "draws"]

ContextStart = Literal["any", "episode"]
WHOLE: Literal["all"] = "all"
ContextLength = int | tuple[int, int] | Literal["all"]

RENDER_MODES = ("rgb_array",)


@dataclass(frozen=True)
class DreamOptions:
    """What one may ask of a dream besides its world; all are options of `DreamVectorEnv`, by keyword.

    context_length: real frames observed before a dream begins; its first observation is the last of them. A number n;
        (1, n) draws one for each dream, and goes no further than the longest episode; "all" reads the whole past, from
        the first frame of the episode on, as real play has seen it (`PrefixCache` says what that costs).
    start: where in an episode the context is: "any" is anywhere (with "all" every frame after which an episode goes on
        is equally likely to be its last), "episode" is the first frames (with "all" the first alone); a number from 0
        to 1 is the share of dreams that begin so.
    max_episode_steps: horizon of a dream; reaching it truncates. None dreams on.
    terminate: the termination head ends an episode by a draw ("sample"), above one half ("threshold") or "never".
    observation: "frame" (h, w, 3) uint8, "features" (F,) float32 of the model, or a dictionary of "both".
    output: "numpy" arrays, or "torch" tensors on the device. Then a step brings to the host only whether actions that
        were given as tensors are valid, and N termination probabilities and uncertainties where they decide something.
        Masks `_key` of infos are numpy arrays either way, and `final_obs` is one batch of tensors.
    channels_first: frames are (3, h, w), also those of `context_info`; `render` is not concerned.
    stagger: the dreams that `reset()` begins in all rows have 0 to max_episode_steps - 1 steps behind them already, by
        seed and evenly spread, so that rows are not truncated all at once. Later dreams are whole.
    context_info: tell the context whenever a row begins, to warm up a policy.
    uncertainty: tell how little a step is to be trusted (`worldmodel.uncertainty`): from the "heads", or from other
        "draws" of it.
    truncate_above: a dream whose uncertainty exceeds this has left what the model knows, and is truncated.
    pessimism: rewards are lowered by so many standard deviations (`worldmodel.uncertainty`), measured over
    pessimism_over: "masks" of the reward head's inputs, or other "draws" of the step.
    prefetch: read the contexts of the next dreams on a background thread. Dreams do not depend on it.

    Raises InputError for what cannot be met.
    """

    context_length: ContextLength = 8
    start: ContextStart | float = "any"
    max_episode_steps: int | None = 64
    terminate: Terminate = "sample"
    autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP
    observation: Observation = "frame"
    output: Output = "numpy"
    channels_first: bool = False
    stagger: bool = False
    context_info: bool = False
    uncertainty: UncertaintyKind = "none"
    truncate_above: float | None = None
    pessimism: float = 0.0
    pessimism_over: Ensemble = "masks"
    prefetch: bool = True
    render_mode: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.context_length, list):  # as JSON has it
            object.__setattr__(self, "context_length", tuple(self.context_length))  # type: ignore[unreachable]
        for name, kind in (
            ("observation", Observation),
            ("output", Output),
            ("terminate", Terminate),
            ("uncertainty", UncertaintyKind),
        ):
            if getattr(self, name) not in get_args(kind):
                raise InputError(f"{name}={getattr(self, name)!r:.80}: choose one of {', '.join(get_args(kind))}")
        check_context_length(self.context_length)
        UncertaintyPenalty(self.pessimism, self.pessimism_over)
        if self.start not in get_args(ContextStart) and not (
            isinstance(self.start, int | float) and 0 <= self.start <= 1
        ):
            raise InputError(f"start={self.start!r}: choose any, episode, or the share of episodes from 0 to 1")
        at_least_one(max_episode_steps=self.max_episode_steps)
        if self.render_mode not in (None, *RENDER_MODES):
            raise InputError(f"render_mode={self.render_mode!r}: choose rgb_array or None")
        check_fields(self)
        if self.stagger and self.max_episode_steps is None:
            raise InputError("stagger=True spreads clocks over the horizon: give max_episode_steps")
        if self.truncate_above is not None and self.uncertainty == "none":
            raise InputError(f"truncate_above={self.truncate_above} needs to know how uncertain: set uncertainty")

    @property
    def decisive(self) -> dict[str, Any]:
        """Those that decide how a dream goes on, as opposed to how it is shown."""
        lost = None if self.truncate_above is None else f"{self.uncertainty} > {self.truncate_above}"
        return {
            "context_length": list(length) if isinstance(length := self.context_length, tuple) else length,
            "start": self.start,
            "max_episode_steps": self.max_episode_steps,
            "terminate": self.terminate,
            "truncate_above": lost,
            **({"pessimism": f"{self.pessimism} over {self.pessimism_over}"} if self.pessimism else {}),
        }


def autoreset(mode: str | AutoresetMode) -> AutoresetMode:
    """The mode by its name, such as "SameStep"; raises InputError for others."""
    known = [m.value for m in AutoresetMode]
    if not isinstance(mode, AutoresetMode) and mode not in known:
        raise InputError(f"autoreset_mode={mode!r}: choose one of {', '.join(known)}")
    return AutoresetMode(mode)


def check_context_length(length: ContextLength) -> None:
    """Raise an InputError unless it is a number of at least 1, two such in order, or "all"."""
    numbers = length if isinstance(length, tuple) and len(length) == 2 else (length,)
    counts = [number for number in numbers if isinstance(number, int) and number >= 1]
    if length != WHOLE and not (len(counts) == len(numbers) and counts == sorted(counts)):
        raise InputError(f"context_length={length!r}: give a number of at least 1, (shortest, longest), or 'all'")


def at_least_one(**counts: int | None) -> None:
    """Raise an InputError that names the first count below 1; None is no count."""
    for name, count in counts.items():
        whole = isinstance(count, int | np.integer) and not isinstance(count, bool)
        if count is not None and not (whole and count >= 1):
            raise InputError(f"{name}={count!r:.80}: give a number of at least 1")
