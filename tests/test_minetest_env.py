"""The Minetest worlds, played for real: Gymnasium's contract, seeds, a killed engine, and what each task pays for."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import lssvwm.envs.minecraft.registration  # noqa: F401 (registers the ids)
from lssvwm.agents.policies.baselines import RandomPolicy
from lssvwm.agents.policies.minetest import NEED_EXTRAS, SCRIPTED
from lssvwm.envs.factory import EnvConfig, make_vec
from lssvwm.envs.minecraft.actions import action_set
from lssvwm.envs.minecraft.minetest.env import MinetestEnv
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import Episode
from vector_play import play

pytestmark = pytest.mark.filterwarnings("error:Minetest is restarted")


@pytest.fixture(scope="module")
def treechop() -> Iterator[MinetestEnv]:
    env = MinetestEnv("treechop", extra_obs=True, render_mode="rgb_array")
    yield env
    env.close()


def play_scripted(task: str, steps: int, *, seeds: tuple[int, ...] = (1,), chance: bool = False) -> list[Episode]:
    """Episodes of the scripted policy, and after them, with `chance`, as many of random actions."""
    name = f"lssvwm/Minetest-{task}-v0"
    rows = make_vec(EnvConfig(name, extra_obs=True, max_episode_steps=steps), 1, processes=False)
    count = int(cast("gym.spaces.Discrete", rows.single_action_space).n)
    keys = cast("Any", rows).get_attr("extra_keys")[0]
    policies = [SCRIPTED[name](count), *([RandomPolicy(count)] if chance else [])]
    try:
        return [episode for policy in policies for episode in play(rows, policy, seeds, extra_keys=keys)]
    finally:
        rows.close()


def roll(env: MinetestEnv, seed: int, steps: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    observations = [env.reset(seed=seed)[0]]
    for _ in range(steps):
        observations.append(env.step(random.integers(cast("gym.spaces.Discrete", env.action_space).n))[0])
    return observations


def same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    return all(np.array_equal(a[key], b[key]) for a, b in zip(one, other, strict=True) for key in a)


def test_passes_the_checker_of_gymnasium(treechop: MinetestEnv) -> None:
    check_env(treechop, skip_render_check=True)
    frame = treechop.render()
    assert frame is not None
    assert frame.shape == (64, 64, 3)


def test_an_episode_follows_from_its_seed(treechop: MinetestEnv) -> None:
    first = roll(treechop, 5, 60)
    assert not np.array_equal(treechop.reset(seed=6)[0]["image"], first[0]["image"])
    assert all(treechop.observation_space.contains(observation) for observation in first)
    place = [float(value) for value in first[0]["agent_pos"]]
    for _ in range(2):
        # Neither a hole nor a fall from before is in the next episode.
        assert treechop._engine is not None
        treechop._engine.command("teleport", pos=[place[0], place[1] + 15, place[2]])
        for action in (9, 8, 6, 9, 7):
            treechop.step(action)
        assert same(roll(treechop, 5, 60), first)


def test_what_lay_on_the_ground_goes_without_a_message_over_the_next_episode(treechop: MinetestEnv) -> None:
    first = treechop.reset(seed=8)[0]["image"]
    treechop.reset(seed=9)
    engine = treechop._engine
    assert engine is not None
    engine.step({"drop": 1})
    for _ in range(10):
        state = engine.step({}).state
    assert not state["inventory"]  # the axe lies before the player
    assert np.array_equal(treechop.reset(seed=8)[0]["image"], first)
    assert "ERROR" not in (engine._folder / "log").read_text()


def test_errors_of_the_engine_are_not_written_over_the_frames(treechop: MinetestEnv) -> None:
    first = treechop.reset(seed=8)[0]["image"]
    engine = treechop._engine
    assert engine is not None
    (engine._world / "command.json").write_text("no json")
    for _ in range(3):
        frame = engine.step({}).frame
    assert "ERROR" in (engine._folder / "log").read_text()
    assert np.array_equal(frame, first)


def test_an_engine_that_dies_truncates_the_episode_and_the_next_reset_starts_another(treechop: MinetestEnv) -> None:
    before = treechop.reset(seed=7)[0]
    last = treechop.step(0)[0]
    assert treechop._engine is not None
    killed = treechop._engine.pid
    os.kill(killed, signal.SIGKILL)
    observation, reward, terminated, truncated, info = treechop.step(1)
    assert same([observation], [last])
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert "ended" in info["error"]
    with pytest.raises(gym.error.ResetNeeded):
        treechop.step(0)
    assert same([treechop.reset(seed=7)[0]], [before])  # without a warning: it was known to have ended
    assert treechop._engine.pid != killed


def test_scripted_chops_and_chance_does_not() -> None:
    scripted, chance = play_scripted("Treechop", 160, chance=True)
    assert scripted.reward.sum() >= 3
    assert scripted.reward.sum() > chance.reward.sum() + 1
    assert scripted.extras["inventory"][-1].sum() == scripted.reward.sum()


def test_what_one_looked_away_from_is_unchanged() -> None:
    (episode,) = play_scripted("LookAway", 128)
    looks = episode.extras["agent_dir"].round(4)
    seen: dict[tuple[float, ...], np.ndarray[Any, Any]] = {}
    returned = 0
    for look, frame in zip(looks.tolist(), episode.image, strict=True):
        if tuple(look) in seen:
            assert np.array_equal(frame, seen[tuple(look)])
            returned += 1
        seen.setdefault(tuple(look), frame)
    assert returned > 50
    assert len({frame.tobytes() for frame in seen.values()}) == len(seen) > 10
    assert (episode.extras["agent_pos"] == episode.extras["agent_pos"][0]).all()


def test_the_way_back_leads_to_where_it_began() -> None:
    backwards = 0
    for episode in play_scripted("Retrace", 256, seeds=(1, 2, 3)):
        place, frames = episode.extras["agent_pos"], episode.image.astype(np.int64)
        distance = np.abs(place - place[0]).max(1)
        assert distance.max() > 3
        assert distance[-1] < 0.05
        # The engine tells places to a hundredth of a node, so equal ones may differ in a few pixels.
        assert np.abs(frames[-1] - frames[0]).mean() < 5
        assert np.abs(frames[distance.argmax()] - frames[0]).mean() > 20
        backwards += action_set("walk").index("back") in episode.action
    assert 0 < backwards < 3


def test_craft_pays_for_each_stage_in_order_and_ends_with_the_last() -> None:
    (episode,) = play_scripted("Craft", 700)
    assert episode.terminated[-1]
    assert (episode.reward[episode.reward != 0] == 1).all()
    assert episode.reward.sum() == episode.extras["stage"][-1] == 6
    assert (np.diff(episode.extras["stage"]) == episode.reward[1:]).all()


def test_explore_pays_for_new_ground() -> None:
    (episode,) = play_scripted("Explore", 120)
    assert episode.reward.sum() == episode.extras["visited"][-1] - 1
    assert episode.reward.sum() >= 2


def test_dictionary_actions_walk_turn_and_craft() -> None:
    env = MinetestEnv("craft", actions="dict", extra_obs=True, size=(96, 64))
    start = env.reset(seed=1)[0]
    assert start["image"].shape == (64, 96, 3)
    nothing = {key: np.zeros_like(value) for key, value in env.action_space.sample().items()}
    for craft in range(1, 5):
        after, reward, *_ = env.step({**nothing, "craft": np.int64(craft)})
        assert reward == after["inventory"].sum() == 0  # from nothing
    for _ in range(8):
        after = env.step({**nothing, "back": np.int64(1), "camera": np.array([3.0, -5.0], np.float32)})[0]
    assert np.hypot(*(after["agent_pos"] - start["agent_pos"])[[0, 2]]) > 0.5
    (x0, y0, z0), (x1, y1, z1) = start["agent_dir"], after["agent_dir"]
    turned = np.rad2deg(np.arctan2(x1, z1) - np.arctan2(x0, z0))
    assert (turned + 180) % 360 - 180 == pytest.approx(-40, abs=0.1)
    assert np.rad2deg(np.arcsin(y0) - np.arcsin(y1)) == pytest.approx(24, abs=0.1)  # down
    assert np.linalg.norm(after["agent_dir"]) == pytest.approx(1)
    with pytest.raises(gym.error.InvalidAction):
        env.step({"forward": 1})
    env.close()


def test_two_processes_play_as_one_does() -> None:
    config = EnvConfig("lssvwm/Minetest-LookAway-v0", max_episode_steps=10)
    rows = cast("Any", make_vec(config, 2))
    try:
        frames, _ = rows.reset(seed=[3, 4])
        frames, *_ = rows.step(np.array([1, 1]))
    finally:
        rows.close()
    alone = MinetestEnv("lookaway")
    for row, seed in enumerate((3, 4)):
        alone.reset(seed=seed)
        assert np.array_equal(alone.step(1)[0], frames[row])
    alone.close()


def test_scripted_policies_say_what_they_lack() -> None:
    for name in NEED_EXTRAS:
        env = gym.make(name)
        policy = SCRIPTED[name](int(cast("gym.spaces.Discrete", env.action_space).n))
        policy.reset(np.array([0]), np.array([0]))
        with pytest.raises(InputError, match="extra_obs"):
            policy.act(np.zeros((1, 64, 64, 3), np.uint8), {})
        with pytest.raises(InputError, match="actions"):
            SCRIPTED[name](3)


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match="treechop"):
        MinetestEnv("treechopp")
    with pytest.raises(InputError, match="vpt"):
        MinetestEnv(actions="vtp")
    with pytest.raises(InputError, match="crafts nothing"):
        MinetestEnv("treechop", actions="craft")
    with pytest.raises(InputError, match="rgb_array"):
        MinetestEnv(render_mode="human")
