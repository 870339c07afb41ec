"""The real Memory Maze: the contract of Gymnasium, seeds, and equality with the stock one."""

from __future__ import annotations

import ctypes.util
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from lssvwm.agents.policies.memory_maze import MazeOracle
from lssvwm.envs.factory import EnvConfig, make, make_vec
from lssvwm.envs.memory_maze.environment import MemoryMaze, choose_renderer
from lssvwm.worldmodel.common.errors import InputError


@pytest.fixture(scope="module")
def maze() -> Iterator[MemoryMaze]:
    env = MemoryMaze("9x9", extra_obs=True)
    yield env
    env.close()


def oracle_action(observation: dict[str, Any]) -> np.int64:
    info = {key: value[None] for key, value in observation.items()}
    masks = {f"_{key}": np.ones(1, np.bool_) for key in observation}
    return MazeOracle().act(info["image"], {**info, **masks})[0]


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def test_passes_the_checker_of_gymnasium() -> None:
    env = gym.make("lssvwm:lssvwm/MemoryMaze-9x9-v0", extra_obs=True, render_mode="rgb_array")
    check_env(env.unwrapped, skip_render_check=True)
    frame = env.unwrapped.render()
    assert isinstance(frame, np.ndarray)
    assert frame.shape == (64, 64, 3)
    env.close()
    env.close()


def test_passes_the_checker_of_stable_baselines() -> None:
    env = MemoryMaze("9x9", render_mode="rgb_array")
    sb3_check_env(env, skip_render_check=False)
    env.close()


