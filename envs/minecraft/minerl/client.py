"""The environment's side of a MineRL worker: start it, ask it with a time limit, and leave nothing of it behind."""

from __future__ import annotations

import logging
import mmap
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lssvwm.envs.minecraft.minerl import protocol
from lssvwm.envs.minecraft.minerl.guard import descendants
from lssvwm.envs.policy import FrameArray
from lssvwm.worldmodel.common.errors import InputError

PYTHON_VARIABLE = "LSSVWM_MINERL_PYTHON"
"""Names the interpreter that has `minerl`; without it `.venv-minerl`, which `make minerl` builds, is used."""

_HERE = Path(__file__).resolve().parent
_LOG_LINES = 20
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerConfig:
    """How long a worker may take, in seconds, and how much memory (MiB).

    start_timeout: importing MineRL. reset_timeout: launching Minecraft and making a world. step_timeout: one tick.
    close_timeout: ending by itself, before it is killed.
    attempts: how often `reset` tries to start an episode, with a new worker each time. retry_pause: wait between them.
    memory_limit: resident memory of the worker and all it started, Minecraft included; beyond it they are replaced at
        the next reset, and the episode is cut there. None: no limit. Memory is looked at every `memory_every` steps.
    """

    start_timeout: float = 120.0
    reset_timeout: float = 900.0
    step_timeout: float = 60.0
    close_timeout: float = 15.0
    attempts: int = 3
    retry_pause: float = 2.0
    memory_limit: int | None = None
    memory_every: int = 100

    def __post_init__(self) -> None:
        times = (self.start_timeout, self.reset_timeout, self.step_timeout, self.close_timeout)
        if min(times) <= 0 or self.retry_pause < 0 or min(self.attempts, self.memory_every) < 1:
            raise InputError(f"{self} has times of 0 or less, or counts below 1")
        if self.memory_limit is not None and self.memory_limit < 1:
            raise InputError(f"WorkerConfig.memory_limit is {self.memory_limit}: give a number of MiB, or None")


class WorkerFailed(Exception):  # noqa: N818 (what happened, not what is wrong with the call)
    """The worker is gone, silent, or could not do what it was asked. Another one may be able to.

    `log`: the last lines that it and Minecraft printed.
    """

    def __init__(self, reason: str, log: str) -> None:
        super().__init__(reason)
        self.log = log


class Answer(NamedTuple):
    """What a reset or step gave: the frame (h, w, 3) uint8 and everything else."""

    frame: FrameArray
    observed: protocol.Observed


