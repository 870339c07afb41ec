"""Worlds that other packages bring and that are wrapped here; each is tried where its package is installed."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from lssvwm.envs.factory import EnvConfig, make
from lssvwm.worldmodel.common.errors import InputError

WRAPPED = {"lssvwm/Crafter-v0": "crafter", "lssvwm/Control-cartpole-swingup-v0": "dm_control"}
OPTIONS: dict[str, dict[str, Any]] = {"lssvwm/Crafter-v0": {"area": 24}, "lssvwm/Control-cartpole-swingup-v0": {}}


@pytest.fixture(params=WRAPPED)
def world(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(WRAPPED[request.param])
    name: str = request.param
    return name


def played(name: str, steps: int, seed: int) -> tuple[list[Any], list[float]]:
    env = gym.make(name, extra_obs=True, **OPTIONS[name])
    env.action_space.seed(0)
    seen, rewards = [env.reset(seed=seed)[0]], []
    for _ in range(steps):
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        seen.append(observation)
        rewards.append(float(reward))
        if terminated or truncated:
            break
    env.close()
    return seen, rewards


def test_worlds_pass_the_checker_of_gymnasium(world: str) -> None:
    env = gym.make(world, extra_obs=True, **OPTIONS[world]).unwrapped
    check_env(env, skip_render_check=True)
    env.close()


def test_everything_follows_from_the_seed(world: str) -> None:
    steps = 30 if "Crafter" in world else 4
    first, again, other = (played(world, steps, seed) for seed in (3, 3, 4))
    assert first[1] == again[1]
    assert all((a["image"] == b["image"]).all() for a, b in zip(first[0], again[0], strict=True))
    assert (first[0][0]["image"] != other[0][0]["image"]).any()


def test_it_has_to_be_reset_and_told_what_to_do(world: str) -> None:
    env = gym.make(world, render_mode="rgb_array", **OPTIONS[world]).unwrapped
    with pytest.raises(gym.error.ResetNeeded):
        env.step(env.action_space.sample())
    frame, _ = env.reset(seed=0)
    assert np.array_equal(env.render(), frame)  # type: ignore[arg-type]
    with pytest.raises(gym.error.InvalidAction):
        env.step(np.full(3, 99.0))
    with pytest.raises(InputError, match="no render mode 'ansi'"):
        gym.make(world, render_mode="ansi")
    env.close()


def test_creatures_of_crafter_are_met_in_one_order() -> None:
    """They lie in sets, which Python orders by where objects lie in memory."""
    pytest.importorskip("crafter")
    world: Any = gym.make("lssvwm/Crafter-v0", area=48).unwrapped
    world.reset(seed=0)
    met: list[Any] = []
    world._world._balance_object = lambda chunk, creatures, *rest: met.append(creatures)
    for chunk, creatures in world._world._world.chunks.items():
        world._world._balance_chunk(chunk, creatures)
    places = [[tuple(creature.pos) for creature in creatures] for creatures in met]
    assert max(map(len, places)) > 1
    assert all(each == sorted(each) for each in places)


def test_crafter_tells_what_is_there() -> None:
    pytest.importorskip("crafter")
    env = make(EnvConfig("lssvwm/Crafter-v0", extra_obs=True, options='{"area": 24}'))
    assert env.get_wrapper_attr("extra_keys") == ("achievements", "agent_pos", "cells", "inventory")
    _, info = env.reset(seed=1)
    assert info["inventory"][:5].tolist() == [9, 9, 9, 9, 0]  # health, food, drink, energy, and no sapling
    assert info["agent_pos"].tolist() == [12, 12]
    assert info["achievements"].sum() == 0


def test_a_task_that_the_suite_has_not() -> None:
    pytest.importorskip("dm_control")
    with pytest.raises(InputError, match="no task cartpole-jump: choose one of balance"):
        gym.make("lssvwm/Control-cartpole-swingup-v0", task="jump")


def test_frames_of_the_suite_are_arrays_that_torch_takes() -> None:
    pytest.importorskip("dm_control")
    env = gym.make("lssvwm/Control-cartpole-swingup-v0", render_mode="rgb_array", disable_env_checker=True).unwrapped
    with pytest.raises(gym.error.ResetNeeded):
        env.render()
    frame, _ = env.reset(seed=1)
    assert torch.equal(torch.from_numpy(frame), torch.from_numpy(env.render()))


def test_actions_of_the_suite_are_held() -> None:
    pytest.importorskip("dm_control")
    held, single = (gym.make("lssvwm/Control-cartpole-swingup-v0", repeat=repeat, extra_obs=True) for repeat in (2, 1))
    for env in (held, single):
        env.reset(seed=2)
    action = np.array([0.5], np.float32)
    state, reward, _, _, _ = held.step(action)
    rewards = [single.step(action) for _ in range(2)]
    np.testing.assert_array_equal(state["state"]["position"], rewards[1][0]["state"]["position"])
    assert reward == pytest.approx(sum(float(each[1]) for each in rewards))
    assert (held.unwrapped.metadata["render_fps"], single.unwrapped.metadata["render_fps"]) == (50, 100)
