"""The dream in Stable-Baselines3: what a row returns, how it ends, and that PPO trains in it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

from agents.adapters import for_stable_baselines
from dreams import certain, dream_folder, vec
from envs.dream import DreamVectorEnv
from worldmodel.errors import InputError, MissingExtraError


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


def test_other_autoreset_modes_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"needs autoreset_mode='SameStep'.*NEXT_STEP"):
        for_stable_baselines(vec(folder))


def test_the_missing_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lssvwm\[sb3\]'"):
        for_stable_baselines(vec(folder, autoreset_mode="SameStep"))
