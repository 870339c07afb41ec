"""The dream in TorchRL: its own checks, partial resets and steps, truncation, seeds, and its collector."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchrl.collectors import Collector
from torchrl.envs import EnvBase, check_env_specs

from dreams import dream_folder, vec
from lssvwm.agents.adapters import for_torchrl
from lssvwm.worldmodel.common.errors import InputError, MissingExtraError

CAPPED = {"max_episode_steps": 4, "terminate": "never"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dream_folder(tmp_path_factory.mktemp("dreams"))


def dreams(folder: Path, rows: int = 3, **options: Any) -> EnvBase:
    return for_torchrl(vec(folder, rows, autoreset_mode="Disabled", output="torch", **options))


@pytest.mark.parametrize(
    ("observation", "keys"),
    [("frame", {"pixels"}), ("features", {"observation"}), ("both", {"frame", "features"})],
)
def test_torchrl_finds_nothing_wrong(folder: Path, observation: str, keys: set[str]) -> None:
    env = dreams(folder, observation=observation, **CAPPED)
    check_env_specs(env)
    assert set(env.observation_spec.keys()) == keys
    assert env.batch_size == (3,)


def test_a_rollout_is_the_dream_step_by_step(folder: Path) -> None:
    env, plain = dreams(folder, **CAPPED), vec(folder, autoreset_mode="Disabled", **CAPPED)
    env.set_seed(5)
    rollout = env.rollout(10)
    frames, _ = plain.reset(seed=5)
    assert rollout.shape == (3, 4)
    for step in range(4):
        now = rollout[:, step]
        assert np.array_equal(now["pixels"].numpy(), frames)
        frames, rewards, _, truncated, _ = plain.step(now["action"].numpy())
        assert np.array_equal(now["next", "pixels"].numpy(), frames)
        assert np.allclose(now["next", "reward"][:, 0].numpy(), rewards)
        assert now["next", "truncated"][:, 0].tolist() == truncated.tolist() == [step == 3] * 3
        assert not now["next", "terminated"].any()
        assert torch.equal(now["next", "done"], now["next", "truncated"])


def test_rows_begin_again_alone(folder: Path) -> None:
    env = dreams(folder, stagger=True, **CAPPED)
    env.reset()
    env.set_seed(0)
    rollout = env.rollout(13, break_when_any_done=False)
    done = rollout["next", "done"][..., 0]
    assert len(set(done.int().argmax(1).tolist())) > 1
    for row in range(3):
        ends = done[row].nonzero()[:, 0]
        assert ends.diff().tolist() == [4] * (len(ends) - 1)
        for step in range(12):
            last, following = rollout["next", "pixels"][row, step], rollout["pixels"][row, step + 1]
            assert torch.equal(last, following) != bool(done[row, step])


def test_finished_rows_wait_for_the_others(folder: Path) -> None:
    env = dreams(folder, stagger=True, **CAPPED)
    env.set_seed(0)
    rollout = env.rollout(8, break_when_all_done=True)
    done = rollout["next", "done"][..., 0]
    first = done.int().argmax(1)
    assert rollout.shape[1] == 1 + first.max() == 4
    assert first.min() < first.max()
    for row in range(3):
        held = rollout["next", "pixels"][row, first[row] :]
        assert torch.equal(held, held[:1].expand_as(held))
        assert done[row, first[row] :].all()


def test_a_seed_waits_for_the_row_it_is_for(folder: Path) -> None:
    env = dreams(folder)
    begun = env.reset()
    env.set_seed(9)
    chosen = torch.tensor([[False], [True], [False]])
    partial = env.reset(begun.clone().set("_reset", chosen))["pixels"]
    whole = env.reset()["pixels"]
    expected, _ = vec(folder, autoreset_mode="Disabled").reset(seed=9)
    assert np.array_equal(partial[1].numpy(), expected[1])
    assert torch.equal(partial[[0, 2]], begun["pixels"][[0, 2]])
    assert np.array_equal(whole[[0, 2]].numpy(), expected[[0, 2]])


def test_the_collector_runs(folder: Path) -> None:
    env = dreams(folder, 4, **CAPPED)
    batches = [batch.clone() for batch in Collector(env, None, frames_per_batch=40, total_frames=80)]
    assert [batch.shape for batch in batches] == [(4, 10), (4, 10)]
    done = torch.cat([batch["next", "done"] for batch in batches], 1)[..., 0]
    assert done.nonzero()[:, 1].tolist() == [3, 7, 11, 15, 19] * 4


def test_other_modes_and_outputs_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"TorchRL needs autoreset_mode='Disabled'.*NEXT_STEP"):
        for_torchrl(vec(folder, output="torch"))
    with pytest.raises(InputError, match=r"TorchRL needs output='torch'.*output='numpy'"):
        for_torchrl(vec(folder, autoreset_mode="Disabled"))


def test_the_missing_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchrl", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lssvwm\[torchrl\]'"):
        dreams(folder)


@pytest.mark.gpu
def test_on_a_gpu_everything_stays_there(folder: Path) -> None:
    env = for_torchrl(vec(folder, autoreset_mode="Disabled", output="torch", device="cuda", **CAPPED))
    check_env_specs(env)
    rollout = env.rollout(6, break_when_any_done=False)
    assert {value.device.type for value in rollout.values(True, True)} == {"cuda"}
