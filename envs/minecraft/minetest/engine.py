"""A minetest of one's own, played frame by frame."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

from lssvwm.envs.minecraft.minetest.build import build_shim, find_program
from lssvwm.envs.minecraft.minetest.config import EngineConfig, settings, world_settings
from lssvwm.envs.minecraft.minetest.display import Display
from lssvwm.envs.minecraft.minetest.wire import NOTHING, Controls, Inputs, receive_frame, send_request
from lssvwm.envs.policy import FrameArray


class EngineError(RuntimeError):
    """The engine ended, hung or failed at a command. `reason` says how, `log` ends with what it had to say."""

    def __init__(self, reason: str, log: str = "") -> None:
        super().__init__(f"{reason}\n{log}" if log else reason)
        self.reason = reason
        self.log = log


class Tick(NamedTuple):
    """One step.

    frame: (h, w, 3) uint8 RGB, top row first.
    state: of the server after it has seen the player of this frame.
        tick            steps of the server since it started
        time            the same in virtual seconds
        pos             [x, y, z] of the player's feet in nodes; y is up
        yaw, pitch      degrees, cut off to 0.01. yaw -180..180: 0 looks to +z, right adds; pitch -90..90: down adds
        hp              0..20
        inventory       {item: count}
        wielded         item in hand, "" for none
        events          what the mod reported for this step, such as {"type": "death"}
        task            what the task adds
    """

    frame: FrameArray
    state: dict[str, Any]


class Engine:
    """One minetest with a world of its own, in lock-step: nothing moves but in `step` and `command`.

    Client and server of that minetest, its display and its files are private to this object, reached over loopback and
    unix sockets, and gone after `close`, when this object is forgotten, and when this process ends, however it ends.
    A step is `config.dt` seconds of the engine's own clock. Any number of engines may live in one process; each belongs
    to one thread at a time.

    Raises InputError when a program is missing, EngineError when the world does not come up in time.
    """

    def __init__(self, config: EngineConfig | None = None) -> None:
        self.config = config = EngineConfig() if config is None else config
        program, shim = find_program(config.minetest, "minetest"), build_shim(config.compiler)
        self._folder = Path(tempfile.mkdtemp(prefix="lssvwm-minetest-"))
        self._held = _Held(self._folder)
        self._finalizer = weakref.finalize(self, _release, os.getpid(), self._held)
        self._controls = Controls()
        self._commands = 0
        self._answers: list[dict[str, Any]] = []
        self._tick: Tick | None = None
        try:
            self._start(program, shim)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The process of minetest."""
        assert self._held.process is not None
        return self._held.process.pid

    @property
    def tick(self) -> Tick:
        """The latest step."""
        assert self._tick is not None
        return self._tick

    def step(self, action: Mapping[str, Any]) -> Tick:
        """Hold the buttons of `action` and turn by its camera for one frame, see `envs.minecraft.actions`.

        Raises InputError for an unknown key; EngineError when the engine is closed, has ended or hangs, or when the mod
        failed to report its state. It is of no use after that.
        """
        self._check_open()
        state = self._advance(self._controls.take(action), self.config.step_timeout)
        if state["tick"] != self.tick.state["tick"] + 1:
            self._fail(f"the server went from step {self.tick.state['tick']} to {state['tick']} in one frame")
        self._tick = Tick(self._frame, state)
        return self._tick

    def command(self, name: str, max_frames: int = 2000, **arguments: Any) -> dict[str, Any]:
        """Let the mod carry out a command that it knows by `name`, stepping with no input until it has answered.

        What a command changes is in `tick.state` at once; the picture shows it one step later, a new direction two.
        Raises EngineError with the traceback of Lua when the command failed, or gave no answer within `max_frames`; the
        engine goes on after that.
        """
        self._check_open()
        self._commands += 1
        text = json.dumps({"id": self._commands, "name": name, "arguments": arguments}, allow_nan=False)
        scratch = self._world / "command.tmp"
        scratch.write_text(text)
        scratch.replace(self._world / "command.json")
        for _ in range(max_frames):
            self.step({})
            for answer in self._answers:
                if answer["id"] == self._commands:
                    if "error" in answer:
                        raise EngineError(f"the command '{name}' failed: {answer['error']}")
                    return dict(answer["result"] or {})
        raise EngineError(f"the command '{name}' was not answered within {max_frames} frames")

    def close(self) -> None:
        """End the engine and remove its files. Further calls do nothing."""
        self._finalizer()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _world(self) -> Path:
        return self._folder / "world"

    def _start(self, program: str, shim: Path) -> None:
        config, held = self.config, self._held
        end = time.monotonic() + config.start_timeout
        self._write_files()
        # A window larger than its screen would be clipped.
        held.display = Display(config.xvfb, config.width, config.height, self._folder, shim, config.start_timeout)
        here, there = socket.socketpair()
        held.link = here
        with there, (self._folder / "log").open("wb") as log:
            held.process = subprocess.Popen(
                [
                    program,
                    "--config",
                    "minetest.conf",
                    "--world",
                    str(self._world),
                    "--gameid",
                    "minetest",
                    "--go",
                    "--quiet",
                ],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(there.fileno(),),
                start_new_session=True,
                env=self._variables(shim, there.fileno()),
            )
        self._frame = self._receive(end - time.monotonic())
        while True:
            state = self._advance(NOTHING, end - time.monotonic())
            if "pos" in state:
                break
        self._tick = Tick(self._frame, state)

    def _write_files(self) -> None:
        (self._folder / "home").mkdir()
        (self._folder / "minetest.conf").write_text(settings(self.config))
        mod = self._world / "worldmods" / "lssvwm_bridge"
        mod.mkdir(parents=True)
        (self._world / "world.mt").write_text(world_settings())
        for source in files("lssvwm.envs.minecraft.minetest").joinpath("mod").iterdir():
            if source.name.endswith((".lua", ".conf")):
                (mod / source.name).write_bytes(source.read_bytes())

    def _variables(self, shim: Path, descriptor: int) -> dict[str, str]:
        home = str(self._folder / "home")
        assert self._held.display is not None
        return {
            **os.environ,
            **self._held.display.variables,
            "HOME": home,
            "XDG_CACHE_HOME": home,
            "MINETEST_USER_PATH": home,
            "LANG": "C",
            "LC_ALL": "C",
            "LIBGL_ALWAYS_SOFTWARE": "1",
            "LD_PRELOAD": str(shim),
            "LSSVWM_PARENT": str(os.getpid()),
            "LSSVWM_SOCKET": str(descriptor),
        }

    def _advance(self, inputs: Inputs, timeout: float) -> dict[str, Any]:
        assert self._held.link is not None
        try:
            send_request(self._held.link, self.config.dt, inputs)
        except OSError:
            self._fail("the engine ended")
        self._frame = self._receive(timeout)
        return self._read_state()

    def _receive(self, timeout: float) -> FrameArray:
        assert self._held.link is not None
        try:
            return receive_frame(self._held.link, timeout)
        except TimeoutError:
            self._fail(f"the engine gave no frame within {timeout:.3g} s")
        except OSError:
            self._fail("the engine ended")

    def _read_state(self) -> dict[str, Any]:
        try:
            text = (self._world / "state.json").read_text()
        except FileNotFoundError:
            return {"tick": 0}  # the server is still loading
        state: dict[str, Any] = json.loads(text)
        # Lua knows no difference between an empty list and an empty object, and writes null for both.
        self._answers = state.pop("answers", None) or []
        if "failure" in state:
            self._fail(f"the mod failed to report its state: {state['failure']}")
        state["tick"] = int(state["tick"])
        state["events"] = state["events"] or []
        if "pos" in state:
            state["hp"] = int(state["hp"])
            state["inventory"] = {item: int(count) for item, count in (state["inventory"] or {}).items()}
            state["task"] = state["task"] or {}
        return state

    def _check_open(self) -> None:
        if not self._finalizer.alive:
            raise EngineError("the engine is closed")

    def _fail(self, reason: str) -> NoReturn:
        process = self._held.process
        if process is not None and process.poll() is None:
            process.kill()
        if process is not None:
            code = process.wait()
            reason = f"{reason} (pid {process.pid}, status {code})"
        log = self._folder / "log"
        tail = log.read_text(errors="replace")[-3000:] if log.exists() else ""
        self.close()
        raise EngineError(reason, tail)


class _Held:
    """What must be given back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.display: Display | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.link: socket.socket | None = None


def _release(owner: int, held: _Held) -> None:
    if os.getpid() != owner:
        return  # a fork of the process that the engine belongs to
    if held.link is not None:
        held.link.close()
    if held.process is not None:
        held.process.kill()  # there is nothing to save
        held.process.wait()
    if held.display is not None:
        held.display.close()
    shutil.rmtree(held.folder, ignore_errors=True)
