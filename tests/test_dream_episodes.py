"""When dreams begin and end, in all autoreset modes; what a row dreams depends on its seed and actions alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from packaging.version import Version

from dreams import ALWAYS, ID, MODES, NEVER, actions_of, certain, dream_folder, roll, vec
from lssvwm.envs.dream import DreamVectorEnv
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import EpisodeStore


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dream_folder(tmp_path_factory.mktemp("run"))


def test_next_step_resets_in_the_step_after_and_ignores_its_action(folder: Path) -> None:
    runs = []
    for ignored in (0, 2):
        env = vec(folder, max_episode_steps=2, terminate="never")
        env.reset(seed=0)
        env.step([0, 1, 2])
        assert env.step([1, 1, 1])[3].tolist() == [True] * 3
        frames, rewards, terminated, truncated, info = env.step([ignored] * 3)
        assert rewards.tolist() == [0.0] * 3
        assert not terminated.any()
        assert not truncated.any()
        assert not info["_termination_probability"].any()
        runs.append((frames, env.step([2, 0, 1])[0]))
        assert env.step([0, 0, 0])[3].all()
    assert np.array_equal(runs[0][0], runs[1][0])
    assert np.array_equal(runs[0][1], runs[1][1])


def context_frames(folder: Path) -> set[bytes]:
    store = EpisodeStore(folder / "episodes")
    return {frame.tobytes() for name in store.names for frame in store.read(name).image}


@pytest.mark.parametrize("mode", MODES)
def test_a_dream_begins_with_a_real_frame(folder: Path, mode: AutoresetMode) -> None:
    env, real = vec(folder, autoreset_mode=mode, max_episode_steps=1), context_frames(folder)
    frames, _ = env.reset(seed=0)
    assert all(frame.tobytes() in real for frame in frames)
    frames, *_ = env.step([0, 0, 0])
    if mode is AutoresetMode.NEXT_STEP:
        frames, *_ = env.step([0, 0, 0])
    if mode is AutoresetMode.DISABLED:
        assert not any(frame.tobytes() in real for frame in frames)
        frames, _ = env.reset(options={"reset_mask": np.ones(3, bool)})
    assert all(frame.tobytes() in real for frame in frames)


def test_a_dream_continues_the_context_that_its_seed_draws(folder: Path) -> None:
    """Its first observation is the last real frame; all of them, with their actions, are in memory."""
    env, store = vec(folder), EpisodeStore(folder / "episodes")
    frames, _ = env.reset(seed=30)
    for row in range(3):
        clip = store.sample_contexts(1, 3, np.random.default_rng(30 + row))
        assert np.array_equal(frames[row], clip.frames[0, -1].numpy())
        with torch.no_grad():
            _, memory = env.model.observe(clip.frames, clip.actions)
        for name, tensor in env._dreams.memory.select(torch.tensor([row])).state_dict().items():
            torch.testing.assert_close(tensor, memory.state_dict()[name], rtol=1e-4, atol=1e-4)


def test_same_step_hands_over_the_last_frame_and_the_next_first_one(folder: Path) -> None:
    settings: dict[str, Any] = {"max_episode_steps": 2, "terminate": "never"}
    same = vec(folder, autoreset_mode=AutoresetMode.SAME_STEP, **settings)
    after = vec(folder, autoreset_mode=AutoresetMode.NEXT_STEP, **settings)
    same.reset(seed=0)
    after.reset(seed=0)
    info = same.step([0, 1, 2])[4]
    assert "final_obs" not in info
    assert "final_info" not in info
    after.step([0, 1, 2])
    frames, rewards, _, truncated, info = same.step([1, 1, 1])
    last, last_rewards, _, last_truncated, last_info = after.step([1, 1, 1])
    assert truncated.all()
    assert last_truncated.all()
    assert np.array_equal(rewards, last_rewards)
    assert info["final_obs"].dtype == object
    assert np.array_equal(np.stack(info["final_obs"]), last)
    assert info["_final_obs"].tolist() == info["_final_info"].tolist() == [True] * 3
    assert np.array_equal(info["final_info"]["termination_probability"], last_info["termination_probability"])
    assert np.array_equal(frames, after.step([0, 0, 0])[0])
    # The step that only resets uses no random numbers: both go on alike.
    assert np.array_equal(same.step([2, 0, 1])[0], after.step([2, 0, 1])[0])


def test_same_step_marks_only_the_rows_that_ended(folder: Path) -> None:
    env = vec(folder, rows=16, autoreset_mode="SameStep", max_episode_steps=50)
    env.reset(seed=0)
    partly = 0
    for action in actions_of(16, 12):
        frames, _, terminated, truncated, info = env.step(action)
        done = terminated | truncated
        if done.any():
            assert info["_final_obs"].tolist() == info["_final_info"].tolist() == done.tolist()
            assert [frame is not None for frame in info["final_obs"]] == done.tolist()
            assert all(not np.array_equal(info["final_obs"][row], frames[row]) for row in np.flatnonzero(done))
            partly += not done.all()
    assert partly


def test_disabled_wants_a_reset_of_finished_rows(folder: Path) -> None:
    env = vec(folder, autoreset_mode=AutoresetMode.DISABLED, max_episode_steps=2, terminate="never")
    env.reset(seed=0)
    env.step([0, 0, 0])
    env.reset(options={"reset_mask": np.array([False, True, False])})
    assert env.step([0, 0, 0])[3].tolist() == [True, False, True]
    with pytest.raises(gym.error.ResetNeeded, match=r"rows \[0, 2\] are finished"):
        env.step([0, 0, 0])
    mask = np.array([True, False, True])
    options = {"reset_mask": mask}
    env.reset(options=options)
    assert options["reset_mask"] is mask
    assert env.step([0, 0, 0])[3].tolist() == [False, True, False]


def test_step_before_reset_is_an_error(folder: Path) -> None:
    with pytest.raises(gym.error.ResetNeeded):
        vec(folder).step([0, 0, 0])
    with pytest.raises(gym.error.ResetNeeded):
        gym.make(ID, checkpoint=str(folder / "model")).unwrapped.step(0)


@pytest.mark.parametrize("mode", MODES)
def test_episode_statistics_are_right_in_every_mode(folder: Path, mode: AutoresetMode) -> None:
    """Against a count of our own; episodes end by draws from the head, so rows differ."""
    if mode is AutoresetMode.SAME_STEP and Version(gym.__version__) < Version("1.4"):
        pytest.skip("Gymnasium counts wrong there before 1.4 (its issue 1624)")
    rows = 6
    env = RecordEpisodeStatistics(vec(folder, rows, autoreset_mode=mode, max_episode_steps=5))
    env.reset(seed=0)
    length, total, fresh = np.zeros(rows, int), np.zeros(rows), np.zeros(rows, bool)
    finished, reported = [], []
    for action in actions_of(rows, 20):
        _, rewards, terminated, truncated, info = env.step(action)
        done = terminated | truncated
        length += ~fresh
        total += np.where(fresh, 0, rewards)
        fresh = done & (mode is AutoresetMode.NEXT_STEP)
        for row in np.flatnonzero(done):
            finished.append((length[row], total[row]))
            reported.append((info["episode"]["l"][row], info["episode"]["r"][row]))
        length[done], total[done] = 0, 0
        if done.any() and mode is AutoresetMode.DISABLED:
            env.reset(options={"reset_mask": done})
    np.testing.assert_allclose(reported, finished)
    assert len({length for length, _ in finished}) > 2
    assert max(length for length, _ in finished) == 5


def test_the_horizon_truncates(folder: Path) -> None:
    env = vec(folder, max_episode_steps=3, terminate="never")
    env.reset(seed=0)
    flags = [env.step([0, 0, 0])[2:4] for _ in range(7)]
    assert not any(terminated.any() for terminated, _ in flags)
    # Every fourth step only resets.
    assert [bool(truncated.all()) for _, truncated in flags] == [False, False, True, False, False, False, True]


def test_without_a_horizon_it_dreams_on(folder: Path) -> None:
    env = vec(folder, rows=2, max_episode_steps=None, terminate="never", steps=1)
    env.reset(seed=0)
    assert not any(env.step([0, 1])[3].any() for _ in range(70))


def test_make_sets_the_horizon_of_a_single_dream(folder: Path) -> None:
    env = gym.make(ID, checkpoint=str(folder / "model"), max_episode_steps=2, terminate="never")
    env.reset(seed=0)
    assert env.step(0)[2:4] == (False, False)
    assert env.step(0)[2:4] == (False, True)


@pytest.mark.parametrize(
    ("terminate", "logit", "expected"),
    [
        ("never", ALWAYS, False),
        ("threshold", ALWAYS, True),
        ("threshold", 0.1, True),
        ("threshold", -0.1, False),
        ("threshold", NEVER, False),
        ("sample", ALWAYS, True),
        ("sample", NEVER, False),
    ],
)
def test_the_head_terminates(folder: Path, terminate: Any, logit: float, expected: bool) -> None:
    env = DreamVectorEnv(
        3, checkpoint=certain(folder, logit), context_length=3, terminate=terminate, max_episode_steps=1
    )
    env.reset(seed=0)
    _, _, terminated, truncated, info = env.step([0, 1, 2])
    assert terminated.tolist() == [expected] * 3
    assert truncated.tolist() == [not expected] * 3  # never both
    assert info["termination_probability"] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)


def test_draws_end_dreams_as_often_as_the_head_says(folder: Path) -> None:
    env = DreamVectorEnv(200, checkpoint=certain(folder, -1.0), context_length=1, steps=1)
    env.reset(seed=0)
    share = env.step(np.zeros(200, int))[2].mean()
    assert share == pytest.approx(1 / (1 + np.exp(1.0)), abs=0.1)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_the_same_seed_is_the_same_dream(folder: Path, mode: AutoresetMode) -> None:
    env = vec(folder, autoreset_mode=mode, max_episode_steps=4)
    actions = actions_of(3, 9)
    frames, rewards = roll(env, 11, actions)
    for other in (env, vec(folder, autoreset_mode=mode, max_episode_steps=4)):
        torch.manual_seed(0)
        again, again_rewards = roll(other, 11, actions)
        assert np.array_equal(frames, again)
        assert np.array_equal(rewards, again_rewards)
    different, _ = roll(env, 500, actions)
    assert not np.array_equal(frames, different)
    continued, _ = roll(env, None, actions)
    assert not np.array_equal(different, continued)


def test_without_a_seed_dreams_differ(folder: Path) -> None:
    actions = actions_of(3, 2)
    one, two = roll(vec(folder), None, actions)[0], roll(vec(folder), None, actions)[0]
    assert not np.array_equal(one, two)
    assert len({frame.tobytes() for frame in one[1]}) == 3


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_a_row_among_others_dreams_what_it_dreams_alone(folder: Path, mode: AutoresetMode) -> None:
    """Row i of seed s is the dream of seed s + i, through the ends of episodes."""
    settings: dict[str, Any] = {"autoreset_mode": mode, "max_episode_steps": 4}
    actions = actions_of(4, 10)
    frames, rewards = roll(vec(folder, 4, **settings), 20, actions)
    for row in range(4):
        alone, alone_rewards = roll(vec(folder, 1, **settings), 20 + row, actions[:, row : row + 1])
        difference = np.abs(alone[:, 0].astype(int) - frames[:, row])
        assert difference.max() <= 1
        np.testing.assert_allclose(alone_rewards[:, 0], rewards[:, row], atol=1e-4)


def test_a_single_dream_is_row_zero(folder: Path) -> None:
    actions = actions_of(2, 4)
    settings: dict[str, Any] = {"terminate": "never", "context_length": 3}
    frames, rewards = roll(vec(folder, 2, **settings), 9, actions)
    env = gym.make(ID, checkpoint=str(folder / "model"), **settings)
    first, _ = env.reset(seed=9)
    assert np.array_equal(first, frames[0, 0])
    for time, action in enumerate(actions):
        frame, reward, *_ = env.step(action[0])
        assert np.abs(frame.astype(int) - frames[time + 1, 0]).max() <= 1
        assert reward == pytest.approx(rewards[time, 0], abs=1e-4)


def test_resetting_a_row_leaves_the_others_bit_for_bit(folder: Path) -> None:
    def play(reset: bool) -> Any:
        env = vec(folder, terminate="never", autoreset_mode=AutoresetMode.DISABLED)
        env.reset(seed=0)
        env.step([0, 1, 2])
        frames, _, _, _, _ = env.step([1, 1, 1])
        before = env._dreams.memory.clone()
        if reset:
            partly, _ = env.reset(options={"reset_mask": np.array([False, True, False])})
            others = torch.tensor([0, 2])
            assert np.array_equal(partly[others], frames[others])
            assert not np.array_equal(partly[1], frames[1])
            for name, tensor in before.state_dict().items():
                assert torch.equal(env._dreams.memory.state_dict()[name][others], tensor[others]), name
            assert env._dreams.memory.frames.tolist() == [5, 3, 5]
        return env.step([2, 2, 2])

    plain, partly = play(False), play(True)
    for index in (0, 1):
        assert np.array_equal(plain[index][[0, 2]], partly[index][[0, 2]])
    assert not np.array_equal(plain[0][1], partly[0][1])


def test_seeds_may_be_given_row_by_row(folder: Path) -> None:
    env, actions = vec(folder), actions_of(3, 2)
    one, _ = roll(env, 40, actions)
    for seeds in ([40, 41, 42], (40, 41, 42), np.array([40, 41, 42])):
        assert np.array_equal(one, roll(vec(folder), seeds, actions)[0])
    env.reset(seed=40)
    first, _ = env.reset(seed=[None, 41, None])
    assert np.array_equal(first[1], one[0, 1])
    for wrong in (1.5, [1, 2.5, 3], True, "abc", ["1", "2", "3"], object()):
        with pytest.raises(InputError, match="give a whole number, or one per row"):
            vec(folder).reset(seed=wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="2 seeds for 3 rows"):
        env.reset(seed=[1, 2])


@pytest.mark.parametrize("mask", [[True, False], [1, 0, 0], [False] * 3])
def test_a_reset_mask_must_fit(folder: Path, mask: Any) -> None:
    env = vec(folder)
    env.reset(seed=0)
    with pytest.raises(InputError, match=r"reset_mask must be bool \(3,\) with at least one True"):
        env.reset(options={"reset_mask": np.array(mask)})