class Worker:
    """A running worker with one MineRL environment in it. After WorkerFailed only `close` is of use.

    `ready`: what it said about itself and its spaces. Raises InputError when it says that it cannot ever work: no
    `minerl` in that interpreter, or no such task in that version.
    """

    def __init__(self, python: Path, env_id: str, port: int | None, config: WorkerConfig) -> None:
        self._config = config
        self._asked = ""  # what it has not answered yet
        self._folder = tempfile.mkdtemp(prefix="lssvwm-minerl-")
        self._log = Path(self._folder, "worker.log")
        self._channel, theirs = socket.socketpair()
        # Memory without a name: it is gone with the processes that have it, however they end.
        frame = os.memfd_create("minerl-frame")
        fds = (theirs.fileno(), frame)
        guard = [sys.executable, "-I", "-S", str(_HERE / "guard.py"), self._folder, ",".join(map(str, fds))]
        with theirs, self._log.open("wb") as log:
            self._process = subprocess.Popen(
                # Isolated (-I): PYTHONPATH and the folder of the script hold packages of this interpreter.
                [*guard, str(python), "-I", str(_HERE / "worker.py"), *map(str, fds)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=fds,
                start_new_session=True,
                env=_environment(self._folder),
            )
        try:
            self.ready: protocol.Ready = self._ask(protocol.Make(env_id, port), config.start_timeout, protocol.Ready)
            height, width = self.ready.frame
            self._memory = mmap.mmap(frame, height * width * 3, prot=mmap.PROT_READ)
        except BaseException:
            self.close(kill=True)
            raise
        finally:
            os.close(frame)

    def reset(self, seed: int) -> Answer:
        """Start the episode of `seed`. Raises WorkerFailed."""
        return self._play(protocol.Reset(seed), self._config.reset_timeout)

    def step(self, action: dict[str, Any]) -> Answer:
        """Act for one tick: buttons 0 or 1, camera a list of two, choices by name. Raises WorkerFailed."""
        return self._play(protocol.Step(action), self._config.step_timeout)

    def memory(self) -> int:
        """Resident memory of the worker and all it started, in bytes; what they share counts for each."""
        pages = 0
        for pid in descendants(self._process.pid):
            try:
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended while we looked
        return pages * os.sysconf("SC_PAGE_SIZE")

    def close(self, kill: bool = False) -> None:
        """End the worker and all it started; with `kill` without asking it. Calling it again does nothing."""
        if self._process.stdin is None or self._process.stdin.closed:
            return
        if not kill:
            try:
                protocol.send(self._channel, protocol.Close())
                protocol.receive(self._channel, self._config.close_timeout)
            except protocol.Broken:
                pass  # it has ended, which is its answer, or is too slow and is killed with the rest
        self._channel.close()
        try:
            # A fork of this process may hold the pipe open, so closing it is not enough.
            self._process.stdin.write(b"\n")
            self._process.stdin.close()
        except BrokenPipeError:
            self._process.stdin.close()  # the guard was killed
        try:
            self._process.wait(self._config.close_timeout)
        except subprocess.TimeoutExpired:
            _logger.warning("the guard of a MineRL worker (process %d) does not end: killed", self._process.pid)
            self._process.kill()
            self._process.wait()

    def _play(self, request: protocol.Reset | protocol.Step, timeout: float) -> Answer:
        observed = self._ask(request, timeout, protocol.Observed)
        frame = np.frombuffer(self._memory, np.uint8).reshape(*self.ready.frame, 3).copy()
        return Answer(frame, observed)

    def _ask(self, request: Any, timeout: float, expected: type[Any]) -> Any:
        doing = type(request).__name__.lower()
        if self._asked:
            # Its answer may come yet, and would be taken for this one's.
            raise WorkerFailed(f"MineRL was interrupted while asked to {self._asked}", self._log_tail())
        self._asked = doing
        try:
            protocol.send(self._channel, request)
            answer = protocol.receive(self._channel, timeout)
        except protocol.Broken as error:
            reason = f"MineRL worker, asked to {doing} within {timeout:g} s: {error}"
            raise WorkerFailed(reason, self._log_tail()) from error
        self._asked = ""
        if isinstance(answer, protocol.Failed):
            if answer.unusable:
                raise InputError(answer.reason)
            raise WorkerFailed(f"MineRL failed to {doing}: {answer.reason}", self._log_tail())
        if not isinstance(answer, expected):
            raise WorkerFailed(f"MineRL worker answered {doing} with {type(answer).__name__}", self._log_tail())
        return answer

    def _log_tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        return "\n".join(lines[-_LOG_LINES:])


def find_python(named: str | None) -> Path:
    """The interpreter that has MineRL: `named`, else that of LSSVWM_MINERL_PYTHON, else that of `.venv-minerl`.

    `.venv-minerl` is looked for beside the package `envs`, and nowhere else: that of whatever folder one stands in is
    not run. Raises InputError naming `make minerl` when there is none.
    """
    named = named or os.environ.get(PYTHON_VARIABLE)
    place = named or f"{_HERE.parents[2]}/.venv-minerl/bin/python"
    if os.access(place, os.X_OK) and Path(place).is_file():
        return Path(place).absolute()
    raise InputError(
        f"MineRL needs an interpreter of its own, and there is none at {place}: run "
        f"`make minerl` in a clone of lssvwm, or set {PYTHON_VARIABLE} to a python that has minerl (docs/minerl.md)"
    )


def _environment(folder: str) -> dict[str, str]:
    """Of this process, with all that MineRL writes in `folder`, and none of what shapes this interpreter."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return {**kept, "TMPDIR": folder, "MALMO_MINECRAFT_OUTPUT_LOGDIR": folder, "PYTHONUNBUFFERED": "1"}
