"""One `make` for real environments: MiniGrid, and small image worlds for the shapes that MiniGrid has not."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from lssvwm.envs.factory import EnvConfig, make, make_vec
from lssvwm.worldmodel.common.errors import InputError, MissingExtraError

MEMORY = EnvConfig("MiniGrid-MemoryS7-v0", actions=(0, 1, 2))


class Painter(gym.Env[Any, Any]):
    """Shows its step count as color; observation and action space as asked for."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.steps = 0

    def _observe(self) -> Any:
        if not isinstance(self.observation_space, spaces.Dict):
            assert self.observation_space.shape is not None
            return np.full(self.observation_space.shape, self.steps, self.observation_space.dtype)
        frame = np.zeros((4, 6, 3), np.uint8)
        frame[:, :3] = self.steps
        return {"image": frame, "speed": np.array([self.steps, 0.5]), "count": self.steps, "text": "hello"}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._observe(), float(action), self.steps == 3, False, {"seen": int(action)}


FRAME = spaces.Box(0, 255, (4, 6, 3), np.uint8)
WORLDS = {
    "test/Rich-v0": (
        spaces.Dict(image=FRAME, speed=spaces.Box(-9, 9, (2,)), count=spaces.Discrete(9), text=spaces.Text(9)),
        spaces.Discrete(3, start=5),
    ),
    "test/Plain-v0": (FRAME, spaces.Discrete(4)),
    "test/Numbers-v0": (spaces.Box(-1, 1, (4,)), spaces.Discrete(2)),
    "test/Blind-v0": (spaces.Dict(speed=spaces.Box(-9, 9, (2,))), spaces.Discrete(2)),
    "test/Endless-v0": (FRAME, spaces.Box(-np.inf, 1, (2,))),
    "test/Words-v0": (FRAME, spaces.Text(3)),
    "test/Steering-v0": (FRAME, spaces.Box(-1, 1, (2,))),
    "test/Late-v0": (FRAME, spaces.Dict({"gear": spaces.Discrete(3, start=1)})),
}


@pytest.fixture(autouse=True, scope="module")
def _registered() -> Any:
    for name, (observation, action) in WORLDS.items():
        gym.register(name, Painter, kwargs={"observation_space": observation, "action_space": action})
    yield
    for name in WORLDS:
        del gym.registry[name]


def test_minigrid_shows_the_view_in_front_of_the_agent() -> None:
    env = make(MEMORY)
    assert env.observation_space == spaces.Box(0, 255, (56, 56, 3), np.uint8)
    assert env.action_space == spaces.Discrete(3)
    frame, info = env.reset(seed=1)
    assert env.get_wrapper_attr("extra_keys") == ("direction", "mission")
    assert info["direction"].shape == ()
    assert info["mission"] == "go to the matching object at the end of the hallway"
    # Turning left four times shows four different views and then the first again.
    views = [frame, *(env.step(np.int64(0))[0] for _ in range(4))]
    assert (views[4] == views[0]).all()
    assert all((views[i] != views[0]).any() for i in (1, 2, 3))
    env.close()


