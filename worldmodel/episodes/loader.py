"""Clips of every training step, drawn as the step asks for them, or ahead of it by processes of their own."""

from __future__ import annotations

import itertools
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes.data import Clips
from lssvwm.worldmodel.episodes.stream import StreamClips

AHEAD = 2
"""Steps that each worker keeps ready: what the queue holds is bounded, whatever the size of the store."""


_FORK = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
"""Named, since libraries such as TorchRL change the default for everybody who imports them; workers touch no GPU."""


class ClipSource(Protocol):
    """Where clips come from; `EpisodeStore` is one. With workers it has to be one that can be pickled."""

    def sample(self, batch: int, length: int, generator: np.random.Generator) -> Clips:
        """Draw `batch` clips of `length` frames."""
        ...


class StepClips(Dataset[Clips | InputError]):
    """Item s: the clips of step s, one for each of `rows`.

    A clip follows from (seed, step, row) alone. So it does not matter which process draws it, or what was drawn
    before; a training that goes on after a stop sees what it would have seen.
    """

    def __init__(self, source: ClipSource, seed: int, rows: range, length: Callable[[int], int]) -> None:
        self.source, self.seed, self.rows, self.length = source, seed, rows, length

    def __getitem__(self, step: int) -> Clips | InputError:
        """Draw; bad input is returned, since raised in a worker it would arrive wrapped in a traceback."""
        length = self.length(step)
        generators = (np.random.default_rng((self.seed, step, row)) for row in self.rows)
        try:
            return Clips.cat([self.source.sample(1, length, generator) for generator in generators])
        except InputError as error:
            return error


class ClipLoader:
    """The clips of one step after the other, in pinned memory where `pin` is True, ready for a GPU."""

    def __init__(self, dataset: StepClips | StreamClips, workers: int, *, pin: bool) -> None:
        self.dataset, self.workers, self.pin = dataset, workers, pin
        self._ahead: Iterator[Clips | InputError] | None = None
        self._next = -1

    def clips(self, step: int) -> Clips:
        """The clips of `step`. Workers read on from there; a step that is not the next one starts them anew."""
        if self.workers == 0:
            found = self.dataset[step]
        else:
            if self._ahead is None or step != self._next:
                self.close()
                self._ahead = iter(self._loader(step))
            found, self._next = next(self._ahead), step + 1
        if isinstance(found, InputError):
            raise found
        return found

    def close(self) -> None:
        """End the workers."""
        self._ahead = None

    def _loader(self, step: int) -> DataLoader[Clips | InputError]:
        return DataLoader(
            self.dataset,
            batch_size=None,  # an item is a whole step
            sampler=itertools.count(step),
            num_workers=self.workers,
            prefetch_factor=AHEAD,
            pin_memory=self.pin,
            worker_init_fn=_leave_interrupts,
            multiprocessing_context=_FORK,
            generator=torch.Generator(),  # or it would draw from the global one
        )


def _leave_interrupts(worker: int) -> None:
    """Ctrl-C reaches the whole group of processes; the one that trains decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