@pytest.mark.parametrize(
    ("size", "steps", "options", "touches"),
    [
        ("9x9", 160, {}, 2),
        ("15x15", 30, {"camera_resolution": 96}, 0),
        ("9x9", 20, {"maze_seed": 3}, 0),
        ("5x5", 20, {"maze_seed": 7}, 0),  # has rooms of a single cell
    ],
)
def test_equals_stock_to_the_last_bit(size: str, steps: int, options: dict[str, Any], touches: int) -> None:
    fast, stock = (MemoryMaze(size, extra_obs=True, stock=flag, **options) for flag in (False, True))
    for seed in (11, None) if touches else (11,):  # a world of its own, then the next episode in it
        observation, _ = fast.reset(seed=seed)
        expected, _ = stock.reset(seed=seed)
        touched = 0.0
        for _ in range(steps if seed else steps // 4):
            assert same(observation, expected)
            action = oracle_action(expected)
            expected, reward, *ends, _ = stock.step(action)
            observation, fast_reward, *fast_ends, _ = fast.step(action)
            assert (reward, ends) == (fast_reward, fast_ends)
            touched += reward
        assert touched >= touches or seed is None  # so balls were touched, vanished and came back
        assert (fast._world.environment.physics.data.qpos == stock._world.environment.physics.data.qpos).all()
    fast.close()
    stock.close()


def test_frames_that_nobody_sees_are_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    config = EnvConfig("lssvwm:lssvwm/MemoryMaze-5x5-v0", extra_obs=True, every=2, max_episode_steps=7)
    thin, whole = make(config), make(replace(config, every=1))
    for env in (thin, whole):
        env.reset(seed=4)
    drawn, screen = 0, type(thin.unwrapped._world._screen)  # type: ignore[attr-defined]
    before = screen.frame

    def frame(self: Any) -> Any:
        nonlocal drawn
        drawn += 1
        return before(self)

    monkeypatch.setattr(screen, "frame", frame)
    for action in (np.int64(1), np.int64(4), np.int64(5), np.int64(2)):
        drawn = 0
        seen, reward, _, ended, info = thin.step(action)
        assert drawn == 1
        single = [whole.step(action) for _ in range(1 if ended else 2)]  # the time limit strikes within the last one
        np.testing.assert_array_equal(seen, single[-1][0])
        assert reward == sum(each[1] for each in single)
        for key in ("agent_pos", "agent_dir", "target_vec"):
            np.testing.assert_array_equal(info[key], single[-1][4][key])
        assert ended == single[-1][3]
    assert ended
    thin.close()
    whole.close()


def test_what_is_not_drawn_cannot_be_seen(maze: MemoryMaze) -> None:
    observation = maze.reset(seed=3)[0]
    rng = np.random.default_rng(0)
    screen = maze._world._screen
    hidden = total = 0
    for _ in range(200):
        action = oracle_action(observation) if rng.random() < 0.7 else np.int64(rng.integers(6))
        observation = maze.step(action)[0]
        frame, view = screen.frame(), screen._view
        hidden += (screen._model.geom_group == 5).sum() - (screen._groups == 5).sum()
        total += (screen._groups < 3).sum()
        screen._view = SimpleNamespace(visible=lambda: True)
        np.testing.assert_array_equal(screen.frame(), frame)
        screen._view = view
    assert hidden > 0.7 * total


def test_maze_seed_keeps_the_walls() -> None:
    env = MemoryMaze("9x9", extra_obs=True, maze_seed=5)
    episodes = [env.reset(seed=seed)[0] for seed in (1, 2, None, 1)]
    colors = [_textures(env)]
    layouts, starts = ([episode[key].tobytes() for episode in episodes] for key in ("maze_layout", "agent_pos"))
    balls = [episode["targets_pos"].tobytes() for episode in episodes]
    assert len(set(layouts)) == 1
    assert len(set(starts)) == len(set(balls)) == 3
    assert same(episodes[0], episodes[3])
    env.close()
    other = MemoryMaze("9x9", extra_obs=True, maze_seed=6)
    assert other.reset(seed=1)[0]["maze_layout"].tobytes() not in layouts
    other.close()
    again = MemoryMaze("9x9", extra_obs=True, maze_seed=5)
    again.reset(seed=9)
    assert colors == [_textures(again)]
    again.close()
    with pytest.raises(InputError, match="maze_seed -1"):
        MemoryMaze(maze_seed=-1)


def test_a_maze_that_was_refused_leaves_the_one_before() -> None:
    env = MemoryMaze("5x5", extra_obs=True, maze_seed=np.int64(5))
    assert (env.maze_seed, type(env.maze_seed)) == (5, int)
    with pytest.raises(InputError, match="maze_seed True"):
        env.reset(seed=1, options={"maze_seed": True})
    first, _ = env.reset(seed=1)
    other, _ = env.reset(seed=1, options={"maze_seed": np.random.default_rng(0).integers(6, 9)})
    assert not np.array_equal(first["maze_layout"], other["maze_layout"])
    env.close()


def _textures(env: MemoryMaze) -> dict[str, str]:
    arena = env._world.environment.task._maze_arena
    return {wall: texture.name for wall, texture in arena._current_wall_texture.items()}


def test_observations_are_the_callers_own(maze: MemoryMaze) -> None:
    shown = MemoryMaze("9x9", render_mode="rgb_array")
    for frame in (shown.reset(seed=1)[0], shown.step(np.int64(1))[0]):
        before = shown.render()
        assert before is not None
        frame[:] = 0
        np.testing.assert_array_equal(shown.render(), before)
    shown.close()
    observation = maze.reset(seed=1)[0]
    layout = observation["maze_layout"].copy()
    for value in observation.values():
        value[...] = 0
    np.testing.assert_array_equal(maze.step(np.int64(0))[0]["maze_layout"], layout)


def test_threads_may_take_turns(maze: MemoryMaze) -> None:
    maze.reset(seed=1)
    expected = maze.step(np.int64(1))[0]
    with ThreadPoolExecutor(1) as other:
        other.submit(maze.reset, seed=1).result()
        assert same(maze.step(np.int64(1))[0], expected)
        assert other.submit(maze.step, np.int64(1)).result()[0]["image"].any()


@pytest.mark.parametrize("ending", ["", "del env", "env = None; import gc; gc.collect()"])
def test_forgetting_to_close_is_silent(ending: str) -> None:
    program = f"from lssvwm import envs\nenv = envs.MemoryMaze('9x9')\nenv.reset(seed=0)\nenv.step(1)\n{ending}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_world_follows_from_the_seed(maze: MemoryMaze) -> None:
    first = maze.reset(seed=5)[0]
    stepped = maze.step(np.int64(4))[0]
    second = maze.reset()[0]
    assert not np.array_equal(first["maze_layout"], second["maze_layout"])
    assert same(maze.reset(seed=5)[0], first)
    assert same(maze.step(np.int64(4))[0], stepped)
    assert same(maze.reset()[0], second)
    assert not same(maze.reset(seed=6)[0], first)


def test_positions_mean_what_they_say(maze: MemoryMaze) -> None:
    observation = maze.reset(seed=1)[0]
    layout, (x, y) = observation["maze_layout"], observation["agent_pos"]
    assert layout[int(y), int(x)] == 1
    for x, y in observation["targets_pos"]:
        assert layout[int(y), int(x)] == 1
        assert (x % 1, y % 1) == (0.5, 0.5)
    assert (observation["target_pos"] == observation["targets_pos"]).all(1).sum() == 1
    np.testing.assert_allclose(np.linalg.norm(observation["agent_dir"]), 1, atol=1e-6)
    # The frame has the color of the wanted ball around it, at 70 %.
    border = np.floor(observation["target_color"] * 255 * 0.7)
    np.testing.assert_array_equal(observation["image"][0], np.tile(border, (64, 1)))
    # Forward goes where agent_dir points, left turns left; the sky is above the floor.
    turned = maze.step(np.int64(2))[0]
    (x0, y0), (x1, y1) = observation["agent_dir"], turned["agent_dir"]
    assert x0 * y1 - y0 * x1 > 0.1
    assert observation["image"][3, 3:-3].mean() > observation["image"][-4, 3:-3].mean()


def test_ends_by_truncation_at_its_time_limit(maze: MemoryMaze) -> None:
    maze.reset(seed=2)
    ends = [maze.step(np.int64(0))[2:4] for _ in range(1000)]
    assert ends == [(False, False)] * 999 + [(False, True)]
    with pytest.raises(gym.error.ResetNeeded, match="call reset"):
        maze.step(np.int64(0))


@pytest.mark.parametrize(
    ("size", "steps", "cells", "balls"), [("5x5", 500, 5, 2), ("7x7", 500, 7, 2), ("15x15", 4000, 15, 6)]
)
def test_sizes(size: str, steps: int, cells: int, balls: int) -> None:
    spec = gym.spec(f"lssvwm/MemoryMaze-{size}-v0")
    assert spec.max_episode_steps == steps
    env = gym.make(spec, extra_obs=True, camera_resolution=80)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert observation["image"].shape == (80, 80, 3)
    assert observation["maze_layout"].shape == (cells, cells)
    assert observation["targets_pos"].shape == (balls, 2)
    env.close()


def test_processes_render_although_this_one_did(maze: MemoryMaze) -> None:
    expected = maze.reset(seed=4)[0]
    envs = make_vec(EnvConfig("lssvwm/MemoryMaze-9x9-v0", extra_obs=True), 2)
    frames, info = envs.reset(seed=3)
    np.testing.assert_array_equal(frames[1], expected["image"])
    np.testing.assert_array_equal(info["agent_pos"][1], expected["agent_pos"])
    envs.close()


def test_import_leaves_no_trace() -> None:
    program = """
import os, sys, gymnasium, envs
assert not {"mujoco", "dm_control", "memory_maze", "PIL"} & set(sys.modules)
before = set(gymnasium.registry)
os.environ.pop("MUJOCO_GL", None)
envs.MemoryMaze("9x9").close()
assert set(gymnasium.registry) == before
assert not [name for name in sys.modules if name == "gym" or name.startswith("gym.")]
assert os.environ["MUJOCO_GL"] in ("osmesa", "egl")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_missing_renderer_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    monkeypatch.delenv("MUJOCO_GL")
    with pytest.raises(InputError, match="apt-get install libosmesa6"):
        choose_renderer("the Memory Maze")
    monkeypatch.setenv("MUJOCO_GL", "egl")
    with pytest.raises(InputError, match=r"EGL .*libegl1"):
        choose_renderer("the Memory Maze")


def test_bad_input_is_named(maze: MemoryMaze) -> None:
    with pytest.raises(InputError, match="'10x10' does not exist: choose one of 5x5, 7x7"):
        MemoryMaze("10x10")
    with pytest.raises(InputError, match="render mode 'human'"):
        MemoryMaze(render_mode="human")
    with pytest.raises(InputError, match=r"camera_resolution 63: give .* 64 or more, and EnvConfig\.size"):
        MemoryMaze(camera_resolution=63)
    maze.reset()
    with pytest.raises(gym.error.InvalidAction, match=r"0\.\.5, got -1"):
        maze.step(np.int64(-1))
