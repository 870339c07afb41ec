"""Dreams on a GPU: what is shown as tensors stays there, and everything else holds as on the CPU."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dreams import actions_of, dream_folder, vec
from lssvwm.envs.dream import DreamState

pytestmark = pytest.mark.gpu

OPTIONS: dict[str, Any] = {
    "device": "cuda",
    "autoreset_mode": "SameStep",
    "max_episode_steps": 3,
    "observation": "both",
    "context_info": True,
    "uncertainty": "draws",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dream_folder(tmp_path_factory.mktemp("run"))


def test_tensors_stay_on_the_device_and_say_what_arrays_say(folder: Path) -> None:
    arrays, tensors = vec(folder, **OPTIONS), vec(folder, output="torch", **OPTIONS)
    one, two = arrays.reset(seed=2), tensors.reset(seed=2)
    for action in actions_of(3, 5):
        for part in ("frame", "features"):
            assert two[0][part].is_cuda
            assert np.array_equal(one[0][part], two[0][part].cpu())
        for key, values in two[-1].items():
            if not key.startswith("_") and not isinstance(values, dict):
                assert values.is_cuda, key
        one, two = arrays.step(action), tensors.step(torch.from_numpy(action).cuda())
        for array, tensor in zip(one[1:4], two[1:4], strict=True):
            assert tensor.is_cuda
            assert np.array_equal(array, tensor.cpu())


def test_states_and_copies(folder: Path, tmp_path: Path) -> None:
    env, there = vec(folder, **OPTIONS), vec(folder, **OPTIONS)
    env.reset(seed=3)
    env.step([0, 1, 2], mask=[True, False, True])
    env.get_state().save(tmp_path / "state")
    there.set_state(DreamState.load(tmp_path / "state"))
    twins = [there, copy.deepcopy(env), pickle.loads(pickle.dumps(env))]
    for action in actions_of(3, 5):
        frames, rewards, *_ = env.step(action)
        for twin in twins:
            again, others, *_ = twin.step(action)
            assert np.array_equal(frames["frame"], again["frame"])
            assert np.array_equal(rewards, others)
