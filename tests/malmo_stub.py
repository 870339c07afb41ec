"""A world for the Malmo server without any engine: every frame and reward of it is known by hand."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from lssvwm.envs.minecraft.actions import Action
from lssvwm.envs.minecraft.malmo.mission import Mission
from lssvwm.envs.minecraft.malmo.server import MalmoServer
from lssvwm.envs.minecraft.malmo.world import ItemStack, Observation, Step
from lssvwm.envs.policy import FrameArray

LAST_LOG = 64


@dataclass
class CountingWorld:
    """Each tick with `attack` gives one log and the reward 1; with the 64th the mission is over.

    The upper half of a frame is (tick, seed, yaw), the lower half white, modulo 256. The compass is the yaw.
    """

    seeds: list[int | None] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    hang: threading.Event = field(default_factory=threading.Event)
    closed: threading.Event = field(default_factory=threading.Event)

    def reset(self, mission: Mission, seed: int | None) -> Observation:
        self.mission, self.seed = mission, seed or 0
        self.seeds.append(seed)
        self.ticks, self.logs, self.yaw = 0, 0, 0.0
        return self.observe()

    def step(self, action: Action) -> Step:
        if self.hang.is_set():
            self.closed.wait(30)
        self.actions.append(action)
        self.ticks += 1
        self.yaw += float(action.get("camera", (0.0, 0.0))[1])
        self.logs += int(action.get("attack", 0))
        return Step(self.observe(), float(action.get("attack", 0)), self.logs == LAST_LOG)

    def observe(self) -> Observation:
        frame = frame_of(self.ticks, self.seed, self.yaw, self.mission.height, self.mission.width)
        return Observation(frame, (ItemStack("log", self.logs),) if self.logs else (), None, self.yaw)

    def close(self) -> None:
        self.closed.set()


def frame_of(ticks: int, seed: int, yaw: float, height: int = 64, width: int = 64) -> FrameArray:
    frame = np.full((height, width, 3), 255, np.uint8)
    frame[: height // 2] = [ticks % 256, seed % 256, int(yaw) % 256]
    return frame


@dataclass
class Served:
    """A world and the server that serves it."""

    world: CountingWorld
    server: MalmoServer
    thread: threading.Thread

    def kill(self) -> None:
        """Close the port and every connection."""
        self.server.stop()
        self.world.closed.set()
        self.thread.join(30)


@contextlib.contextmanager
def served(port: int = 0) -> Iterator[Served]:
    """Serve a new world from a thread."""
    world = CountingWorld()
    server = MalmoServer(world, port)
    thread = threading.Thread(target=server.serve, name="malmo", daemon=True)
    thread.start()
    running = Served(world, server, thread)
    try:
        yield running
    finally:
        running.kill()