def test_minigrid_renders() -> None:
    env = make(MEMORY, render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    assert isinstance(picture, np.ndarray)
    assert picture.shape[2] == 3
    env.close()


def test_shrinking_takes_the_mean_and_growing_repeats_pixels() -> None:
    full, half, double = (make(EnvConfig(MEMORY.id, size=size)) for size in (None, 28, 112))
    frame, small, large = (env.reset(seed=4)[0] for env in (full, half, double))
    mean = frame.reshape(28, 2, 28, 2, 3).mean((1, 3))
    assert np.abs(small - mean).max() <= 1  # rows and columns are rounded one after the other
    assert (large == frame.repeat(2, 0).repeat(2, 1)).all()
    assert half.observation_space.shape == (28, 28, 3)


def test_numbers_move_into_info_and_actions_are_renumbered() -> None:
    env = make(EnvConfig("test/Rich-v0", actions=(2, 0)))
    frame, info = env.reset(seed=0)
    assert env.get_wrapper_attr("extra_keys") == ("count", "speed", "text")
    assert frame.shape == (4, 6, 3)
    frame, reward, _, _, info = env.step(np.int64(0))
    assert (reward, info["seen"]) == (7.0, 7)  # the third of the actions 5, 6, 7
    assert frame[0, 0, 0] == 1
    assert info["count"].dtype == np.int64
    assert info["count"] == 1
    assert info["speed"].dtype == np.float32
    np.testing.assert_array_equal(info["speed"], [1, 0.5])
    assert info["text"] == "hello"
    assert env.step(np.int64(1))[1] == 5.0


def test_wrapped_world_passes_the_checker_of_gymnasium() -> None:
    env = make(EnvConfig("test/Rich-v0", size=8, actions=(1, 2)))
    with pytest.warns(UserWarning, match="different from the unwrapped version"):
        check_env(env, skip_render_check=True)


def test_max_episode_steps_truncates() -> None:
    env = make(EnvConfig("test/Plain-v0", max_episode_steps=2))
    env.reset()
    assert env.step(np.int64(0))[2:4] == (False, False)
    assert env.step(np.int64(0))[2:4] == (False, True)


@pytest.mark.parametrize("processes", [False, True])
def test_partial_reset_touches_only_its_rows(processes: bool) -> None:
    envs = make_vec(EnvConfig("test/Rich-v0"), 2, processes=processes)
    frames, info = envs.reset(seed=3)
    assert frames.shape == (2, 4, 6, 3)
    assert envs.metadata["autoreset_mode"] is gym.vector.AutoresetMode.DISABLED
    first = frames.copy()
    for _ in range(2):
        frames, _, _, _, info = envs.step(np.array([0, 1]))
    assert (first == 0).all()  # frames given out earlier stay as they were
    options = {"reset_mask": np.array([True, False])}
    frames, info = envs.reset(options=options)
    assert frames[:, 0, 0, 0].tolist() == [0, 2]
    assert info["count"].tolist() == [0, 2]
    assert info["_count"].all()
    assert info["_seen"].tolist() == [False, True]
    assert list(options) == ["reset_mask"]
    assert envs.step(np.array([0, 1]))[2].tolist() == [False, True]
    envs.close()


def test_processes_play_as_this_process_does() -> None:
    results = []
    for processes in (False, True):
        envs = make_vec(MEMORY, 2, processes=processes)
        frames, info = envs.reset(seed=7)
        seen = [frames, info["direction"]]
        for action in (2, 0, 1, 2):
            frames, _, _, _, info = envs.step(np.array([action, 2 - action]))
            seen += [frames, info["direction"]]
        results.append(seen)
        envs.close()
    for here, there in zip(*results, strict=True):
        np.testing.assert_array_equal(here, there)


@pytest.mark.parametrize("mode", [AutoresetMode.DISABLED, AutoresetMode.NEXT_STEP])
def test_workers_outlive_the_interrupt_of_their_parent(mode: AutoresetMode) -> None:
    envs = make_vec(EnvConfig("test/Plain-v0"), 2, autoreset_mode=mode)
    assert isinstance(envs, AsyncVectorEnv)
    envs.reset(seed=0)
    for process in envs.processes:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGINT)
    assert envs.step(np.array([1, 2]))[1].tolist() == [1.0, 2.0]
    envs.close()


