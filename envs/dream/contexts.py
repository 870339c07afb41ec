"""Contexts: the real frames in which dreams begin, drawn by seed and read ahead on a thread beside the dreaming."""

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


class ContextKey(NamedTuple):
    """Which dream of which seed: it alone decides the context, which may therefore be read at any time."""

    seed: int
    dream: int


class Context(NamedTuple):
    """The real frames after which a dream goes on."""

    clips: Clips  # (1, C, ...)
    episode: str | None  # the file whose first C frames these are, where the whole past is read


Told = Mapping[str, NDArray[np.float32]]
"""What a row is to be told, by key, in numbers (`ToldPart.encode`)."""


def with_told(context: Context, told: Told, parts: Sequence[ToldPart]) -> Context:
    """The same, told other things with every frame: keys that are not in `told` keep what was recorded."""
    if not told:
        return context
    shape = (*context.clips.mask.shape, size_of(parts))
    recorded = torch.zeros(shape) if context.clips.told is None else context.clips.told
    columns = [
        torch.from_numpy(told[part.key]).expand(*shape[:2], -1) if part.key in told else column
        for part, column in zip(parts, recorded.split([part.size for part in parts], -1), strict=True)
    ]
    # Without the episode's name: the memory that is kept of it is of what was recorded.
    return Context(replace(context.clips, told=torch.cat(columns, -1)), None)


def sample_context(store: EpisodeStore, options: DreamOptions, key: ContextKey) -> Context:
    """The context of one dream, as `options` want it."""
    generator, start, wanted = np.random.default_rng(key), options.start, options.context_length
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
        return Context(store.gather(np.array([row]), np.array([0]), last + 1), store.names[row])
    if isinstance(wanted, int):
        length = wanted
    else:
        longest = min(wanted[1], int(store.lengths.max()) - 1)
        length = int(generator.integers(min(wanted[0], longest), longest + 1))
    return Context(store.sample_contexts(1, length, generator, start=start), None)


class ContextLoader:
    """Contexts as `options` want them; with `options.prefetch` a thread of its own reads those that are needed next.

    The thread is a daemon that holds nothing of this object: an environment that was forgotten keeps neither itself nor
    the interpreter alive. After a fork the child starts its own, since threads do not survive it.
    """

    def __init__(self, store: EpisodeStore, options: DreamOptions) -> None:
        # One store object is for one thread; a copy shares the index, and keeps its own episodes.
        self._sample = functools.partial(sample_context, copy.copy(store), options)
        self._ahead = options.prefetch
        self._pending: dict[ContextKey, Future[Context]] = {}
        self._tasks: queue.SimpleQueue[_Task] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def take(self, keys: Sequence[ContextKey]) -> list[Context]:
        """The contexts of these dreams, in this order. Waits for those that are not read yet."""
        if not self._ahead:
            return [self._sample(key) for key in keys]
        self._ensure_thread()
        if not set(keys) <= self._pending.keys():
            # What was not asked for ahead must not queue behind what can wait.
            self._cancel_all_but([*keys, *(key for key, future in self._pending.items() if future.done())])
        for key in set(keys) & self._pending.keys():
            if self._pending[key].done() and self._pending[key].exception() is not None:
                del self._pending[key]  # to be read again
        read = {key: self._pending.get(key) or self._submit(key) for key in dict.fromkeys(keys)}
        return [read[key].result() for key in keys]

    def prefetch(self, keys: Sequence[ContextKey]) -> None:
        """Read these ahead, and forget all others."""
        if not self._ahead:
            return
        self._ensure_thread()
        self._cancel_all_but(keys)
        for key in keys:
            if key not in self._pending:
                self._pending[key] = self._submit(key)

    def close(self) -> None:
        """End the thread after what it is reading now."""
        self._cancel_all_but([])
        self._tasks.put(None)
        self._thread = None

    def _cancel_all_but(self, keys: Sequence[ContextKey]) -> None:
        for key in self._pending.keys() - set(keys):
            self._pending.pop(key).cancel()

    def _submit(self, key: ContextKey) -> Future[Context]:
        future: Future[Context] = Future()
        self._tasks.put((future, key))
        return future

    def _ensure_thread(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            return
        self._pending.clear()
        self._tasks = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=_serve, args=(self._tasks, self._sample), name="contexts of dreams", daemon=True
        )
        self._thread.start()
        weakref.finalize(self, self._tasks.put, None)


_Task = tuple[Future[Context], ContextKey] | None


def _serve(tasks: queue.SimpleQueue[_Task], sample: Callable[[ContextKey], Context]) -> None:
    """Sample what is asked for until None comes."""
    while (task := tasks.get()) is not None:
        future, key = task
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(sample(key))
        except BaseException as error:  # belongs to whoever asked, who would wait forever
            future.set_exception(error)
