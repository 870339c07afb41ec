"""Commands of this project as processes: begun, looked at, interrupted, and what CPU time they took."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Ended:
    """How a command ended, and the CPU seconds of it and of all processes that it has waited for."""

    status: int
    cpu_seconds: float


class Running(Protocol):
    """A command that was begun."""

    def poll(self) -> Ended | None:
        """None while it runs."""

    def wait(self) -> Ended:
        """Block until it has ended."""

    def interrupt(self) -> None:
        """Ask it to save and end; `wait` says when it has."""


class Start(Protocol):
    """Begins a script or `-m MODULE` with arguments."""

    def __call__(self, words: Sequence[str]) -> Running: ...


class Process:
    """`python *words` with one thread.

    It has a session of its own, or Ctrl-C in a terminal would reach it twice, which means at once.
    """

    def __init__(self, words: Sequence[str]) -> None:
        env = {"OMP_NUM_THREADS": "1", **os.environ}
        self._process = subprocess.Popen([sys.executable, *words], env=env, start_new_session=True)
        self._ended: Ended | None = None

    def poll(self) -> Ended | None:
        """None while it runs."""
        return self._look(os.WNOHANG)

    def wait(self) -> Ended:
        """Block until it has ended."""
        ended = self._look(0)
        assert ended is not None
        return ended

    def interrupt(self) -> None:
        """Ask it to save and end; a second time, at once."""
        if self.poll() is None:  # `Popen.send_signal` would wait for it, and its usage be lost
            os.kill(self._process.pid, signal.SIGTERM)  # what was begun in the background ignores SIGINT

    def _look(self, options: int) -> Ended | None:
        if self._ended is None:
            pid, status, used = os.wait4(self._process.pid, options)
            if pid:
                self._process.returncode = os.waitstatus_to_exitcode(status)
                self._ended = Ended(self._process.returncode, used.ru_utime + used.ru_stime)
        return self._ended
