"""The real frames in which dreams begin, read ahead on a thread beside the dreaming."""

from __future__ import annotations

import copy
import functools
import queue
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lssvwm.envs.dream.options import WHOLE, DreamOptions
from lssvwm.worldmodel.episodes import Clips, EpisodeStore
from lssvwm.worldmodel.told import ToldPart, size_of


class Begin(NamedTuple):
    """Which dream of which seed: alone decides where it begins, so it may be read at any time."""

    seed: int
    dream: int


class Start(NamedTuple):
    """Where a dream begins."""

    clips: Clips  # (1, C, ...), after which the real episode goes on
    episode: str | None  # whose first C frames these are, where the past is whole


Told = Mapping[str, NDArray[np.float32]]
"""What a row is to be told, by key, in numbers (`ToldPart.encode`)."""


def telling(start: Start, told: Told, parts: Sequence[ToldPart]) -> Start:
    """The same with other goals, with every frame: keys that are not in `told` keep theirs."""
    if not told:
        return start
    shape = (*start.clips.mask.shape, size_of(parts))
    kept = torch.zeros(shape) if start.clips.told is None else start.clips.told
    columns = [
        torch.from_numpy(told[part.key]).expand(*shape[:2], -1) if part.key in told else column
        for part, column in zip(parts, kept.split([part.size for part in parts], -1), strict=True)
    ]
    return Start(replace(start.clips, told=torch.cat(columns, -1)), None)  # what is known of the episode is of its own


def draw(store: EpisodeStore, options: DreamOptions, begin: Begin) -> Start:
    """The context of one dream, as `options` want it."""
    generator, start, wanted = np.random.default_rng(begin), options.start, options.context_length
    if not isinstance(start, str):
        start = "episode" if generator.random() < start else "any"
    if wanted == WHOLE:
        if start == "episode":
            row, last = int(generator.integers(len(store))), 0
        else:
            ends = np.cumsum(store.lengths - 1)  # of the frames after which an episode goes on
            frame = int(generator.integers(ends[-1]))
            row = int(np.searchsorted(ends, frame, side="right"))
            last = frame - int(ends[row] - (store.lengths[row] - 1))
        return Start(store.gather(np.array([row]), np.array([0]), last + 1), store.names[row])
    if isinstance(wanted, int):
        length = wanted
    else:
        longest = min(wanted[1], int(store.lengths.max()) - 1)
        length = int(generator.integers(min(wanted[0], longest), longest + 1))
    return Start(store.sample_contexts(1, length, generator, start=start), None)


class Starts:
    """Contexts as `options` want them. With `prefetch`, those that are expected are read on a thread of their own.

    The thread is a daemon that holds nothing of this object: an environment that was forgotten keeps neither itself nor
    the interpreter alive. After a fork the child starts its own, since threads do not survive it.
    """

    def __init__(self, store: EpisodeStore, options: DreamOptions) -> None:
        # One store object is for one thread; a copy shares the index, and keeps its own episodes.
        self._draw = functools.partial(draw, copy.copy(store), options)
        self._ahead = options.prefetch
        self._expected: dict[Begin, Future[Start]] = {}
        self._tasks: queue.SimpleQueue[_Task] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def take(self, begins: Sequence[Begin]) -> list[Start]:
        """The contexts of these dreams, in this order. Waits for those that are not read yet."""
        if not self._ahead:
            return [self._draw(begin) for begin in begins]
        self._ensure_thread()
        if not set(begins) <= self._expected.keys():
            # What nobody expected must not queue behind what can wait.
            self._forget_all_but([*begins, *(begin for begin, future in self._expected.items() if future.done())])
        read = {begin: self._expected.get(begin) or self._submit(begin) for begin in dict.fromkeys(begins)}
        return [read[begin].result() for begin in begins]

    def expect(self, begins: Sequence[Begin]) -> None:
        """Read these ahead, and forget all others."""
        if not self._ahead:
            return
        self._ensure_thread()
        self._forget_all_but(begins)
        for begin in begins:
            if begin not in self._expected:
                self._expected[begin] = self._submit(begin)

    def close(self) -> None:
        """End the thread after what it is reading now."""
        self._forget_all_but([])
        self._tasks.put(None)
        self._thread = None

    def _forget_all_but(self, begins: Sequence[Begin]) -> None:
        for begin in self._expected.keys() - set(begins):
            self._expected.pop(begin).cancel()

    def _submit(self, begin: Begin) -> Future[Start]:
        future: Future[Start] = Future()
        self._tasks.put((future, begin))
        return future

    def _ensure_thread(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            return
        self._expected.clear()
        self._tasks = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=_serve, args=(self._tasks, self._draw), name="contexts of dreams", daemon=True
        )
        self._thread.start()
        weakref.finalize(self, self._tasks.put, None)


_Task = tuple[Future[Start], Begin] | None


def _serve(tasks: queue.SimpleQueue[_Task], draw: Callable[[Begin], Start]) -> None:
    """Draw what is asked for until None comes."""
    while (task := tasks.get()) is not None:
        future, begin = task
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(draw(begin))
        except BaseException as error:  # belongs to whoever asked, who would wait forever
            future.set_exception(error)
