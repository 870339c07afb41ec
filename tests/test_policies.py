"""Random, scripted and oracle policies; the last two in the real Memory Maze."""

from __future__ import annotations

import numpy as np
import pytest

from lssvwm.agents.policies.baselines import RandomPolicy, make_policy, needs_map
from lssvwm.agents.policies.memory_maze import MazeOracle, ScriptedMazePolicy, shortest_path, wanted_ball
from lssvwm.agents.policies.minetest import Chopper, Onlooker
from lssvwm.agents.policies.mixture import named_collector
from lssvwm.envs.factory import EnvConfig, FrameVectorEnv, make_vec
from lssvwm.envs.policy import IntArray, Policy, Remembering
from lssvwm.worldmodel.common.errors import InputError

FRAMES = np.random.default_rng(0).integers(0, 256, (40, 3, 64, 64, 3), np.uint8)


def actions_of(policy: Policy, rows: list[int], seeds: list[int]) -> IntArray:
    """Actions (40, rows) of a policy that sees always the same frames."""
    policy.reset(np.arange(len(rows)), np.array(seeds))
    return np.stack([policy.act(frames[rows], {}) for frames in FRAMES])


@pytest.mark.parametrize("name", ["random", "scripted", "seeker"])
def test_a_row_depends_on_its_seed_and_frames_alone(name: str) -> None:
    together = actions_of(make_policy(name, 6), [0, 1, 2], [7, 8, 7])
    alone = actions_of(make_policy(name, 6), [1], [8])
    swapped = actions_of(make_policy(name, 6), [2, 1], [7, 8])
    np.testing.assert_array_equal(together[:, 1:2], alone)
    np.testing.assert_array_equal(together[:, [2, 1]], swapped)
    assert (together[:, 0] != together[:, 1]).any()
    assert together.dtype == np.int64


def test_the_seeker_turns_off_what_holds_it_and_nothing_else() -> None:
    frame = np.full((1, 64, 64, 3), 90, np.uint8)  # no sky: a wall is ahead; the border has no hue that a ball has not
    frame[:, 4:8] = 73, 110, 146
    frame[:, :2, :] = 200, 0, 0
    frame[:, 40:44, 31:33] = 200, 0, 0
    for done, held in ((1, True), (0, False)):
        policy = make_policy("seeker", 6)
        policy.reset(np.arange(1), np.array([3]))
        assert policy.act(frame, {}) == [1], "it goes to the ball ahead"
        assert isinstance(policy, Remembering)
        policy.took(np.array([done]))
        assert (policy.act(frame, {}) != [1]) == held
    frame[:, 40:44, 31:33], frame[:, 40:44, 6:8] = 90, (200, 0, 0)
    policy.reset(np.arange(1), np.array([3]))
    assert policy.act(frame, {}) == [2], "to the left"


def test_reset_of_a_row_leaves_the_others_alone() -> None:
    policy, undisturbed = RandomPolicy(5), RandomPolicy(5)
    for one in (policy, undisturbed):
        one.reset(np.arange(3), np.array([1, 2, 3]))
    policy.act(FRAMES[0], {})
    undisturbed.act(FRAMES[0], {})
    policy.reset(np.array([1]), np.array([1]))
    after = np.stack([policy.act(FRAMES[0], {}) for _ in range(20)])
    expected = np.stack([undisturbed.act(FRAMES[0], {}) for _ in range(20)])
    np.testing.assert_array_equal(after[:, [0, 2]], expected[:, [0, 2]])
    assert (after[:, 1] != expected[:, 1]).any()


def test_random_uses_every_action() -> None:
    actions = actions_of(RandomPolicy(3), [0, 1, 2], [0, 1, 2])
    assert set(actions.flat) == {0, 1, 2}


def test_shortest_path() -> None:
    layout = np.array([[1, 1, 1], [1, 0, 0], [1, 1, 1]], np.uint8)
    around = [(2, 2), (1, 2), (0, 2), (0, 1), (0, 0), (1, 0), (2, 0)]
    assert shortest_path(layout, (2, 2), (2, 0)) == around
    assert shortest_path(layout, (1, 0), (1, 0)) == [(1, 0)]
    layout[1, 0] = 0
    assert shortest_path(layout, (2, 2), (2, 0)) == []


