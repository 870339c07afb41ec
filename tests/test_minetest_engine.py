"""The Minetest engine itself: frames, inputs, lock-step, failures, and that nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lssvwm.envs.minecraft.minetest.build import build_shim
from lssvwm.envs.minecraft.minetest.config import EngineConfig
from lssvwm.envs.minecraft.minetest.display import Display
from lssvwm.envs.minecraft.minetest.engine import Engine, EngineError, Tick
from lssvwm.worldmodel.common.errors import InputError

ROOT = Path(__file__).parent.parent
PATIENCE = 20.0


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(EngineConfig(mapgen="flat", seed=1)) as engine:
        wait(engine, 60)  # until the player has fallen to the ground and what is near has arrived
        yield engine


def wait(engine: Engine, steps: int) -> None:
    for _ in range(steps):
        engine.step({})


def look(engine: Engine, yaw: float, pitch: float) -> None:
    engine.command("look", yaw=yaw, pitch=pitch)
    wait(engine, 2)


def processes_in(folder: Path) -> list[str]:
    """Command lines that mention `folder`, where engines keep their files. What has ended has none."""
    lines = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(entry.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in lines if str(folder) in line]


def until(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def displays() -> set[str]:
    return {path.name for path in Path("/tmp").glob(".X*-lock")} | {p.name for p in Path("/tmp/.X11-unix").glob("X*")}


def test_frame_is_the_right_side_up_and_turns(engine: Engine) -> None:
    look(engine, yaw=0, pitch=0)
    level = engine.step({}).frame
    assert level.shape == (64, 64, 3)
    assert level.dtype == np.uint8
    sky = engine.step({"camera": (-60, 0)}).frame
    ground = engine.step({"camera": (130, 0)}).frame
    blue = np.array([-1, 0, 1])
    assert (sky @ blue).mean() > 40 > (ground @ blue).mean()
    assert (level[:8] @ blue).mean() > (level[-8:] @ blue).mean() + 20
    engine.step({"camera": (-70, 0)})
    turned = engine.step({"camera": (0, 90)}).frame
    assert (turned != level).any(axis=2).mean() > 0.3


@pytest.mark.parametrize("degrees", [(0.0, 15.0), (0.0, -90.0), (7.3, 123.4), (-3.333, 1.234), (0.0, 359.0)])
def test_camera_turns_by_degrees(engine: Engine, degrees: tuple[float, float]) -> None:
    look(engine, yaw=0, pitch=0)
    state = engine.step({"camera": degrees}).state
    assert state["pitch"] == pytest.approx(degrees[0], abs=0.02)
    assert (state["yaw"] - degrees[1] + 180) % 360 - 180 == pytest.approx(0, abs=0.02)


def test_parts_of_a_pixel_add_up(engine: Engine) -> None:
    look(engine, yaw=0, pitch=0)
    for _ in range(100):
        state = engine.step({"camera": (0.0333, -0.1234)}).state
    assert state["pitch"] == pytest.approx(3.33, abs=0.02)
    assert state["yaw"] == pytest.approx(-12.34, abs=0.02)


def test_walking_moves_where_one_looks(engine: Engine) -> None:
    look(engine, yaw=90, pitch=0)
    x, _, z = engine.step({}).state["pos"]
    for _ in range(10):
        state = engine.step({"forward": 1, "jump": 1}).state
    assert state["pos"][0] - x > 1
    assert abs(state["pos"][2] - z) < 0.1
    wait(engine, 20)
    rest = engine.tick.state["pos"]
    assert engine.step({}).state["pos"] == rest


def test_digging_gives_what_was_dug(engine: Engine) -> None:
    before = sum(engine.tick.state["inventory"].values())
    engine.command("teleport", pos=[0, 8.5, 0])
    look(engine, yaw=0, pitch=45)  # there is dirt, which hands can dig
    for _ in range(80):
        state = engine.step({"attack": 1}).state
        if sum(state["inventory"].values()) > before:
            break
    wait(engine, 10)
    assert sum(state["inventory"].values()) == before + 1


def test_world_stands_still_between_steps(engine: Engine) -> None:
    engine.command("teleport", pos=[0, 30, 0])
    wait(engine, 5)
    falling = [engine.step({}).state for _ in range(8)]
    time.sleep(0.3)
    falling += [engine.step({}).state for _ in range(8)]
    wait(engine, 40)
    heights = np.array([state["pos"][1] for state in falling])
    assert np.diff(heights, n=2) == pytest.approx(-2 * 9.81 * 0.05**2, abs=0.005)  # a pause would show as a jump
    assert np.diff([state["tick"] for state in falling]) == pytest.approx(1)
    assert np.diff([state["time"] for state in falling]) == pytest.approx(0.05)


def test_command_fails_with_the_reason_and_the_engine_goes_on(engine: Engine) -> None:
    with pytest.raises(EngineError, match=r"'teleport' failed: .*init\.lua:\d+.* 'pos'"):
        engine.command("teleport")
    with pytest.raises(EngineError, match="no command fly"):
        engine.command("fly", high=True)
    assert engine.command("look", yaw=10, pitch=0) == {}
    assert engine.tick.state["yaw"] == pytest.approx(10, abs=0.02)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ({"forwards": 1}, r"\['forwards'\].*forward"),
        ({"forward": 1, "camera": (0.0, 0.0, 0.0)}, "camera is"),
        ({"forward": 1, "camera": (0.0, float("nan"))}, "camera is"),
    ],
)
def test_wrong_action_changes_nothing(engine: Engine, action: dict[str, object], message: str) -> None:
    wait(engine, 10)
    before = engine.tick.state
    with pytest.raises(InputError, match=message):
        engine.step(action)
    after = engine.step({}).state
    assert after["tick"] == before["tick"] + 1
    assert after["pos"] == before["pos"]


def test_two_engines_at_once_show_the_same_bit_for_bit() -> None:
    def play(engine: Engine, source: np.random.Generator) -> Tick:
        buttons = {name: source.random() < 0.5 for name in ("forward", "left", "jump", "attack")}
        return engine.step({**buttons, "camera": source.uniform(-20, 20, 2)})

    config = EngineConfig(width=72, height=40, mapgen="flat", seed=1)
    with ThreadPoolExecutor(2) as pool, Engine(config) as one, Engine(config) as other:
        for _ in range(80):
            seeds = [np.random.default_rng(one.tick.state["tick"]) for _ in range(2)]
            first, second = pool.map(play, (one, other), seeds)
            assert first.frame.shape == (40, 72, 3)
            assert (first.frame == second.frame).all()
            assert first.state == second.state
        os.kill(one.pid, signal.SIGKILL)
        with pytest.raises(EngineError, match=r"the engine ended \(pid \d+, status -9\)"):
            wait(one, 3)
        with pytest.raises(EngineError, match="closed"):
            one.step({})
        other.step({})


def test_hung_engine_is_given_up_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = displays()
    engine = Engine(EngineConfig(width=24, height=56, mapgen="flat"))
    assert engine.step({}).frame.shape == (56, 24, 3)
    assert len(processes_in(tmp_path)) == 2
    assert not list(listening(engine.pid))
    engine.config = replace(engine.config, step_timeout=0.5)
    os.kill(engine.pid, signal.SIGSTOP)
    with pytest.raises(EngineError, match=r"no frame within 0\.5 s"):
        engine.step({})
    assert not processes_in(tmp_path)
    assert not list(tmp_path.iterdir())
    assert displays() <= before
    engine.close()


def listening(pid: int) -> Iterator[str]:
    """Sockets of this process that are open to other machines."""
    links = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()}
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if f"socket:[{fields[9]}]" in links and not fields[1].startswith("0100007F:"):
                yield f"{table} {fields[1]}"


SCRIPT = """
import sys, time
from lssvwm.envs.minecraft.minetest.config import EngineConfig
from lssvwm.envs.minecraft.minetest.engine import Engine
print("starting", flush=True)
engine = Engine(EngineConfig(mapgen="flat"))
engine.step({})
print("ready", flush=True)
if sys.argv[1] == "raise":
    raise KeyError("on purpose")
