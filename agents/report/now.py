"""The top of the page while a run goes on: what it is doing, for how long, and what is left."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lssvwm.worldmodel.common.progress import Place

KINDS = {
    "collect": "recording real episodes",
    "demonstrations": "recording what is cloned",
    "world-model": "learning the world",
    "policy": "learning to act",
    "random": "judging random play",
    "evaluation": "judging what was learned",
}
"""What stages do, by the end of their names."""


@dataclass(frozen=True)
class Now:
    """What a run that has no final report yet is doing, or was doing when it stopped."""

    stage: str
    lines: Sequence[str]
    share: float | None
    """Of the work at hand that is done; None where that is not known."""
    goes_on: bool = True


def now(
    stage: str,
    stages: Sequence[str],
    *,
    rounds: int,
    seconds: Mapping[str, float],
    done: Sequence[str],
    place: Place | None,
) -> Now:
    """In `stage` of all `stages`, those in `done` being done; `seconds` of each so far, and its work at hand."""
    lines = [f"In this stage for {duration(seconds.get(stage, 0.0))}."]
    if ahead := to_come(stage, stages, seconds=seconds, done=done, place=place):
        lines.insert(0, ahead)
    if place is not None:
        left = duration((place.total - place.done) / place.per_second) if place.per_second > 0 else "unknown"
        speed = f"{place.per_second:,.2f} {place.unit}/s"
        lines = [
            f"{place.what}: {place.unit} {place.done:,} of {place.total:,}, {speed}, "
            f"{'done' if place.done >= place.total else f'about {left} left of this'}.",
            *lines,
        ]
    if done:
        lines.append("Done: " + ", ".join(f"{told(s, rounds)} ({duration(seconds.get(s, 0.0))})" for s in done) + ".")
    lines.append(f"Written on {time.strftime('%Y-%m-%d at %H:%M:%S')}.")
    heading = f"Stage {stages.index(stage) + 1} of {len(stages)}: {told(stage, rounds)}"
    return Now(heading, lines, None if place is None else min(1.0, place.done / max(1, place.total)))


def to_come(
    stage: str, stages: Sequence[str], *, seconds: Mapping[str, float], done: Sequence[str], place: Place | None
) -> str:
    """How long the run will take from here, a stage being taken to last as long as the last one of its kind does.

    What has not been done before is left out, and named; nothing is said where nothing is known.
    """
    known = {kind_of(name): seconds.get(name, 0.0) for name in done}
    kind, spent = kind_of(stage), seconds.get(stage, 0.0)
    here = (place.total - place.done) / place.per_second if place and place.per_second > 0 else None
    if kind in known:
        here = max(here or 0.0, known[kind] - spent)
    elif here is not None:
        known[kind] = spent + here
    later = [kind_of(name) for name in stages[stages.index(stage) + 1 :] if name not in done]
    if here is None and not known.keys() & {*later}:
        return ""
    left = duration((here or 0.0) + sum(known.get(each, 0.0) for each in later))
    new = [KINDS[each] for each in dict.fromkeys([kind, *later]) if each not in known]
    return f"About {left} left in all{', and the time for ' + ', '.join(new) if new else ''}."


def kind_of(stage: str) -> str:
    """What a stage does, without its round: a key of `KINDS`."""
    return stage.partition("-")[2] or stage


def round_of(stage: str) -> int:
    """The round of a stage that has one, as people count: from 1."""
    return int(stage.partition("-")[0]) + 1


def told(stage: str, rounds: int) -> str:
    """A stage in words."""
    kind = kind_of(stage)
    return KINDS[kind] + (f", round {round_of(stage)}" if kind != stage and rounds > 1 else "")


def duration(seconds: float) -> str:
    """So many seconds, to read."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