def test_config_survives_json() -> None:
    config = EnvConfig("a/B-v0", size=32, actions=(3, 1), extra_obs=True, max_episode_steps=9, options='{"x": 1}')
    for one in (config, EnvConfig("a/B-v0")):
        assert EnvConfig.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_options_reach_the_environment() -> None:
    wide = make(EnvConfig(MEMORY.id, options='{"agent_view_size": 9}'))
    assert wide.observation_space.shape == (72, 72, 3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (EnvConfig("MiniGrid-MemoryS8-v0"), "unknown environment id 'MiniGrid-MemoryS8-v0'.*MiniGrid-MemoryS7-v0"),
        (EnvConfig("lssvwm/MemoryMaze-9x8-v0"), "lssvwm/MemoryMaze-9x9-v0"),
        (EnvConfig("no_such_module:World-v0"), "names the module 'no_such_module'"),
        (EnvConfig("qqqqqq"), "write 'module:id'"),
        (EnvConfig("test/Numbers-v0"), "no image with values from 0 to 1 or to 255"),
        (EnvConfig("test/Blind-v0"), r"observes \{'speed': Box.*no image"),
        (EnvConfig("test/Endless-v0"), r"test/Endless-v0 has actions in Box.* finite bounds.*TransformAction"),
        (EnvConfig("test/Words-v0"), "Discrete, Box, MultiDiscrete, MultiBinary and a Dict of these are supported"),
        (EnvConfig("test/Steering-v0", actions=(0, 1)), r"Box.*actions=\(0, 1\) chooses among discrete ones"),
        (EnvConfig("test/Late-v0"), r"has under 'gear' actions that begin at 1"),
        (EnvConfig("test/Plain-v0", actions=(0, 4)), r"has actions 0\.\.3"),
        (EnvConfig("test/Plain-v0", extra_obs=True), "no extra observations"),
        (EnvConfig("MiniGrid-MemoryS7-v0", options='{"colour": 1}'), "cannot be made with the options"),
    ],
)
def test_what_cannot_be_used_is_named(config: EnvConfig, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(config)


@pytest.mark.parametrize(
    "values",
    [
        {"size": 0},
        {"max_episode_steps": 0},
        {"actions": ()},
        {"actions": (1, 1)},
        {"options": "{'single': 1}"},
        {"options": "[1]"},
        {"options": "[" * 100_000},
        {"colour": 1},
        {"size": "84"},
        {"size": [1.5, 2]},
        {"actions": ["a"]},
        {"every": "2"},
        {"options": 5},
        {"layouts": 7},
        {"image_key": 4},
    ],
)
def test_config_refuses_nonsense(values: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(values))):
        EnvConfig.from_dict({"id": "a/B-v0", **values})


@pytest.mark.parametrize("values", [5, None, ["id"], "id"])
def test_a_config_that_is_no_object_is_refused(values: Any) -> None:
    """As a checkpoint of unknown origin may name it."""
    with pytest.raises(InputError, match=r"environment config is .*give an object"):
        EnvConfig.from_dict(values)


def test_no_rows_are_refused() -> None:
    with pytest.raises(InputError, match="at least 1"):
        make_vec(MEMORY, 0)


def test_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minigrid", None)  # what Python itself does to forbid an import
    with pytest.raises(MissingExtraError, match=r"lssvwm\[minigrid\]"):
        make(MEMORY)


@pytest.mark.parametrize("env_id", ["MiniGrid-MemoryS7-v0", "lssvwm/MiniGrid-Carpet-v0"])
def test_minigrid_tells_where_the_agent_stands(env_id: str) -> None:
    """Before and after walking: positions move by the heading, and only then."""
    env = make(EnvConfig(env_id, actions=(0, 1, 2), extra_obs=True))
    world: Any = env.unwrapped
    _, before = env.reset(seed=3)
    moved = turned = 0
    for action in np.random.default_rng(0).integers(3, size=60):
        free = world.grid.get(*world.front_pos)
        _, _, terminated, truncated, info = env.step(action)
        step = info["agent_pos"] - before["agent_pos"]
        walks = action == 2 and (free is None or free.can_overlap())
        assert np.array_equal(step, before["agent_dir"] if walks else [0, 0])
        assert abs(float(info["agent_dir"] @ before["agent_dir"])) == (0 if action < 2 else 1)
        assert tuple(info["agent_pos"]) == tuple(world.agent_pos)
        assert np.array_equal(info["cells"] == 2, world.grid.encode()[..., 0] == 2)  # MiniGrid's code of a wall
        moved, turned, before = moved + walks, turned + (action < 2), info
        if terminated or truncated:
            _, before = env.reset()
    assert moved > 3
    assert turned > 10


def test_a_carpet_follows_from_its_seed() -> None:
    """Six colors, everywhere but on the wall, others for another seed; the agent may stand anywhere."""
    env = make(EnvConfig("lssvwm/MiniGrid-Carpet-v0"))
    world: Any = env.unwrapped

    def carpet(seed: int) -> Any:
        env.reset(seed=seed)
        return world.grid.encode()[1:-1, 1:-1, 1]

    assert np.array_equal(carpet(0), carpet(0))
    assert (carpet(0) != carpet(1)).mean() > 0.7
    assert set(np.concatenate([carpet(seed).ravel() for seed in range(5)])) == set(range(6))
    starts = set()
    for seed in range(60):
        env.reset(seed=seed)
        starts.add(tuple(world.agent_pos))
    assert len(starts) > 20
    assert min(min(start) for start in starts) == 1
    assert max(max(start) for start in starts) == 6
