"""Recordings read in a process of their own: a library that hangs or crashes over a damaged file takes nothing along.

HDF5, FFmpeg and Arrow are written for files that are whole. What they do with others ends here with that process: it
is reported as one line about the recording, and the next one is read by a process that takes its place.
"""

from __future__ import annotations

import logging
import multiprocessing as mp
import signal
from collections import Counter
from collections.abc import Iterator
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any

from gymnasium.vector.utils import CloudpickleWrapper

from lssvwm.envs.recorded.interface import ReadOptions, Recording, Source
from lssvwm.envs.recording.pool import interrupts_blocked
from lssvwm.worldmodel.common.errors import InputError, MissingExtraError, one_line
from lssvwm.worldmodel.episodes import Episode

PATIENCE = 120.0
"""Seconds in which an episode comes out of a recording that is whole."""
CHANCES = 3
"""So many recordings of one path may end their process; each that hangs costs the patience."""
_READY = "ready"


class Reader:
    """Reads recordings of one format in a process, while the `with` block lasts.

    One that yields no episode within `patience` seconds (with `options.every` n times as long), or that kills the
    process, raises InputError. The process is there from the start of the first request on.
    """

    def __init__(self, recording: Recording, options: ReadOptions, patience: float = PATIENCE) -> None:
        if not 0 < patience < float("inf"):
            raise InputError(f"patience={patience}: give the seconds that a recording may take for an episode, above 0")
        self._args = (CloudpickleWrapper(recording), options, patience * options.every)  # type: ignore[arg-type]
        self._ended: Counter[Path] = Counter()
        self._process: BaseProcess | None = None
        self._pipe: Connection

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def find(self, folder: Path) -> list[Source]:
        """As `Recording.find`."""
        (found,) = self._answers(folder, folder)
        return list(found)

    def read(self, source: Source) -> Iterator[Episode]:
        """As `Recording.read`; every reason for which a recording cannot be read is an InputError of one line."""
        if self._ended[source.path] == CHANCES:
            raise InputError(f"{source.path} was given up, as {CHANCES} other recordings in it could not be read")
        yield from self._answers(source, source.path)

    def _answers(self, request: Path | Source, path: Path) -> Iterator[Any]:
        if self._process is None:
            self._begin()
        self._pipe.send(request)
        settled = False
        try:
            while (answer := self._received(path)) is not None:
                if settled := isinstance(answer, Exception):
                    raise answer
                yield answer
            settled = True
        finally:
            if not settled:  # it would go on with what nobody wants any more
                self._end()

    def _received(self, path: Path) -> Any:
        try:
            while isinstance(got := self._pipe.recv(), logging.LogRecord):
                logging.getLogger(got.name).handle(got)
        except (EOFError, OSError) as error:
            self._ended[path] += 1
            raise InputError(f"{path} is damaged: {self._how()}; copy or download it again") from error
        return got

    def _how(self) -> str:
        assert self._process is not None
        self._process.join(5)
        code = self._process.exitcode
        if code == -signal.SIGALRM:
            return f"nothing came of it within {self._args[-1]:g} seconds (--patience)"
        how = f"by {signal.Signals(-code).name}" if code and code < 0 else f"with status {code}"
        return f"reading it ended the process {how}"

    def _begin(self) -> None:
        context = mp.get_context("forkserver")  # threads of this process, such as that of the bar, may hold locks
        context.set_forkserver_preload([__name__])  # so that one that takes the place of another is there at once
        self._pipe, theirs = context.Pipe()
        process = context.Process(target=_work, args=(*self._args, theirs), daemon=True)
        with interrupts_blocked():
            process.start()
            self._process = process
        theirs.close()
        try:
            self._pipe.recv()
        except (EOFError, OSError) as error:
            self._end()
            raise RuntimeError(
                "the process that reads recordings did not start: a script that converts does so under "
                "`if __name__ == '__main__':`"
            ) from error

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


class _Forwarding(QueueHandler):
    def enqueue(self, record: logging.LogRecord) -> None:
        self.queue.send(record)  # type: ignore[attr-defined]


def _work(recording: Any, options: ReadOptions, patience: float, pipe: Connection) -> None:
    """What the process does. Where an answer takes too long the kernel ends it, whatever it hangs in."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    logging.getLogger().addHandler(_Forwarding(pipe))  # type: ignore[arg-type]
    try:
        pipe.send(_READY)
        while True:
            answers = _asked(recording.fn, options, pipe.recv())
            answer: Any = _READY
            while answer is not None and not isinstance(answer, Exception):
                signal.setitimer(signal.ITIMER_REAL, patience)
                answer = next(answers, None)
                signal.setitimer(signal.ITIMER_REAL, 0)
                pipe.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # nobody is there any more


def _asked(recording: Recording, options: ReadOptions, request: Path | Source) -> Iterator[Any]:
    """What was asked for, then the error that ended it; libraries raise whatever they do about what others wrote."""
    path = request if isinstance(request, Path) else request.path
    try:
        if isinstance(request, Path):
            yield recording.find(request)
        else:
            yield from recording.read(request, options)
    except MissingExtraError as error:
        yield error
    except InputError as error:  # what libraries say of a file may have lines of the file in it
        yield InputError(" ".join(str(error).splitlines()))
    except Exception as error:
        yield InputError(f"{path} cannot be read ({type(error).__name__}: {one_line(error)})")
