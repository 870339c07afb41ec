"""Long work in steps: progress and its rate, TensorBoard, saving at intervals and when interrupted."""

from __future__ import annotations

import copy
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

KEPT = 100
"""Steps whose figures are kept for the mean that a run reports."""


class Stepwise(Protocol):
    """Work that can be done a step at a time, saved after any step, and continued exactly."""

    step: int
    whole: bool
    """False while a step has begun to change what `save` writes, and has not ended."""
    recent: list[dict[str, Tensor]]

    def prepare(self) -> None:
        """What comes before the first step; nothing when that has been done."""
        ...

    def train_step(self) -> dict[str, Tensor]:
        """One step; returns its figures as scalar tensors.

        One that fails before it has changed what `save` writes can be done again with the same result.
        """
        ...

    def agree(self, flag: bool) -> bool:
        """Whether `flag` is set in any of the processes that do this work together; in one alone it is `flag`."""
        ...

    def save(self) -> None:
        """Write everything that is needed to continue."""
        ...


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
    writer: SummaryWriter | None,
    progress: bool,
) -> dict[str, float]:
    """Bring `work` to step `until` and save it; returns means over the last hundred steps at most.

    An interruption takes effect between two steps, of all processes the same two, and saves before it is passed on;
    half a step is never saved. `units` of `unit` are done by a step; figures named in `shown` stand beside the bar, all
    go to TensorBoard under `name` every `every` steps.
    """
    if not work.whole:
        raise RuntimeError("a step was cut off in the middle: make this object anew, it continues from what is saved")
    saved = time.monotonic()
    bar = tqdm(
        total=until * units,
        initial=work.step * units,
        desc=name.replace("_", " "),
        unit=unit,
        unit_scale=units > 1,
        disable=not progress,
    )
    with deferred_interrupts() as interrupts:
        stop = False
        try:
            if work.step < until:
                work.prepare()
            while work.step < until:
                stop = work.agree(interrupts.came)
                if stop:
                    break
                work.recent = [*work.recent[1 - KEPT :], work.train_step()]
                bar.update(units)
                if work.step % every == 0:
                    means = mean_of(work.recent[-every:])
                    bar.set_postfix({key: f"{means[key]:.3f}" for key in shown}, refresh=False)
                    for key, value in means.items() if writer else ():
                        assert writer is not None
                        writer.add_scalar(f"{name}/{key}", value, work.step)
                if time.monotonic() - saved > save_seconds:
                    work.save()
                    saved = time.monotonic()
        finally:
            bar.close()
            if work.whole:
                work.save()
        # Asked once more, so that no process leaves before the one that writes has written.
        if work.agree(interrupts.came or stop):
            raise KeyboardInterrupt
    return mean_of(work.recent)


def mean_of(records: Sequence[dict[str, Tensor]]) -> dict[str, float]:
    """Mean of every entry over records of scalars."""
    return {k: float(torch.stack([r[k] for r in records]).mean()) for k in records[0]} if records else {}


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
