"""The whole bridge: `lssvwm/MineRL-Treechop-v0`, the unmodified `minerl` client, our Malmo server, and Minetest."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from lssvwm.envs.minecraft.malmo.messages import parse_commands
from lssvwm.envs.minecraft.malmo.minetest_world import LOGS, MinetestWorld
from lssvwm.envs.minecraft.malmo.mission import ItemAmount, ItemReward, Mission, MissionError
from lssvwm.envs.minecraft.minerl.client import WorkerConfig
from lssvwm.envs.minecraft.minerl.env import MineRLError
from lssvwm.envs.minecraft.minetest.tasks import find_task
from lssvwm.worldmodel.common.errors import InputError

TREECHOP = Mission(
    name="MineRLTreechop-v0",
    uid="uid",
    width=96,
    height=64,
    ticks=8000,
    start_inventory=(ItemAmount("iron_axe"),),
    rewards=(ItemReward(ItemAmount("log"), 1.0, exclude_loops=True),),
    quit_items=(ItemAmount("log", 64),),
    handlers=("VideoProducer", "HumanLevelCommands", "CameraCommands", "RewardForPossessingItem"),
)


class Bridge:
    """`python -m lssvwm.envs.minecraft.malmo` in a process of its own; port 0 takes a free one."""

    def __init__(self, log: Path, port: int = 0) -> None:
        self.log = log
        command = [sys.executable, "-m", "lssvwm.envs.minecraft.malmo", "--world", "minetest", "--port", str(port)]
        with log.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        until(lambda: "\n" in log.read_text() or self.process.poll() is not None, 120)
        first = log.read_text().splitlines()[0]
        assert first.startswith("minetest is served on 127.0.0.1:"), first
        self.port = int(first.rpartition(":")[2])

    def started(self) -> set[int]:
        """The processes that the server has started and that live."""
        return {pid for pid in map(int, (path.name for path in Path("/proc").glob("[0-9]*"))) if self._is_child(pid)}

    def end(self) -> None:
        """Ask the server to end, by SIGTERM; it must end well, with all that it started."""
        started = self.started()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(120) == 0
        until(lambda: not any(map(alive, started)), 10)

    def _is_child(self, pid: int) -> bool:
        status = state(pid)
        return len(status) > 1 and status[1] == str(self.process.pid) and status[0] not in "ZX"


def state(pid: int) -> list[str]:
    """State, parent and more of a process; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def alive(pid: int) -> bool:
    status = state(pid)
    return bool(status) and status[0] not in "ZX"


def until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    running = Bridge(tmp_path_factory.mktemp("bridge") / "server.log")
    try:
        yield running
        running.end()
    finally:
        running.process.kill()


def make(port: int, task: str = "Treechop", attempts: int = 1) -> gym.Env[Any, Any]:
    worker = WorkerConfig(attempts=attempts, reset_timeout=240, step_timeout=60)
    return gym.make(f"lssvwm:lssvwm/MineRL-{task}-v0", port=port, actions="dict", worker=worker)


def chop(env: gym.Env[Any, Any], steps: int) -> tuple[list[float], list[Any]]:
    """Walk to the tree in view and dig its trunk before the eyes, then below, then above."""
    rewards, frames = [], []
    for step in range(steps):
        pitch = {70: 40.0, 110: -85.0}.get(step, 0.0)
        camera = np.array([pitch, 0.0], np.float32)
        frame, reward, terminated, truncated, info = env.step(
            {"attack": 1, "forward": int(step < 40), "camera": camera}
        )
        assert not terminated
        assert not truncated, info
        rewards.append(float(reward))
        frames.append(frame)
    return rewards, frames


def difference(one: Any, other: Any) -> float:
    """Mean over pixels, 0..255."""
    return float(np.abs(one.astype(float) - other).mean())


