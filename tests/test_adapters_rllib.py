"""What RLlib is given: rows in its mode, one array of floats. RLlib itself is not needed for that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, VectorEnv

from dreams import dream_folder, vec
from lssvwm.agents.adapters import for_rllib
from lssvwm.worldmodel.common.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dream_folder(tmp_path_factory.mktemp("dreams"))


def created(folder: Path, **options: Any) -> VectorEnv[Any, Any, Any]:
    return for_rllib(lambda rows: vec(folder, rows, **options))({"num_envs": 2})


def test_frames_are_floats_from_0_to_1(folder: Path) -> None:
    envs, plain = created(folder), vec(folder, 2)
    seen, frames = envs.reset(seed=3)[0], plain.reset(seed=3)[0]
    assert envs.num_envs == 2
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    for _ in range(3):
        assert seen.dtype == np.float32
        assert np.array_equal(np.rint(seen * 255), frames)
        assert seen in envs.observation_space
        seen, frames = envs.step(np.array([1, 2]))[0], plain.step(np.array([1, 2]))[0]


def test_features_are_as_they_are(folder: Path) -> None:
    envs, plain = created(folder, observation="features"), vec(folder, 2, observation="features")
    assert np.array_equal(envs.reset(seed=3)[0], plain.reset(seed=3)[0])
    assert envs.single_observation_space == gym.spaces.Box(-np.inf, np.inf, (12,), np.float32)


def test_what_rllib_would_take_in_silence_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"RLlib needs autoreset_mode='NextStep'.*SAME_STEP"):
        created(folder, autoreset_mode="SameStep")
    with pytest.raises(InputError, match=r"RLlib needs output='numpy'.*torch"):
        created(folder, output="torch")
    with pytest.raises(InputError, match=r"one array.*set observation="):
        created(folder, observation="both")
    with pytest.raises(InputError, match="gym_env_vectorize_mode='vector_entry_point'"):
        for_rllib(lambda rows: vec(folder, rows))({})
