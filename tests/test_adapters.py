"""The dream in Stable-Baselines3: what a row returns, how it ends, what it answers, and that PPO trains in it."""

from __future__ import annotations

import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from sb3_contrib import RecurrentPPO
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.vec_env import VecMonitor

from dreams import certain, dream_folder, vec
from lssvwm.agents.adapters import for_stable_baselines
from lssvwm.agents.adapters.judging import Verdict, against_random
from lssvwm.envs.dream import DreamVectorEnv
from lssvwm.worldmodel.common.errors import InputError, MissingExtraError
from lssvwm.worldmodel.reporting.statistics import Interval


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dream_folder(tmp_path_factory.mktemp("dreams"))


def test_a_horizon_is_a_truncation_with_its_last_frame(folder: Path) -> None:
    options = {"autoreset_mode": "SameStep", "max_episode_steps": 2, "terminate": "never"}
    plain = vec(folder, **options)
    adapted = for_stable_baselines(vec(folder, **options))
    adapted.seed(5)
    assert np.array_equal(adapted.reset(), plain.reset(seed=5)[0])
    for step in range(4):
        actions = np.array([0, 1, 2])
        frames, rewards, _, _, info = plain.step(actions)
        seen, gained, dones, infos = adapted.step(actions)
        assert np.array_equal(seen, frames)
        assert gained.dtype == np.float32
        assert np.allclose(gained, rewards)
        assert dones.tolist() == [step % 2 == 1] * 3
        for row in range(3):
            assert infos[row]["TimeLimit.truncated"] == (step % 2 == 1)
            if step % 2:
                assert np.array_equal(infos[row]["terminal_observation"], info["final_obs"][row])


def test_an_end_is_no_truncation(folder: Path) -> None:
    dreams = DreamVectorEnv(
        2, checkpoint=certain(folder, 30.0), context_length=3, autoreset_mode="SameStep", max_episode_steps=1
    )
    adapted = for_stable_baselines(dreams)
    adapted.reset()
    _, _, dones, infos = adapted.step(np.zeros(2, np.int64))
    assert dones.all()
    assert not any(info["TimeLimit.truncated"] for info in infos)


def test_ppo_trains_in_the_dream(folder: Path) -> None:
    dreams = for_stable_baselines(vec(folder, 4, autoreset_mode="SameStep", max_episode_steps=5, terminate="never"))
    model = PPO("MlpPolicy", VecMonitor(dreams), n_steps=16, batch_size=32, n_epochs=2, seed=0, device="cpu")
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(128)
    assert model.num_timesteps == 128
    assert any(not a.equal(b) for a, b in zip(before, model.policy.parameters(), strict=True))
    assert [episode["l"] for episode in model.ep_info_buffer] == [5] * len(model.ep_info_buffer)
    assert len(model.ep_info_buffer) == 4 * (32 // 5)


def test_rewards_are_fresh_and_may_be_written_to(folder: Path) -> None:
    dreams = for_stable_baselines(vec(folder, autoreset_mode="SameStep", max_episode_steps=9))
    dreams.seed(3)
    kept, seen = dreams.reset(), []
    before = kept.copy()
    for _ in range(3):
        frames, rewards, _, _ = dreams.step(np.zeros(3, np.int64))
        seen.append((frames, rewards, frames.copy(), rewards.copy()))
        rewards += 5.0
    assert np.array_equal(kept, before)
    for frames, rewards, frames_then, rewards_then in seen:
        assert np.array_equal(frames, frames_then)
        assert np.array_equal(rewards, rewards_then + np.float32(5))


def test_both_observations_and_their_last_ones(folder: Path) -> None:
    options = {"autoreset_mode": "SameStep", "max_episode_steps": 1, "terminate": "never", "observation": "both"}
    plain, adapted = vec(folder, **options), for_stable_baselines(vec(folder, **options))
    plain.reset(seed=5)
    adapted.seed(5)
    begun = adapted.reset()
    assert set(begun) == set(adapted.observation_space.spaces) == {"frame", "features"}
    _, _, _, _, info = plain.step(np.zeros(3, np.int64))
    seen, _, dones, infos = adapted.step(np.zeros(3, np.int64))
    assert dones.all()
    for row in range(3):
        last = infos[row]["terminal_observation"]
        assert {key: value.shape for key, value in last.items()} == {"frame": (16, 8, 3), "features": (12,)}
        for key, value in last.items():
            assert np.array_equal(value, info["final_obs"][row][key])
            assert not np.array_equal(value, seen[key][row])


def test_numbers_in_infos_are_those_of_the_episode_that_ended(folder: Path) -> None:
    options = {"autoreset_mode": "SameStep", "max_episode_steps": 1, "terminate": "never", "context_info": True}
    plain, adapted = vec(folder, **options), for_stable_baselines(vec(folder, **options))
    plain.reset(seed=5)
    adapted.seed(5)
    adapted.reset()
    for row in range(3):
        assert adapted.reset_infos[row]["context_frames"].shape == (3, 16, 8, 3)
    _, _, _, _, info = plain.step(np.zeros(3, np.int64))
    _, _, _, infos = adapted.step(np.zeros(3, np.int64))
    for row in range(3):
        assert infos[row]["termination_probability"] == info["final_info"]["termination_probability"][row]
        assert "context_frames" not in infos[row]
        assert np.array_equal(adapted.reset_infos[row]["context_frames"], info["context_frames"][row])


def test_every_step_tells_what_the_dream_tells(folder: Path) -> None:
    options = {"autoreset_mode": "SameStep", "terminate": "never", "uncertainty": "heads"}
    plain, adapted = vec(folder, **options), for_stable_baselines(vec(folder, **options))
    plain.reset(seed=5)
    adapted.seed(5)
    adapted.reset()
    _, _, _, _, info = plain.step(np.zeros(3, np.int64))
    _, _, dones, infos = adapted.step(np.zeros(3, np.int64))
    assert not dones.any()
    for row in range(3):
        for key in ("uncertainty", "termination_probability"):
            assert infos[row][key] == info[key][row]


def test_a_seed_holds_for_one_reset(folder: Path) -> None:
    dreams = for_stable_baselines(vec(folder, autoreset_mode="SameStep"))

    def episode(seed: int | None) -> np.ndarray:
        if seed is not None:
            dreams.seed(seed)
        dreams.reset()
        return np.stack([dreams.step(np.ones(3, np.int64))[0] for _ in range(3)])

    first, second, again = episode(4), episode(None), episode(4)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)


