"""Clips that become longer while training goes on (paper, section 4: 400 frames first, then 800)."""

from __future__ import annotations

import re
from typing import NamedTuple

from lssvwm.worldmodel.common.errors import InputError

_STAGE = re.compile(r"(\d+):(\d+(?:\.\d+)?)([km]?)")
_UNITS = {"": 1, "k": 1_000, "m": 1_000_000}


class Stage(NamedTuple):
    """Clips of `length` frames for `steps` steps."""

    length: int
    steps: int


class Curriculum(NamedTuple):
    """Stages, one after the other; the length of the last one stays."""

    stages: tuple[Stage, ...]

    @classmethod
    def parse(cls, text: str, length: int) -> Curriculum:
        """Read "64:20k,128:20k": length and number of steps of each stage, with k or m for thousands or millions.

        Empty text is one stage of `length` that never ends. Anything else is an `InputError`.
        """
        if not text.strip():
            return cls((Stage(length, 0),))
        return cls(tuple(_stage(part.strip(), text) for part in text.split(",")))

    def length(self, step: int) -> int:
        """Frames of the clips that step `step` (from 0) trains on."""
        for stage in self.stages:
            if step < stage.steps:
                return stage.length
            step -= stage.steps
        return self.stages[-1].length

    @property
    def begin_of_last(self) -> int:
        """The step with which the last stage begins."""
        return sum(stage.steps for stage in self.stages[:-1])

    def steps_for(self, frames: float) -> int:
        """Steps, of one clip each, that train on so many frames."""
        steps = 0
        for stage in self.stages[:-1]:
            if frames < stage.steps * stage.length:
                return steps + int(frames / stage.length)
            frames, steps = frames - stage.steps * stage.length, steps + stage.steps
        return steps + int(frames / self.stages[-1].length)

    def agrees(self, other: Curriculum, until: int) -> bool:
        """Whether both give all steps before `until` clips of the same length."""
        starts = {0, *(sum(s.steps for s in one.stages[:n]) for one in (self, other) for n in range(len(one.stages)))}
        return all(self.length(step) == other.length(step) for step in starts if step < until)

    def begins(self, other: Curriculum) -> bool:
        """Whether `other` has these stages first."""
        return other.stages[: len(self.stages)] == self.stages


def _stage(part: str, text: str) -> Stage:
    match = _STAGE.fullmatch(part)
    if match is None:
        raise InputError(f"curriculum={text!r}: '{part}' is not LENGTH:STEPS, such as 64:20k or 64:20k,128:20k")
    length, steps = int(match[1]), float(match[2]) * _UNITS[match[3]]
    if length < 1 or steps < 1 or steps != int(steps):
        raise InputError(f"curriculum={text!r}: '{part}' must have at least 1 frame and a whole number of steps")
    return Stage(length, int(steps))
