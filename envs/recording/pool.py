"""Environments that are reset and stepped each for itself, in processes that may fail.

Gymnasium's vector environments wait for the slowest of all: a reset of one holds up every other, a process that hangs
holds them up for ever, and one that is killed ends everything. Here each row is sent its work and answers when it is
done; one that fails or takes too long answers with the reason, and its process is replaced.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing as mp
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import CloudpickleWrapper

from lssvwm.envs.policy import FrameArray
from lssvwm.envs.spaces.actions import shaped, spec_of
from lssvwm.envs.vector import Create
from lssvwm.worldmodel.actions import ActionSpec
from lssvwm.worldmodel.common.errors import InputError, MissingExtraError

_log = logging.getLogger(__name__)

PATIENCE, SLOWER = 30.0, 10.0
"""Seconds that rows are waited for after the last answer of another, and how many times as long as answers took: the
more of both."""


@dataclass(frozen=True)
class Made:
    """What an environment of the pool is like."""

    frame_shape: tuple[int, int, int]
    extra_keys: tuple[str, ...]
    actions: ActionSpec
    fps: float | None = None
    """Frames per second of the world, where it tells."""


@dataclass(frozen=True)
class Answer:
    """What a reset or a step led to."""

    frame: FrameArray  # (h, w, 3)
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]


@dataclass(frozen=True)
class Failure:
    """Why a row has no answer. It begins anew with the next `reset`."""

    reason: str
    trace: str = ""  # where the environment raised


class _Player:
    """One environment, whose answers are looked at before they go on."""

    def __init__(self, create: Create) -> None:
        self._env = create()
        space = self._env.observation_space
        assert space.shape is not None
        keys, fps = tuple(self._env.get_wrapper_attr("extra_keys")), self._env.metadata.get("render_fps")
        actions = spec_of(self._env.action_space, "the environment")
        self.made = Made(tuple(space.shape), keys, actions, None if fps is None else float(fps))  # type: ignore[arg-type]

    def reset(self, seed: int) -> Answer:
        frame, info = self._env.reset(seed=seed)
        return self._checked(Answer(frame, 0.0, False, False, info))

    def step(self, action: Any) -> Answer:
        frame, reward, terminated, truncated, info = self._env.step(shaped(self.made.actions, action))
        return self._checked(Answer(frame, float(reward), bool(terminated), bool(truncated), info))

    def close(self) -> None:
        self._env.close()

    def _checked(self, answer: Answer) -> Answer:
        frame = answer.frame
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.shape != self.made.frame_shape:
            got = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
            raise InputError(f"the environment shows {got} where its space says uint8 {self.made.frame_shape}")
        if not np.isfinite(answer.reward):
            raise InputError(f"the environment gave the reward {answer.reward}")
        if answer.truncated and isinstance(broken := answer.info.get("error"), str) and broken:
            raise RuntimeError(broken)  # this step has not happened: its frame is the one before, its reward none
        return answer


class LocalPool:
    """`count` environments in this process; what an environment raises becomes a failure here too."""

    def __init__(self, create: Create, count: int) -> None:
        self._create, self.count = create, count
        self._players = [_Player(create) for _ in range(count)]
        self._answers: dict[int, Answer | Failure] = {}
        self.made = self._players[0].made

    def reset(self, row: int, seed: int) -> None:
        """Begin an episode in `row`; `collect` has the answer."""
        self._do(row, lambda player: player.reset(seed))

    def step(self, row: int, action: Any) -> None:
        """Act in `row`; `collect` has the answer."""
        self._do(row, lambda player: player.step(action))

    def collect(
        self, needed: Sequence[int], between: Callable[[], None], hurried: Collection[int] = ()
    ) -> dict[int, Answer | Failure]:
        """All answers that are there, those of the `needed` rows among them."""
        between()
        answers, self._answers = self._answers, {}
        return answers

    def close(self, *, orderly: bool = True) -> None:
        """Close the environments."""
        for player in self._players:
            player.close()

    def _do(self, row: int, work: Callable[[_Player], Answer]) -> None:
        try:
            self._answers[row] = work(self._players[row])
        except Exception as error:
            self._answers[row] = Failure(_told(error), traceback.format_exc())
            with contextlib.suppress(Exception):
                self._players[row].close()
            self._players[row] = _Player(self._create)


class _Worker:
    """A process with one environment, and the end of the pipe to it."""

    def __init__(self, create: Create) -> None:
        context = mp.get_context("forkserver")  # a forked copy of a process that has rendered waits for its threads
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(CloudpickleWrapper(create), theirs), daemon=True)
        with interrupts_blocked():
            self.process.start()
        theirs.close()
        self.asked, self.deadline = 0.0, float("inf")

    def stop(self, patience: float) -> None:
        """End the process: in order where it answers within `patience` seconds, else at once."""
        if patience:
            with contextlib.suppress(OSError):
                self.pipe.send(None)
            self.process.join(patience)
        for end in (self.process.terminate, self.process.kill):
            if self.process.is_alive():
                end()
                self.process.join(5)
        self.pipe.close()


class ProcessPool:
    """`count` environments, each in a process of its own. A request that takes `timeout` seconds has failed.

    Raises what an environment raises when it is made for the first time. `between` is called while it is made.
    """

    def __init__(
        self, create: Create, count: int, *, timeout: float, between: Callable[[], None] = lambda: None
    ) -> None:
        self._create, self._timeout, self.count = create, timeout, count
        self._workers = [_Worker(create) for _ in range(count)]
        self._asked: set[int] = set()
        try:
            for worker in self._workers:
                deadline = time.monotonic() + timeout
                while not worker.pipe.poll(0.1):
                    between()
                    if time.monotonic() > deadline:
                        raise InputError(f"the environment could not be made within {timeout:g} seconds")
                made = _received(worker)
                if isinstance(made, Exception):
                    raise made
                if isinstance(made, Failure):
                    _log.warning("an environment could not be made: %s", made.trace or made.reason)
                    raise InputError(f"the environment could not be made in a process: {made.reason}")
                self.made: Made = made
        except BaseException:
            self.close(orderly=False)
            raise

    def reset(self, row: int, seed: int) -> None:
        """Let `row` begin an episode; `collect` has the answer when it is there."""
        self._ask(row, ("reset", seed))

    def step(self, row: int, action: Any) -> None:
        """Let `row` act; `collect` has the answer when it is there."""
        self._ask(row, ("step", action))

    def collect(
        self, needed: Sequence[int], between: Callable[[], None], hurried: Collection[int] = ()
    ) -> dict[int, Answer | Failure]:
        """The answers that are there, once those of all `needed` rows are; without any, once there is one or soon.

        If all that are missing are `hurried` and take far longer than others (`PATIENCE`), they answer another time.
        `between` is called now and then while it waits.
        """
        missing, took, enough = set(needed), 0.0, float("inf")
        found: dict[int, Answer | Failure] = {}
        while True:
            rows = {self._workers[row].pipe: row for row in sorted(self._asked)}
            ready = [rows[pipe] for pipe in wait(list(rows), timeout=0.1 if missing or not found else 0)]  # type: ignore[index]
            for row in ready:
                took = max(took, time.monotonic() - self._workers[row].asked)
                answer = _received(self._workers[row])
                if isinstance(answer, Made):
                    continue  # of a process that replaces another
                known = isinstance(answer, Answer | Failure)  # else what was raised when it was made
                self._settle(row, answer if known else Failure(_told(answer)), found)
            now = time.monotonic()
            for row in [row for row in self._asked if self._workers[row].deadline < now]:
                self._settle(row, Failure(f"no answer within {self._timeout:g} seconds"), found)
            missing -= found.keys()
            if ready:
                enough = now + max(PATIENCE, SLOWER * took)
            if not missing or (now > enough and missing <= set(hurried)):
                return found
            between()

    def close(self, *, orderly: bool = True) -> None:
        """End the processes; unless `orderly`, without waiting for what they do."""
        for row, worker in enumerate(self._workers):
            worker.stop(0 if not orderly or row in self._asked else 5)

    def _ask(self, row: int, request: tuple[str, Any]) -> None:
        worker = self._workers[row]
        worker.asked = time.monotonic()
        worker.deadline = worker.asked + self._timeout
        self._asked.add(row)
        with contextlib.suppress(OSError):  # then it is dead, and reading from it says so
            worker.pipe.send(request)

    def _settle(self, row: int, answer: Answer | Failure, found: dict[int, Answer | Failure]) -> None:
        found[row] = answer
        self._asked.discard(row)
        if isinstance(answer, Failure):
            self._workers[row].stop(0)
            self._workers[row] = _Worker(self._create)


Pool = LocalPool | ProcessPool


@contextlib.contextmanager
def open_pool(
    create: Create,
    count: int,
    *,
    processes: bool,
    timeout: float = 1000.0,
    between: Callable[[], None] = lambda: None,
) -> Iterator[Pool]:
    """A pool that is closed whatever happens, Ctrl-C included; with `processes` each environment has one of its own."""
    pool: Pool
    if processes:  # a single one too: a seed may kill it
        pool = ProcessPool(create, count, timeout=timeout, between=between)
    else:
        pool = LocalPool(create, count)
    complete = False
    try:
        yield pool
        complete = True
    finally:
        # An interrupted step may have taken the answers of some workers only: waiting for the others would hang.
        pool.close(orderly=complete)


@contextlib.contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Processes started meanwhile inherit that Ctrl-C is blocked: their parent could not close them in order else."""
    resource_tracker.ensure_running()  # starting with the first process, it would let them through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _received(worker: _Worker) -> Any:
    try:
        return worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join(1)
        code = worker.process.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with {code}"
        return Failure(f"its process {how}")


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _work(create: Any, pipe: Connection) -> None:
    """A worker process: make the environment, then answer requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    player: _Player | None = None
    try:
        try:
            player = _Player(create)
            pipe.send(player.made)
        except (InputError, MissingExtraError, gym.error.Error) as error:
            pipe.send(error)
            return
        while (request := pipe.recv()) is not None:
            what, number = request
            pipe.send(player.reset(number) if what == "reset" else player.step(number))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # nobody is there any more
    except Exception as error:
        with contextlib.suppress(OSError):
            pipe.send(Failure(_told(error), traceback.format_exc()))
    finally:
        if player is not None:
            with contextlib.suppress(Exception):
                player.close()


def _leave(number: int, frame: FrameType | None) -> None:
    """End the process so that its environment is closed."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)