def test_what_cannot_be_played_is_named() -> None:
    with pytest.raises(InputError, match="no policy 'clever': choose one of random, scripted, seeker, oracle"):
        make_policy("clever", 6)
    for name in ("scripted", "seeker", "oracle"):
        with pytest.raises(InputError, match=f"'{name}' does not play ale_py:ALE/Pong-v5: choose random"):
            make_policy(name, 6, "ale_py:ALE/Pong-v5")
        with pytest.raises(InputError, match=f"^the policy '{name}' does not play CartPole-v1: choose random"):
            named_collector(name, EnvConfig("CartPole-v1"), "--collector")
        with pytest.raises(InputError, match=f"'{name}' plays the 6 actions of the Memory Maze.*has 3"):
            make_policy(name, 3)
    with pytest.raises(InputError, match=r"'agent_pos'.*extra_obs=True"):
        MazeOracle().act(FRAMES[0], {})


def test_the_scripted_policy_is_that_of_the_world() -> None:
    assert isinstance(make_policy("scripted", 10, "lssvwm/Minetest-Treechop-v0"), Chopper)
    assert isinstance(make_policy("scripted", 5, "lssvwm:lssvwm/Minetest-LookAway-v0"), Onlooker)
    assert needs_map("scripted", "lssvwm/Minetest-Treechop-v0")
    assert not needs_map("scripted", "lssvwm/Minetest-LookAway-v0")
    assert not needs_map("random", "lssvwm/Minetest-Treechop-v0")
    assert needs_map("scripted", "MiniGrid-MemoryS7-v0")
    assert not needs_map("scripted", "lssvwm/MemoryMaze-9x9-v0")
    assert needs_map("oracle", "lssvwm/MemoryMaze-9x9-v0")
    with pytest.raises(InputError, match="10 actions of the set 'treechop', this environment has 6"):
        make_policy("scripted", 6, "lssvwm/Minetest-Treechop-v0")


def explore(envs: FrameVectorEnv, policy: Policy, steps: int) -> tuple[float, int]:
    """Total reward of both rows, and how many cells they entered."""
    frames, info = envs.reset(seed=11)
    policy.reset(np.arange(2), np.array([1, 2]))
    total, cells = 0.0, set()
    for _ in range(steps):
        frames, rewards, _, _, info = envs.step(policy.act(frames, info))
        total += float(rewards.sum())
        cells |= {(row, int(x), int(y)) for row, (x, y) in enumerate(info["agent_pos"])}
    return total, len(cells)


def test_in_the_real_maze() -> None:
    envs = make_vec(EnvConfig("lssvwm/MemoryMaze-9x9-v0", extra_obs=True), 2)
    oracle_reward, _ = explore(envs, MazeOracle(), 180)
    _, scripted_cells = explore(envs, ScriptedMazePolicy(), 180)
    random_reward, random_cells = explore(envs, RandomPolicy(6), 180)
    envs.close()
    assert oracle_reward >= 4
    assert oracle_reward > 2 * random_reward
    assert scripted_cells > 2 * random_cells


def test_the_wanted_ball_is_seen_where_it_is() -> None:
    envs, oracle = make_vec(EnvConfig("lssvwm/MemoryMaze-7x7-v0", extra_obs=True), 4), MazeOracle()
    frames, info = envs.reset(seed=5)
    oracle.reset(np.arange(4), np.arange(4))
    near: list[tuple[float, float | None]] = []
    behind: list[float | None] = []
    for _ in range(100):
        for row, frame in enumerate(frames):
            way, (x, y) = info["target_pos"][row] - info["agent_pos"][row], info["agent_dir"][row]
            angle, distance = np.arctan2(x * way[1] - y * way[0], way @ (x, y)), np.hypot(*way)
            if abs(angle) < 0.5 and 0.5 < distance < 1.0:  # nothing fits between
                near.append((angle, wanted_ball(frame)))
            if abs(angle) > 2.0:
                behind.append(wanted_ball(frame))
        frames, _, _, _, info = envs.step(oracle.act(frames, info))
    envs.close()
    seen = np.array([(angle, aside) for angle, aside in near if aside is not None])
    assert len(near) > 10 < len(behind)
    assert len(seen) > 0.9 * len(near)
    # To the left is positive as an angle and negative in the frame; corners hide parts of some balls.
    assert np.mean(np.abs(seen[:, 1] + 1.5 * seen[:, 0]) < 0.2) > 0.75
    assert np.mean([aside is None for aside in behind]) > 0.9