def test_every_log_of_the_task_has_a_name_in_minecraft() -> None:
    assert set(LOGS) == set(find_task("treechop").items)
    assert {stack.type for stack in LOGS.values()} == {"log", "log2"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "MineRLNavigateDense-v0"}, "cannot play MineRLNavigateDense-v0"),
        ({"handlers": (*TREECHOP.handlers, "PlaceCommands")}, "PlaceCommands"),
        ({"start_inventory": (ItemAmount("diamond_axe"),)}, "iron_axe"),
        ({"rewards": (ItemReward(ItemAmount("planks"), 1.0),)}, "planks"),
        ({"quit_items": (ItemAmount("diamond"),)}, "diamond"),
        ({"ms_per_tick": 10}, "10 ms"),
        ({"width": 8}, "width is 8"),
    ],
)
def test_what_minetest_cannot_play_is_refused(changes: dict[str, Any], message: str) -> None:
    world = MinetestWorld()
    with pytest.raises(InputError, match=message):
        world.reset(replace(TREECHOP, **changes), 1)
    world.close()


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    def run(port: int, **environment: str) -> str:
        command = [sys.executable, "-m", "lssvwm.envs.minecraft.malmo", "--port", str(port)]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120, check=False
        )
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        return done.stderr

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = int(other.getsockname()[1])
        assert f"error: port {port} of 127.0.0.1 is in use" in run(port)
    assert "port 70000 does not exist" in run(70000)
    assert "'Xvfb', which is not installed" in run(0, PATH=str(tmp_path))


def test_logs_are_dug_through_the_client(bridge: Bridge) -> None:
    env = make(bridge.port)
    first, info = env.reset(seed=7)
    assert "error" not in info
    assert first.shape == (64, 64, 3)
    assert first.std() > 10  # a picture of something
    rewards, frames = chop(env, 150)
    assert set(rewards) <= {0.0, 1.0}
    assert sum(rewards) >= 1
    assert len({frame.tobytes() for frame in frames}) > 50  # it moves
    again, _ = env.reset(seed=7)
    assert difference(again, first) < 2
    env.close()
    assert "MineRLTreechop-v0 begins, 64x64, seed 7" in bridge.log.read_text()


def test_a_refused_mission_is_an_error_with_its_reason_in_the_log(bridge: Bridge) -> None:
    env = make(bridge.port, "NavigateDense")
    with pytest.raises(MineRLError, match="NavigateDense"):
        env.reset(seed=1)
    env.close()
    assert "cannot play MineRLNavigateDense-v0: it plays MineRLTreechop-v0" in bridge.log.read_text()


def test_a_killed_server_truncates_the_episode(tmp_path: Path) -> None:
    running = Bridge(tmp_path / "first.log")
    env = make(running.port)
    try:
        env.reset(seed=3)
        frame, *_ = env.step({"forward": 1})
        started = running.started()
        assert len(started) >= 2  # the engine and its display
        running.process.kill()
        running.process.wait()
        last, reward, terminated, truncated, info = env.step({"forward": 1})
        assert (reward, terminated, truncated) == (0.0, False, True)
        assert info["error"]
        assert np.array_equal(last, frame)  # never the random observation of the client
        until(lambda: not any(map(alive, started)), 10)
        with pytest.raises(MineRLError, match=str(running.port)):
            env.reset(seed=3)
    finally:
        env.close()
        running.process.kill()


@pytest.mark.slow
def test_a_thousand_steps_and_another_server(tmp_path: Path) -> None:
    running = Bridge(tmp_path / "first.log")
    env = make(running.port)
    try:
        first, _ = env.reset(seed=11)
        rewards, frames = chop(env, 1000)
        assert sum(rewards) >= 1
        assert len({frame.tobytes() for frame in frames}) > 50
        other, _ = env.reset(seed=12)
        assert difference(first, other) > 5
        rewards, _ = chop(env, 150)
        assert sum(rewards) >= 1
        port = running.port
        running.end()
        assert env.step({"forward": 1})[3]
        running = Bridge(tmp_path / "second.log", port)
        again, _ = env.reset(seed=12)
        assert difference(again, other) < 2
        chop(env, 20)
        running.end()
    finally:
        env.close()
        running.process.kill()


@pytest.mark.slow
def test_the_engine_renders_at_the_size_of_the_mission() -> None:
    world = MinetestWorld()
    try:
        seen = world.reset(TREECHOP, 5)
        assert seen.frame.shape == (64, 96, 3)
        assert seen.inventory == ()
        earned = 0.0
        for step in range(120):
            seen, reward, done = world.step(parse_commands(f"attack 1\nforward {int(step < 40)}"))
            earned += reward
            assert not done
        assert sum(stack.quantity for stack in seen.inventory) == earned >= 1
        with pytest.raises(MissionError, match="craft"):
            world.step(parse_commands("craft planks"))
        seen = world.reset(replace(TREECHOP, width=64), -1)  # Java's seeds may be negative
        assert seen.frame.shape == (64, 64, 3)
    finally:
        world.close()
