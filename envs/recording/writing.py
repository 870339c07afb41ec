"""Threads that write episodes while others are played."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

from lssvwm.envs.recording.provenance import add_line, entry_of
from lssvwm.worldmodel.episodes import Episode, EpisodeStore
from lssvwm.worldmodel.episodes.data import check_episode
from lssvwm.worldmodel.episodes.files import header_of, write_episode
from lssvwm.worldmodel.episodes.index import Seen, note

WRITERS = 2


class Writers:
    """Threads that write episodes into a store: compression is most of the work, and frees the interpreter."""

    def __init__(self, store: EpisodeStore) -> None:
        self._root = store.root
        self._threads = ThreadPoolExecutor(WRITERS, thread_name_prefix="write")
        self._free = threading.BoundedSemaphore(2 * WRITERS)  # what waits is held in memory
        self._lock = threading.Lock()
        self._futures: deque[Future[None]] = deque()

    def __enter__(self) -> Writers:
        return self

    def __exit__(self, *error: object) -> None:
        """Wait until all is on disk."""
        self._threads.shutdown(wait=True)
        self._settle()

    def put(self, episode: Episode) -> None:
        """Write `episode` soon. Raises what an earlier one failed with."""
        check_episode(episode, "recorded episode")
        self._settle()
        self._free.acquire()
        self._futures.append(self._threads.submit(self._write, episode))

    def _settle(self) -> None:
        while self._futures and self._futures[0].done():
            self._futures.popleft().result()

    def _write(self, episode: Episode) -> None:
        try:
            path = write_episode(self._root, episode)
            with self._lock:
                if seen := Seen.of(path):
                    note(self._root, {path.name: header_of(episode)}, {path.name: seen})
                add_line(self._root, entry_of(path.name, episode.arrays()))
        finally:
            self._free.release()
