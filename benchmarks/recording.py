"""Steps per second of a recording whose resets are slow: how far it stays behind what its processes could do, and why.

python -m benchmarks.recording --processes 1 2 8 --worlds MiniGrid-MemoryS7-v0
"""

from __future__ import annotations

import json
import multiprocessing as mp
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import tyro
from gymnasium import spaces

from benchmarks.shared.machine import cpu, cpu_seconds
from lssvwm.envs.factory import EnvConfig, maker
from lssvwm.envs.policy import FrameArray, IntArray
from lssvwm.envs.recording.pool import ProcessPool
from lssvwm.envs.recording.recorder import record
from lssvwm.worldmodel.episodes import EpisodeStore

STEP, RESET = 0.01, 1.0  # seconds
SHORTEST, LONGEST = 50, 150  # steps of an episode
TIMEOUT = 120.0  # seconds; of a recording it is 600
FAULTY = 20  # the step at which the first episode of a process that is to fail does

Fault = Literal["", "killed", "hung"]


class Slow(gym.Env[FrameArray, np.int64]):
    """Steps of 10 ms, resets of a second, episodes of 50 to 150 steps; frames of noise, which compress badly.

    With a `fault`, seed 1 has it the first time that it is played; `notes` is the folder where that is kept, and where
    every process leaves how it spent its time.
    """

    def __init__(self, notes: str, fault: Fault = "") -> None:
        self.observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
        self.action_space = spaces.Discrete(3)
        self._notes, self._fault = Path(notes), fault
        self._seed, self._number = 0, 0
        self._busy, self._waited, self._last = 0.0, 0.0, 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FrameArray, dict[str, Any]]:
        """Wait for a second."""
        super().reset(seed=seed)
        self._seed, self._number = -1 if seed is None else seed, 0
        self.left = int(self.np_random.integers(SHORTEST, LONGEST, endpoint=True))
        self._sleep(RESET)
        return self._frame(), {}

    def step(self, action: np.int64) -> tuple[FrameArray, float, bool, bool, dict[str, Any]]:
        """Wait for 10 ms."""
        self._number += 1
        if self._fault and self._seed == 1 and self._number == FAULTY:
            self._fail()
        self._sleep(STEP)
        self.left -= 1
        return self._frame(), 0.0, self.left == 0, False, {}

    def close(self) -> None:
        """Leave behind how the time was spent."""
        if self._last:
            spent = {"busy": self._busy, "waited": self._waited}
            (self._notes / f"{os.getpid()}.json").write_text(json.dumps(spent))

    def _sleep(self, seconds: float) -> None:
        now = time.monotonic()
        self._waited += now - (self._last or now)
        time.sleep(seconds)
        self._last = time.monotonic()
        self._busy += self._last - now

    def _fail(self) -> None:
        once = self._notes / "failed"
        if once.exists():
            return
        once.touch()
        if self._fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(100 * TIMEOUT)

    def _frame(self) -> FrameArray:
        return self.np_random.integers(0, 64, (64, 64, 3), np.uint8)


class Still:
    """Always action 0."""

    def reset(self, rows: IntArray, seeds: IntArray) -> None:
        """Nothing to do."""

    def act(self, frames: FrameArray, info: Mapping[str, Any]) -> IntArray:
        """Zeros."""
        return np.zeros(len(frames), np.int64)


if "Slow-v0" not in gym.registry:  # this file is run and imported
    gym.register("Slow-v0", entry_point="benchmarks.recording:Slow")


def measure(processes: int, episodes: int, fault: Fault = "") -> str:
    """A line on one recording."""
    steps = (SHORTEST + LONGEST) / 2
    ideal = processes * steps / (steps * STEP + RESET)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as notes:
        store = EpisodeStore(folder, create=True)
        config = EnvConfig("benchmarks.recording:Slow-v0", options=json.dumps({"notes": notes, "fault": fault}))
        wanted = episodes * processes
        done = record(
            config, store, Still(), episodes=wanted, num_envs=processes, seed=0, timeout=TIMEOUT, progress=False
        )
        spent = [json.loads(path.read_text()) for path in Path(notes).glob("*.json")]
    line = f"{processes} processes{f', one {fault}' if fault else ''}: {done.steps_per_second:5.1f} steps/s"
    line += f" of {ideal:5.1f} possible ({done.steps_per_second / ideal:.0%}), {done.episodes} of {wanted} episodes"
    if fault:
        return line
    whole = processes * done.seconds
    busy, waited = sum(each["busy"] for each in spent), sum(each["waited"] for each in spent)
    return f"{line}; of the time of the processes they play {busy / whole:.0%}, wait for the next action or seed \
{waited / whole:.0%}, and have no seed left, or close, {(whole - busy - waited) / whole:.0%}"


def start(world: str, count: int = 4) -> str:
    """What a process of a real world takes until it is ready: CPU seconds, and memory that it shares with no other."""
    began = time.monotonic()
    pool = ProcessPool(maker(EnvConfig(world)), count, timeout=600)
    took = time.monotonic() - began
    try:
        pids = [child.pid for child in mp.active_children() if child.pid is not None]
        seconds = [cpu_seconds(pid) for pid in pids]
        private = [_private_bytes(Path(f"/proc/{pid}/smaps_rollup")) for pid in pids]
    finally:
        pool.close()
    spent, memory = np.mean(seconds), np.mean(private) / 2**20
    return f"{world}: {spent:.2f} s of CPU and {memory:.0f} MiB a process, {count} ready after {took:.1f} s"


def _private_bytes(rollup: Path) -> int:
    found = [line.split() for line in rollup.read_text().splitlines() if line.startswith("Private_")]
    return sum(int(fields[1]) for fields in found) * 1024


def main(
    processes: tuple[int, ...] = (1, 2, 8),
    episodes: int = 6,
    worlds: tuple[str, ...] = ("MiniGrid-MemoryS7-v0", "lssvwm/MemoryMaze-9x9-v0"),
) -> None:
    """`episodes` for each process. The ideal is that no process ever waits for another.

    Then the largest number of processes with one that is killed, and one that hangs, and what a
    process of each of the `worlds` takes to start (Linux).
    """
    print(cpu())
    for count in processes:
        print(measure(count, episodes))
    for fault in ("killed", "hung"):
        print(measure(max(processes), episodes, fault))
    for world in worlds:  # in a process whose workers need not read this file again, as those of the scripts
        code = f"from benchmarks.recording import start\nprint(start({world!r}))"
        subprocess.run([sys.executable, "-c", code], check=True)


if __name__ == "__main__":
    tyro.cli(main)
