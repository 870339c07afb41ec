"""Clips of every training step, drawn as the step asks for them, or ahead of it by processes of their own.

Each clip is drawn for itself (`StepClips`), or goes on where the one before of its row ended, so that memory can be
carried from one to the next (`StreamClips`).
"""

from __future__ import annotations

import itertools
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes.data import Clips

AHEAD = 2
"""Steps that each worker keeps ready: what the queue holds is bounded, whatever the size of the store."""


_FORK = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
"""Named, since libraries such as TorchRL change the default for everybody who imports them; workers touch no GPU."""


class ClipSource(Protocol):
    """Where clips come from; `EpisodeStore` is one. With workers it has to be one that can be pickled."""

    def sample(self, batch: int, length: int, generator: np.random.Generator) -> Clips:
        """Draw `batch` clips of `length` frames."""
        ...


class Place(NamedTuple):
    """A frame of an episode: the name of its file, and the frame's number."""

    episode: str
    frame: int


class Window(NamedTuple):
    """Where a clip begins, and whether the clip before it of its row ended there."""

    place: Place
    carried: bool


@runtime_checkable
class StreamSource(Protocol):
    """Where rows can read on; `EpisodeStore` is one. With workers it has to be one that can be pickled."""

    def anywhere(self, length: int, generator: np.random.Generator) -> Place:
        """Draw where a clip of `length` frames is to begin: every frame is in one about as often."""
        ...

    def beginning(self, generator: np.random.Generator) -> Place:
        """Draw an episode's first frame, of each with equal probability."""
        ...

    def frames_of(self, episode: str) -> int:
        """Frames of an episode; 0 where there is none of that name."""
        ...

    def clip(self, place: Place, length: int) -> Clips:
        """The `length` frames from there, as a batch of one."""
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


class StreamClips(Dataset[Clips | InputError]):
    """Item s: the clips of step s, one for each of `rows`, which go on where those of step s - 1 ended.

    At each step a row reads on with probability `carry`, and begins anew otherwise: anywhere, as clips that are drawn
    one by one do. Behind an episode's end it begins another. Frames then come up equally often, as episodes that are
    read from their beginning are drawn without regard to their length.

    What row r does at step s follows from (seed, s, r), from where it stood, and from the episodes that there are. All
    `batch` rows are followed, so that any process knows where each of them stands: that costs no reading.
    """

    def __init__(
        self,
        source: StreamSource,
        seed: int,
        batch: int,
        rows: range,
        length: Callable[[int], int],
        carry: float,
    ) -> None:
        self.source, self.seed, self.rows, self.length, self.carry = source, seed, rows, length, carry
        self._step = 0
        self._places: tuple[Place | None, ...] = (None,) * batch

    def __getitem__(self, step: int) -> Clips | InputError:
        """Read; bad input is returned, since raised in a worker it would arrive wrapped in a traceback."""
        windows, length = self.windows(step), self.length(step)
        try:
            return Clips.cat([self.source.clip(windows[row].place, length) for row in self.rows])
        except InputError as error:
            return error

    def windows(self, step: int) -> list[Window]:
        """Where the clips of `step` begin, for all rows of the batch."""
        return self._windows(step, self.places(step))

    def places(self, step: int) -> tuple[Place | None, ...]:
        """Where every row stands before `step`: behind the last frame it read. Steps only go forwards."""
        if step < self._step:
            raise ValueError(f"step {step} lies before {self._step}, where the rows stand")
        for at in range(self._step, step):
            self._step, self._places = at + 1, self._behind(at, self._places)
        return self._places

    def resume(self, step: int, places: Sequence[Place | None]) -> None:
        """Go on at `step`, before which the rows stood at `places`."""
        if len(places) != len(self._places):
            raise ValueError(f"{len(places)} places for {len(self._places)} rows")
        self._step, self._places = step, tuple(places)

    def carries(self, step: int) -> bool:
        """Whether any of this process's clips is gone on with at the next step."""
        following = self._windows(step + 1, self._behind(step, self.places(step)))
        return any(following[row].carried for row in self.rows)

    def _behind(self, step: int, places: Sequence[Place | None]) -> tuple[Place | None, ...]:
        length, begun = self.length(step), (window.place for window in self._windows(step, places))
        return tuple(Place(place.episode, place.frame + length) for place in begun)

    def _windows(self, step: int, places: Sequence[Place | None]) -> list[Window]:
        return [self._window(step, row, place) for row, place in enumerate(places)]

    def _window(self, step: int, row: int, place: Place | None) -> Window:
        generator = np.random.default_rng((self.seed, step, row))
        anew, frames = generator.random() >= self.carry, self.source.frames_of(place.episode) if place else 0
        if place is None or anew or not frames:
            return Window(self.source.anywhere(self.length(step), generator), False)
        if place.frame >= frames:
            return Window(self.source.beginning(generator), False)
        return Window(place, True)


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
