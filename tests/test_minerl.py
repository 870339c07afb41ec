"""MineRL environments: the unmodified minerl 0.4.4 client on our Malmo server, with a world known by hand.

These tests need `make minerl`; without it each fails, and says so.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import lssvwm.envs.minecraft.minerl.registration
from lssvwm.envs.factory import EnvConfig, make
from lssvwm.envs.minecraft.minerl.client import WorkerConfig, find_python
from lssvwm.envs.minecraft.minerl.env import MineRLEnv, MineRLError
from lssvwm.envs.minecraft.minerl.guard import descendants
from lssvwm.worldmodel.common.errors import InputError
from malmo_stub import LAST_LOG, Served, frame_of, served

assert lssvwm.envs.minecraft.minerl.registration
QUICK = WorkerConfig(step_timeout=5, attempts=2, retry_pause=0.1)


@pytest.fixture
def malmo() -> Iterator[Served]:
    with served() as running:
        yield running


@pytest.fixture
def env(malmo: Served) -> Iterator[MineRLEnv]:
    env = MineRLEnv("Treechop", port=malmo.server.port, worker=QUICK)
    yield env
    env.close()


def number(env: MineRLEnv, name: str) -> np.int64:
    return np.int64(env.action_names.index(name))


def processes(env: MineRLEnv) -> list[int]:
    """The guard, and the worker with all that came of it."""
    assert env._worker is not None
    guard = env._worker._process.pid
    return [guard, *descendants(guard)]


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 300
    while alive(pids):
        assert time.monotonic() < deadline, f"processes {alive(pids)} are left"
        time.sleep(0.02)


def test_episodes(env: MineRLEnv, malmo: Served) -> None:
    frame, info = env.reset(seed=7)
    assert info == {}
    np.testing.assert_array_equal(frame, frame_of(0, 7, 0))
    right, chop = number(env, "right"), number(env, "chop")
    for tick in range(1, 201):
        frame, reward, terminated, truncated, info = env.step(right)
        np.testing.assert_array_equal(frame, frame_of(tick, 7, 15 * tick))
        assert (reward, terminated, truncated, info) == (0.0, False, False, {})
    ends = [env.step(chop)[1:] for _ in range(LAST_LOG)]
    assert ends == [(1.0, False, False, {})] * (LAST_LOG - 1) + [(1.0, True, False, {})]
    assert {key: value for key, value in malmo.world.actions[-1].items() if np.any(value)} == {
        "attack": 1,
        "forward": 1,
    }
    with pytest.raises(gym.error.ResetNeeded, match="call reset"):
        env.step(chop)
    env.reset()
    env.reset(seed=7)
    frame, _ = env.reset()
    # The seed itself reaches Minecraft; what follows without one is drawn from it.
    first, drawn, again, same = malmo.world.seeds
    assert (first, again) == (7, 7)
    assert drawn == same != 7
    np.testing.assert_array_equal(frame, frame_of(0, drawn or 0, 0))


def check_cut(env: MineRLEnv, step: tuple[Any, ...], last: Any, reason: str) -> None:
    """The episode was cut: the last good frame, no reward, no process left, and the reason."""
    frame, reward, terminated, truncated, info = step
    np.testing.assert_array_equal(frame, last)
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert reason in info["error"]
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.int64(0))


def test_killed_server(env: MineRLEnv, malmo: Served) -> None:
    env.reset(seed=3)
    last, *_ = env.step(np.int64(0))
    pids, port = processes(env), malmo.server.port
    malmo.kill()
    # What MineRL itself gives here is a random observation.
    check_cut(env, env.step(np.int64(0)), last, "MineRL")
    assert not alive(pids)
    with pytest.raises(MineRLError, match=f"2 attempts, on the Malmo server at port {port}"):
        env.reset()
    with served(port):
        frame, _ = env.reset(seed=9)
        np.testing.assert_array_equal(frame, frame_of(0, 9, 0))


def test_killed_worker(env: MineRLEnv) -> None:
    last, _ = env.reset(seed=3)
    pids = processes(env)
    os.kill(pids[1], signal.SIGKILL)
    check_cut(env, env.step(np.int64(0)), last, "the other side has ended")
    assert not alive(pids)
    frame, _ = env.reset(seed=4)
    np.testing.assert_array_equal(frame, frame_of(0, 4, 0))
    assert not env.step(np.int64(0))[3]


def test_hung_server_and_memory_limit(malmo: Served) -> None:
    config = WorkerConfig(step_timeout=2, memory_limit=10, memory_every=3)
    env = MineRLEnv("Treechop", port=malmo.server.port, worker=config)
    env.reset(seed=1)
    chop = number(env, "chop")
    env.step(chop)
    env.step(chop)
    pids = processes(env)
    frame, reward, terminated, truncated, info = env.step(chop)
    # This step was good and is kept.
    np.testing.assert_array_equal(frame, frame_of(3, 1, 0))
    assert (reward, terminated, truncated) == (1.0, False, True)
    assert "MiB of memory, memory_limit is 10" in info["cut"]
    assert "error" not in info
    assert not alive(pids)
    last, _ = env.reset(seed=2)
    pids = processes(env)
    malmo.world.hang.set()
    check_cut(env, env.step(chop), last, "step within 2 s: no answer in time")
    assert not alive(pids)
    env.close()


def test_an_interrupted_step_gives_no_stale_frame(env: MineRLEnv, malmo: Served) -> None:
    class Interrupt(Exception):  # noqa: N818
        pass

    def interrupt(*_: Any) -> None:
        raise Interrupt

    env.reset(seed=1)
    malmo.world.hang.set()
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    with pytest.raises(Interrupt):
        env.step(np.int64(0))
    signal.signal(signal.SIGALRM, before)
    malmo.world.hang.clear()
    malmo.world.closed.set()
    frame, _ = env.reset(seed=2)
    np.testing.assert_array_equal(frame, frame_of(0, 2, 0))


def test_wrong_actions(env: MineRLEnv, malmo: Served) -> None:
    env.reset(seed=0)
    for wrong in (10, -1, "forward", 0.5):
        with pytest.raises(InputError, match=r"give one of 0\.\.9"):
            env.step(wrong)
    assert not env.step(np.int64(0))[3]  # nothing happened by it
    env.close()
    env = MineRLEnv("ObtainDiamond", port=malmo.server.port, actions="dict", extra_obs=True)
    observation, _ = env.reset(seed=0)
    wrong_actions: list[tuple[Any, str]] = [
        ({"fly": 1}, r"\['fly'\]"),
        ({"attack": 2}, r"within 0\.\.1"),
        ({"attack": 0.5}, "a whole number"),
        ({"camera": [0.0]}, r"shape \(2,\)"),
        ({"camera": [0.0, np.nan]}, "within"),
        ({"camera": [181.0, 0.0]}, r"within -180\.\.180"),
        ({"craft": "house"}, "crafting_table, none, planks"),
        ({"craft": 9}, "or its number"),
        (3, "give a dictionary"),
    ]
    for wrong, message in wrong_actions:
        with pytest.raises(InputError, match=message):
            env.step(wrong)
    assert env.items[:2] == ("coal", "cobblestone")
    assert observation["inventory"].tolist() == [0] * 18
    names = env.choices["equipped_items.mainhand.type"]
    assert names[observation["equipped_items.mainhand.type"]] in ("none", "air")
    observation, *_ = env.step({"craft": env.choices["craft"].index("planks"), "attack": 1, "camera": [1.0, -2.5]})
    assert observation["inventory"][env.items.index("log")] == 1
    assert malmo.world.yaw == -2.5
    env.step(env.action_space.sample())
    env.close()


def test_wrong_arguments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="choose one of Treechop, Navigate"):
        MineRLEnv("Chop")
    with pytest.raises(InputError, match="there is no action set"):
        MineRLEnv(actions="walking")
    with pytest.raises(InputError, match=r"'65536'.*give 1\.\.65535"):
        MineRLEnv(port=65536)
    with pytest.raises(InputError, match=r"has no MineRLObtainDiamondShovel-v0 .* minerl 1\.0\.x"):
        MineRLEnv("ObtainDiamondShovel")
    with pytest.raises(InputError, match=r"cannot import gym .*make minerl"):
        MineRLEnv(python=sys.executable)
    monkeypatch.setenv("LSSVWM_MINERL_PYTHON", str(tmp_path / "python"))
    with pytest.raises(InputError, match="run `make minerl`"):
        MineRLEnv()


def test_passes_the_checker_and_the_factory(malmo: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSSVWM_MALMO_PORT", str(malmo.server.port))
    env = gym.make("lssvwm/MineRL-NavigateDense-v0", extra_obs=True, render_mode="rgb_array")
    check_env(env.unwrapped, skip_render_check=True)
    assert env.unwrapped.render().shape == (64, 64, 3)
    env.close()
    env.close()
    frames = make(EnvConfig("lssvwm/MineRL-NavigateDense-v0", size=32, extra_obs=True, max_episode_steps=3))
    assert frames.get_wrapper_attr("extra_keys") == ("compass.angle", "inventory")
    frame, info = frames.reset(seed=5)
    np.testing.assert_array_equal(frame, frame_of(0, 5, 0)[::2, ::2])
    ends = [frames.step(np.int64(3))[2:4] for _ in range(3)]
    assert ends == [(False, False)] * 2 + [(False, True)]
    assert info["compass.angle"] == 0.0
    assert info["inventory"].tolist() == [0]
    frames.close()


SCRIPT = """
import sys, time
sys.path.insert(0, {root!r})
from lssvwm.envs.minecraft.minerl.env import MineRLEnv
from lssvwm.envs.minecraft.minerl.guard import descendants
env = MineRLEnv()
guard = env._worker._process.pid
print(guard, *descendants(guard), env._worker._folder, flush=True)
{end}
"""


def test_leaves_nothing_behind() -> None:
    ends = ("raise SystemExit", "raise KeyError('wrong')", "time.sleep(600)")
    scripts = [SCRIPT.format(root=str(Path(__file__).parent.parent), end=end) for end in ends]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    running = [subprocess.Popen([sys.executable, "-c", script], **pipes) for script in scripts]
    for process in running:
        *texts, folder = process.stdout.readline().split()
        pids = [int(text) for text in texts]
        assert len(pids) >= 2
        if process is running[-1]:
            assert alive(pids) == pids
            process.kill()
        process.wait(300)
        wait_until_gone(pids)
        assert not Path(folder).exists()
        process.stdout.close()


def test_minecraft_is_killed_in_its_own_session(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    guard = Path(lssvwm.envs.minecraft.minerl.registration.__file__).with_name("guard.py")
    # As MineRL starts Minecraft: in a session of its own, and here as an orphan too.
    game = "import os,time; os.fork() and os._exit(0); os.setsid(); print(os.getpid(), flush=True); time.sleep(600)"
    worker = f"import subprocess,sys; subprocess.run([sys.executable, '-c', {game!r}]); {{end}}"
    for end in ("import time; time.sleep(600)", "raise SystemExit(3)"):
        folder.mkdir()
        read, write = os.pipe()
        command = [sys.executable, str(guard), str(folder), str(read), sys.executable, "-c", worker.format(end=end)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[read]) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            pid = int(process.stdout.readline())
            if "sleep" in end:
                assert alive([pid])
                process.stdin.close()
            wait_until_gone([pid])
        os.close(read)
        os.close(write)
        assert not folder.exists()
    assert process.returncode == 3


@pytest.mark.slow
def test_time_limit_of_minerl(malmo: Served) -> None:
    env = MineRLEnv(port=malmo.server.port)
    env.reset(seed=0)
    noop = number(env, "noop")
    ends = [env.step(noop)[2:] for _ in range(8000)]
    assert ends == [(False, False, {})] * 7999 + [(False, True, {})]
    env.close()


def test_interpreter_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LSSVWM_MINERL_PYTHON", raising=False)
    assert find_python(None).parent.parent.name == ".venv-minerl"
    monkeypatch.setenv("LSSVWM_MINERL_PYTHON", sys.executable)
    assert find_python(None) == Path(sys.executable).absolute()
