"""The dream in Tianshou, which has an environment of its own: `make test-integrations` runs these there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dreams import dream_folder, vec

pytest.importorskip("tianshou", reason="Tianshou has an environment of its own: make test-integrations")

from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import BaseVectorEnv
from tianshou.utils.net.common import Net

from lssvwm.agents.adapters import for_tianshou
from lssvwm.worldmodel.common.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dream_folder(tmp_path_factory.mktemp("dreams"))


def dreams(folder: Path, rows: int = 4, **options: Any) -> BaseVectorEnv:
    return for_tianshou(vec(folder, rows, autoreset_mode="Disabled", terminate="never", **options))


def test_some_rows_step_and_the_others_wait(folder: Path) -> None:
    adapted, plain = dreams(folder), vec(folder, 4, autoreset_mode="Disabled", terminate="never")
    adapted.seed(3)
    begun, infos = adapted.reset()
    expected, _ = plain.reset(seed=3)
    assert np.array_equal(begun, expected)
    assert [info["env_id"] for info in infos] == [0, 1, 2, 3]
    seen, rewards, terminated, truncated, infos = adapted.step([2, 1], [3, 1])
    frames, gained, _, _, _ = plain.step(np.array([0, 1, 0, 2]))
    assert np.array_equal(seen, frames[[3, 1]])
    assert np.allclose(rewards, gained[[3, 1]])
    assert terminated.shape == truncated.shape == (2,)
    assert [info["env_id"] for info in infos] == [3, 1]
    assert np.array_equal(adapted.step([0], 0)[0], frames[[0]])


def test_rows_are_reset_in_the_order_they_are_named(folder: Path) -> None:
    adapted = dreams(folder)
    adapted.reset()
    again, _ = adapted.reset([2, 0], seed=7)
    whole, _ = dreams(folder).reset(seed=7)
    assert np.array_equal(again, whole[[2, 0]])
    rest, _ = adapted.reset([1, 3])
    assert np.array_equal(rest, whole[[1, 3]])


def test_spaces_are_lists_and_dictionaries_are_rows(folder: Path) -> None:
    adapted = dreams(folder, observation="both")
    assert len(adapted) == 4
    assert [space.n for space in adapted.action_space] == [3] * 4
    assert set(adapted.observation_space[0].spaces) == {"frame", "features"}
    seen, _ = adapted.reset()
    assert seen.shape == (4,)
    assert seen[1]["frame"].shape == (16, 8, 3)
    with pytest.raises(InputError, match="one batched environment"):
        adapted.set_env_attr("mark", 1)
    adapted.close()
    with pytest.raises(AssertionError):
        adapted.reset()


def test_episodes_that_are_no_multiple_of_the_rows(folder: Path) -> None:
    adapted = dreams(folder, max_episode_steps=5, observation="features")
    torch.manual_seed(0)
    policy = DiscreteQLearningPolicy(
        model=Net(state_shape=12, action_shape=3, hidden_sizes=(8,)), action_space=adapted.action_space[0]
    )
    collector = Collector(policy, adapted, VectorReplayBuffer(100, 4))
    collector.reset()
    assert collector.collect(n_episode=6).lens.tolist() == [5] * 6
    collector.reset()
    told = collector.collect(n_step=40)
    assert (told.n_collected_steps, told.n_collected_episodes) == (40, 8)


def test_other_modes_outputs_and_wholes_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"Tianshou needs autoreset_mode='Disabled'.*NEXT_STEP"):
        for_tianshou(vec(folder))
    with pytest.raises(InputError, match="one for each"):
        dreams(folder).step([0, 1], [0])
