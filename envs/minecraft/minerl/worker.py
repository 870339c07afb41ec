"""The process that plays MineRL, in the interpreter that has `minerl` and the old `gym` it needs.

    worker.py CHANNEL FRAME        numbers of two open files: a connected socket, and memory for the frame

It answers the messages of `protocol.py` until it is told to close or the socket ends. MineRL 0.4.4 and 1.0.x are one
thing here: spaces are described by what they are, not by version. It uses nothing newer than Python 3.8, and imports
nothing of this project but `protocol.py`, by its path.
"""

from __future__ import annotations

import ctypes
import importlib
import mmap
import os
import signal
import socket
import sys
import traceback
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from lssvwm.envs.minecraft.minerl import protocol
else:
    # Only for this import: the folder has modules with names as common as `env`.
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import protocol

    sys.path.pop(0)

_PR_SET_PDEATHSIG = 1


class Unusable(Exception):  # noqa: N818 (the caller's input is at fault, not this code)
    """What was asked for is not there, and asking again cannot help."""


class Game:
    """A MineRL environment of the old `gym` interface, with observations and actions as plain types."""

    def __init__(self, env: Any, frame: int, port: int | None) -> None:
        self._env = env
        self._frame = frame
        self._port = port
        self._attached = False
        self._steps = 0
        self.observation = entries(env.observation_space)
        self.action = entries(env.action_space)
        spec_limit = None if env.spec is None else env.spec.max_episode_steps
        # BASALT tasks of 1.0.x keep their time by themselves, so their limit stands in the task alone.
        self.limit = spec_limit or getattr(getattr(env.unwrapped, "task", None), "max_episode_steps", None)
        height, width, _ = env.observation_space.spaces["pov"].shape
        self.size = (int(height), int(width))
        os.ftruncate(frame, height * width * 3)
        self._memory = mmap.mmap(frame, height * width * 3)

    def reset(self, seed: int) -> protocol.Observed:
        """Start the episode of this seed."""
        if self._port is not None and not self._attached:
            attach(self._env, self._port)
            self._attached = True
        self._env.seed(seed)  # holds for one episode
        self._steps = 0
        return protocol.Observed(self._show(self._env.reset()))

    def step(self, action: dict[str, Any]) -> protocol.Observed | protocol.Failed:
        """Act. A broken connection, which MineRL reports with a random observation, is a failure."""
        observation, reward, done, info = self._env.step(complete(self._env.action_space, action))
        if "error" in info:
            return protocol.Failed(f"MineRL lost its Minecraft: {info['error']}")
        self._steps += 1
        # The server's own clock ends the mission at the same step, so `done` alone would look like an ending.
        over_time = bool(done) and self.limit is not None and self._steps >= self.limit
        return protocol.Observed(self._show(observation), float(reward), bool(done), over_time)

    def close(self) -> None:
        """Close the environment, and with it a Minecraft that it launched."""
        self._env.close()

    def _show(self, observation: dict[str, Any]) -> dict[str, Any]:
        values = flat(observation)
        pov = np.asarray(values.pop("pov"))
        if pov.shape != (*self.size, 3) or pov.dtype != np.uint8:
            raise ValueError(f"MineRL shows a frame {pov.shape} of {pov.dtype}, its space says {self.size} of uint8")
        self._memory[:] = np.ascontiguousarray(pov).tobytes()
        return {name: plain(value) for name, value in values.items()}


def make(request: protocol.Make, frame: int) -> tuple[Game, protocol.Ready]:
    """The environment that `request` names. Raises Unusable if it is not there."""
    versions = {}
    for module in ("gym", "minerl"):
        try:
            importlib.import_module(module)
            versions[module] = importlib.import_module("importlib.metadata").version(module)
        except ImportError as error:
            raise Unusable(
                f"{sys.executable} cannot import {module} ({error}): run `make minerl`, or set LSSVWM_MINERL_PYTHON to "
                "a python that has minerl"
            ) from error
    gym = sys.modules["gym"]
    try:
        env = gym.make(request.env_id)
    except gym.error.UnregisteredEnv as error:
        raise Unusable(f"MineRL {versions['minerl']} has no {request.env_id}") from error
    game = Game(env, frame, request.port)
    entries_without_frame = {name: entry for name, entry in game.observation.items() if name != "pov"}
    return game, protocol.Ready(
        versions["minerl"], versions["gym"], game.size, entries_without_frame, game.action, game.limit
    )


def attach(env: Any, port: int) -> None:
    """Play on the Malmo server at `port` of this machine, and never launch another."""
    manager = importlib.import_module("minerl.env.malmo").InstanceManager
    instance = manager.add_existing_instance(port)
    instance.had_to_clean = False  # what MineRL sets on instances that it launches, and asks of all
    manager.managed = False
    env.unwrapped.instances = [instance]


def entries(space: Any) -> dict[str, protocol.Entry]:
    """The parts of a dictionary space by flat name. Raises Unusable for kinds that MineRL has in no task of ours."""
    found = {}
    for name, part in flat(space.spaces).items():
        if hasattr(part, "values"):
            found[name] = protocol.Entry("choice", choices=tuple(str(value) for value in part.values))
        elif hasattr(part, "n"):
            found[name] = protocol.Entry("number", low=0, high=int(part.n) - 1, integer=True)
        elif hasattr(part, "low"):
            low, high = float(np.min(part.low)), float(np.max(part.high))
            integer = bool(np.issubdtype(part.dtype, np.integer))
            found[name] = protocol.Entry("number", tuple(part.shape), low, high, integer)
        else:
            raise Unusable(f"'{name}' is {part}, which this adapter does not know")
    return found


def flat(nested: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries (or dictionary spaces) as one, with names like `compass.angle`."""
    result = {}
    for name, part in nested.items():
        inner = getattr(part, "spaces", part)
        if hasattr(inner, "items"):
            result.update(flat(inner, f"{prefix}{name}."))
        else:
            result[prefix + name] = part
    return result


def plain(value: Any) -> Any:
    """Numbers, texts and lists of numbers, as JSON knows them."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return value


def complete(space: Any, action: dict[str, Any]) -> dict[str, Any]:
    """The no-op of `space` with the entries of `action`, whose values are right already."""
    full = space.no_op()
    for name, value in action.items():
        full[name] = np.array(value, space.spaces[name].dtype) if isinstance(value, list) else value
    return dict(full)


def serve(channel: socket.socket, frame: int) -> None:
    """Answer until told to close."""
    game, ready = make(protocol.receive(channel, None), frame)
    protocol.send(channel, ready)
    while True:
        request = protocol.receive(channel, None)
        if isinstance(request, protocol.Close):
            game.close()
            return
        answer = game.reset(request.seed) if isinstance(request, protocol.Reset) else game.step(request.action)
        protocol.send(channel, answer)


def main(arguments: list[str]) -> int:
    """Serve on the given files. The exit status is 0 after `Close`, else 1."""
    # If the guard is killed, nobody else would end this process while MineRL is busy.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    channel = socket.socket(fileno=int(arguments[0]))
    try:
        serve(channel, int(arguments[1]))
    except protocol.Broken as ended:
        print(f"worker: {ended}", file=sys.stderr)
        return 1
    except Unusable as error:
        protocol.send(channel, protocol.Failed(str(error), unusable=True))
        return 1
    except Exception as error:
        # Whatever MineRL raises, a traceback for the log and the reason for the one who waits.
        traceback.print_exc()
        protocol.send(channel, protocol.Failed(f"{type(error).__name__}: {error}"))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