time.sleep(600)
"""


@pytest.mark.parametrize(("way", "delay"), [("raise", 0.0), ("kill", 0.0), ("kill while starting", 0.6)])
def test_nothing_is_left_when_the_parent_ends(way: str, delay: float, tmp_path: Path) -> None:
    before = displays()
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, way],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "starting\n"
        if delay:
            assert until(lambda: bool(processes_in(tmp_path)))
            time.sleep(delay)
        else:
            assert parent.stdout.readline() == "ready\n"
            assert processes_in(tmp_path)
        if way.startswith("kill"):
            parent.kill()
        assert parent.wait(PATIENCE) == (-9 if way.startswith("kill") else 1)
    assert until(lambda: not processes_in(tmp_path)), processes_in(tmp_path)
    assert until(lambda: not list(tmp_path.iterdir())), list(tmp_path.iterdir())
    assert until(lambda: displays() <= before)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (EngineConfig(minetest="no-minetest"), "'no-minetest'.*make minecraft.*apt-get install .*minetest"),
        (EngineConfig(xvfb="no-xvfb"), "'no-xvfb'.*make minecraft.*apt-get install .*xvfb"),
        (EngineConfig(compiler="no-gcc"), "'no-gcc'.*make minecraft.*apt-get install .*gcc"),
        (EngineConfig(compiler="false"), "cannot compile.*make minecraft.*libgl-dev"),
        (EngineConfig(xvfb="true"), "opened no display"),
    ],
)
def test_missing_programs_are_named(
    config: EngineConfig, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if config.compiler != "gcc":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(InputError, match=f"(?s){message}"):
        Engine(config)
    assert not list(tmp_path.glob("lssvwm-*"))


def test_minetest_that_cannot_start_is_reported_with_its_log(tmp_path: Path) -> None:
    program = tmp_path / "minetest"
    program.write_text("#!/bin/sh\necho no world today\nexit 7\n")
    program.chmod(0o755)
    with pytest.raises(EngineError, match=r"status 7\)\nno world today"):
        Engine(EngineConfig(minetest=str(program)))


def test_mod_that_cannot_be_loaded_is_reported_with_the_error_of_lua(monkeypatch: pytest.MonkeyPatch) -> None:
    write = Engine._write_files

    def spoil(engine: Engine) -> None:
        write(engine)
        with (engine._world / "worldmods" / "lssvwm_bridge" / "init.lua").open("a") as mod:
            mod.write('error("spoilt on purpose")')

    monkeypatch.setattr(Engine, "_write_files", spoil)
    with pytest.raises(EngineError, match=r"(?s)the engine ended.*ModError.*init\.lua:\d+: spoilt on purpose"):
        Engine(EngineConfig(mapgen="flat"))


@pytest.mark.parametrize(("field", "value"), [("width", 8), ("viewing_range", 5), ("dt", 0.0), ("seed", -1)])
def test_config_says_what_it_takes(field: str, value: float) -> None:
    with pytest.raises(InputError, match=f"EngineConfig.{field} is {value}"):
        EngineConfig(**{field: value})


def test_shim_is_built_once_by_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with ThreadPoolExecutor(3) as pool:
        built = set(pool.map(build_shim, ["gcc"] * 3))
    assert list((tmp_path / "lssvwm").iterdir()) == list(built)
    when = next(iter(built)).stat().st_mtime_ns
    assert build_shim("no compiler is needed any more").stat().st_mtime_ns == when


def test_display_lets_in_only_who_has_the_cookie(tmp_path: Path) -> None:
    display = Display("Xvfb", 32, 32, tmp_path, build_shim(), 30)
    try:
        cookie = (tmp_path / "cookie").read_bytes()[-16:]
        assert not accepted(display, b"", b"")
        assert not accepted(display, b"MIT-MAGIC-COOKIE-1", bytes(16))
        assert accepted(display, b"MIT-MAGIC-COOKIE-1", cookie)
    finally:
        display.close()
    assert display.process.returncode == 0


def accepted(display: Display, name: bytes, data: bytes) -> bool:
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(PATIENCE)
        link.connect("/tmp/.X11-unix/X" + display.variables["DISPLAY"][1:])
        link.sendall(
            struct.pack("<cxHHHHxx", b"l", 11, 0, len(name), len(data)) + name + b"\0" * (-len(name) % 4) + data
        )
        return link.recv(1) == b"\1"
