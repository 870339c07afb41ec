"""Long work in steps: progress and its rate, curves, saving at intervals and when interrupted."""

from __future__ import annotations

import copy
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lssvwm.worldmodel.common.loggers import Scalars
from lssvwm.worldmodel.common.progress import Bar

HEARD = b"interrupted: going on to the next point at which nothing is lost; Ctrl-C again stops at once\n"
"""Said as soon as a signal comes."""
KEPT = 100
"""Steps whose figures are kept for the mean that a run reports."""
SAVING = 0.03
"""Largest share of the time that goes into saving at intervals."""
ASKING = 0.5
"""Seconds, about, between the steps after which processes that work together ask each other: each has to wait then."""
SAVE, STOP = 1000, 1001
"""What processes tell each other; a smaller number is 1000 less the steps until they ask again, and the largest counts:
it is that of the slowest."""

Figures = Mapping[str, Tensor | float]
"""What a step reports, as scalars; those of a device stay there until they are looked at."""


class Stepwise(Protocol):
    """Work that can be done a step at a time, saved after any step, and continued exactly."""

    step: int
    whole: bool
    """False while a step has begun to change what `save` writes, and has not ended."""
    recent: list[dict[str, float]]

    @property
    def alone(self) -> bool:
        """Whether no other process does this work together with this one."""
        ...

    def prepare(self) -> None:
        """What comes before the first step; nothing when that has been done."""
        ...

    def train_step(self) -> Figures:
        """One step; returns its figures.

        One that fails before it has changed what `save` writes can be done again with the same result.
        """
        ...

    def agree(self, number: int) -> int:
        """The largest `number` of the processes that do this work together; in one alone it is `number`."""
        ...

    def save(self) -> None:
        """Write everything that is needed to continue; called in all of the processes at the same step."""
        ...


class Alone:
    """What `Stepwise` asks of work that one process does all of."""

    alone = True

    def agree(self, number: int) -> int:
        """Nobody else has a number."""
        return number


def run_steps(
    work: Stepwise,
    until: int,
    *,
    name: str,
    unit: str,
    units: int,
    shown: Sequence[str],
    every: int,
    save_seconds: float,
    writer: Scalars | None,
    progress: bool,
) -> dict[str, float]:
    """Bring `work` to step `until` and save it; returns means over the last hundred steps at most.

    An interruption takes effect between two steps, and saves before it is passed on; half a step is never saved. In
    several processes it is the same two of all, after half a second or so: so seldom do they ask each other. Else it is
    saved every `save_seconds`, or as seldom as makes that 3 % of the time; with 0 after every step. `units` of `unit`
    are done by a step; figures named in `shown` stand beside the bar, all go to `writer` under `name` every `every`
    steps.
    """
    if not work.whole:
        raise RuntimeError("a step was cut off in the middle: make this object anew, it continues from what is saved")
    saved, pause = time.monotonic(), save_seconds
    pending: list[Figures] = []

    def settle() -> None:
        work.recent = [*work.recent, *settled(pending)][-KEPT:]
        pending.clear()

    bar = Bar(name.replace("_", " "), until, unit, initial=work.step, units=units, show=progress)
    with deferred_interrupts() as interrupts:
        told = 0
        try:
            if work.step < until:
                work.prepare()
                told = work.agree(STOP if interrupts.came else 0)
            asked, at, gap = time.monotonic(), work.step, 1
            while work.step < until and told < STOP:
                pending.append(work.train_step())
                bar.update()
                if work.step % every == 0:
                    settle()
                    means = mean_of(work.recent[-every:])
                    bar.note({key: f"{means[key]:.3f}" for key in shown if key in means})
                    for key, value in means.items() if writer else ():
                        assert writer is not None
                        writer.add_scalar(f"{name}/{key}", value, work.step)
                if work.step < at + gap:
                    continue
                now = time.monotonic()
                own = 1 if work.alone or not save_seconds else steps_in(ASKING, work.step - at, now - asked)
                told = work.agree(STOP if interrupts.came else SAVE if now - saved > pause else SAVE - own)
                if told == SAVE:
                    settle()
                    work.save()
                    saved = time.monotonic()
                    pause = max(save_seconds, (saved - now) / SAVING) if save_seconds else 0.0
                asked, at, gap = time.monotonic(), work.step, gap if told >= SAVE else SAVE - told
        finally:
            bar.close()
            if work.whole:
                settle()
                work.save()
        # Asked once more, so that no process leaves before the one that writes has written.
        if work.agree(STOP if interrupts.came or told == STOP else 0) == STOP:
            raise KeyboardInterrupt
    return mean_of(work.recent)


def steps_in(seconds: float, steps: int, took: float) -> int:
    """How many steps fit into `seconds`, 1 to `SAVE`, where `steps` took `took` seconds."""
    return SAVE if took <= 0 else min(SAVE, max(1, int(seconds * steps / took)))


def settled(records: Sequence[Figures]) -> list[dict[str, float]]:
    """The records as plain numbers. What lies on a device comes from there at once: each look waits for all its work.

    Raises TypeError or ValueError for anything else, as a damaged file may hold it.
    """
    there = [value for record in records for value in record.values() if isinstance(value, Tensor)]
    found = iter(torch.stack(there).tolist() if there else ())
    return [
        {name: next(found) if isinstance(value, Tensor) else float(value) for name, value in record.items()}
        for record in records
    ]


def mean_of(records: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of every entry over the records that have it."""
    names = dict.fromkeys(name for record in records for name in record)
    return {name: float(np.mean([r[name] for r in records if name in r])) for name in names}


class Interrupts:
    """SIGINT and SIGTERM that have come while they were held back."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    @property
    def came(self) -> bool:
        """Whether there was one."""
        return bool(self.numbers)

    def __call__(self) -> None:
        """Raise KeyboardInterrupt if there was one."""
        if self.came:
            raise KeyboardInterrupt


@contextmanager
def deferred_interrupts() -> Iterator[Interrupts]:
    """Hold back SIGINT and SIGTERM; call what is given where they may take effect.

    Half an optimiser step cannot be resumed. A second SIGINT does not wait. Outside the main thread Python delivers no
    signals, and nothing is held back.
    """
    interrupts = Interrupts()

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in interrupts.numbers:
            raise KeyboardInterrupt
        interrupts.numbers.append(number)
        # A signal may come in the midst of a print, where Python's own files must not be written to.
        os.write(2, b"\n" + HEARD if os.isatty(2) else HEARD)

    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def rewinding(numbers: np.random.Generator, tensors: torch.Generator) -> Iterator[None]:
    """Put the generators back to where they were if what is inside fails, so that it can be done again."""
    before, state = copy.deepcopy(numbers.bit_generator.state), tensors.get_state()
    try:
        yield
    except BaseException:
        numbers.bit_generator.state = before
        tensors.set_state(state)
        raise