def test_what_it_answers_of_its_rows(folder: Path) -> None:
    dreams = vec(folder, autoreset_mode="SameStep", render_mode="rgb_array")
    adapted = for_stable_baselines(gym.wrappers.vector.RecordEpisodeStatistics(dreams))
    frames = adapted.reset()
    assert np.array_equal(np.stack(adapted.get_images()), frames)
    assert adapted.render().shape[2] == 3
    assert adapted.get_attr("num_envs") == [3, 3, 3]
    assert adapted.get_attr("num_envs", [0, 2]) == [3, 3]
    assert adapted.has_attr("sampler")
    assert not adapted.has_attr("nonsense")
    assert len(adapted.env_method("render")) == 3
    adapted.set_attr("mark", 7)
    assert dreams.mark == 7
    assert adapted.env_is_wrapped(gym.wrappers.vector.RecordEpisodeStatistics) == [True] * 3
    assert adapted.env_is_wrapped(gym.wrappers.vector.NormalizeReward, 1) == [False]
    with pytest.raises(InputError, match=r"cannot set mark in rows \[0, 2\] alone"):
        adapted.set_attr("mark", 7, [0, 2])
    with pytest.raises(InputError, match=r"cannot call render\(\) in rows \[1\] alone"):
        adapted.env_method("render", indices=1)
    adapted.set_options([{"a": 1}, {}, {}])
    with pytest.raises(InputError, match="share their options"):
        adapted.reset()


def test_recurrent_ppo_and_dqn_train_in_the_dream(folder: Path) -> None:
    options = {"autoreset_mode": "SameStep", "max_episode_steps": 5, "observation": "features"}
    small = {"lstm_hidden_size": 8, "net_arch": [8]}
    dreams = for_stable_baselines(vec(folder, 4, **options))
    recurrent = RecurrentPPO("MlpLstmPolicy", dreams, n_steps=8, batch_size=16, n_epochs=1, policy_kwargs=small)
    assert recurrent.learn(64).num_timesteps == 64
    values = DQN("MlpPolicy", dreams, buffer_size=64, learning_starts=16, train_freq=1, policy_kwargs={"net_arch": [8]})
    assert values.learn(64).num_timesteps == 64
    assert values._n_updates == 12


def test_a_policy_is_judged_against_random_on_the_same_seeds(folder: Path) -> None:
    class Still:
        def predict(self, observation: np.ndarray, state: None = None, **options: object) -> tuple[np.ndarray, None]:
            return np.zeros(len(observation), np.int64), None

    dreams = vec(folder, autoreset_mode="SameStep", max_episode_steps=2, terminate="never")
    verdict = against_random(Still(), dreams, episodes=3, seed=7)
    plain = vec(folder, autoreset_mode="Disabled", max_episode_steps=2, terminate="never")
    plain.reset(seed=7)
    expected = sum(plain.step(np.zeros(3, np.int64))[1].astype(np.float32) for _ in range(2)).mean()
    assert verdict.policy.mean == pytest.approx(expected, abs=1e-5)
    assert verdict.policy.count == verdict.random.count == 3
    assert verdict.random.mean != verdict.policy.mean
    assert str(verdict).startswith(f"mean return of 3 episodes: policy {expected:.3f} [")


@pytest.mark.parametrize(
    ("policy", "random", "beats"), [((0.5, 0.4), (0.3, 0.35), True), ((0.5, 0.3), (0.3, 0.35), False)]
)
def test_beating_random_means_apart_from_it(
    policy: tuple[float, float], random: tuple[float, float], beats: bool
) -> None:
    (mean, low), (other, high) = policy, random
    assert Verdict(Interval(mean, low, 1.0, 9), Interval(other, 0.0, high, 9)).beats_random == beats
    assert not Verdict(Interval(0.0, 0.0, 0.1, 9), Interval(other, 0.2, high, 9)).beats_random


def test_other_modes_and_outputs_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"needs autoreset_mode='SameStep'.*NEXT_STEP"):
        for_stable_baselines(vec(folder))
    with pytest.raises(InputError, match=r"needs output='numpy'.*output='torch'"):
        for_stable_baselines(vec(folder, autoreset_mode="SameStep", output="torch"))


def test_the_missing_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lssvwm\[sb3\]'"):
        for_stable_baselines(vec(folder, autoreset_mode="SameStep"))
