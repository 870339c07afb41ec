"""What a row dreams depends on its own seeds, actions, steps and resets alone, however those of the others fall."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from dreams import MODES, actions_of, dream_folder, exact, vec
from lssvwm.envs.dream import DreamVectorEnv
from lssvwm.worldmodel.common.errors import InputError

ROWS = 3
OPTIONS: dict[str, Any] = {
    "context_length": 3,
    "max_episode_steps": 4,
    "steps": 1,
    "observation": "both",
    "context_info": True,
    "stagger": True,
    "uncertainty": "draws",
    "truncate_above": 0.38,
}


class Op(NamedTuple):
    """A step or a reset of some rows."""

    rows: list[bool]
    actions: list[int]
    seeds: list[int | None] | None  # of a reset; None for a step


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dream_folder(tmp_path_factory.mktemp("run"))


class Together(NamedTuple):
    """The same rows in one environment, and each in one of its own."""

    all: DreamVectorEnv
    alone: list[DreamVectorEnv]


@pytest.fixture(scope="module", params=MODES)
def envs(request: pytest.FixtureRequest, folder: Path) -> Iterator[Together]:
    def make(rows: int) -> DreamVectorEnv:
        return DreamVectorEnv(rows, checkpoint=exact(folder), autoreset_mode=request.param, **OPTIONS)

    made = Together(make(ROWS), [make(1) for _ in range(ROWS)])
    yield made
    for env in (made.all, *made.alone):
        env.close()


def perform(env: DreamVectorEnv, op: Op, rows: list[int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The answer to what `op` asks of `rows`, by name, and infos."""
    mask = np.array(op.rows)[rows]
    if op.seeds is None:
        observation, reward, terminated, truncated, info = env.step(np.array(op.actions)[rows], mask=mask)
        return {**observation, "reward": reward, "terminated": terminated, "truncated": truncated}, info
    observation, info = env.reset(seed=[op.seeds[row] for row in rows], options={"reset_mask": mask})
    return dict(observation), info


def equal(one: Any, two: Any) -> None:
    """Frames, flags and actions exactly, other numbers up to the rounding of float64 (features: float32)."""
    if np.asarray(one).dtype.kind == "f":
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_array_equal(one, two)


def same_info(whole: dict[str, Any], alone: dict[str, Any], row: int) -> None:
    told = {key for key in whole if not key.startswith("_") and whole[f"_{key}"][row]}
    assert told == {key for key in alone if not key.startswith("_") and alone[f"_{key}"][0]}
    for key in told:
        if key == "final_info":
            same_info(whole[key], alone[key], row)
        elif key == "final_obs":
            for part in ("frame", "features"):
                equal(whole[key][row][part], alone[key][0][part])
        else:
            equal(whole[key][row], alone[key][0])


bits = st.lists(st.booleans(), min_size=ROWS, max_size=ROWS)
actions = st.lists(st.integers(0, 2), min_size=ROWS, max_size=ROWS)
some_seeds = st.lists(st.none() | st.integers(0, 50), min_size=ROWS, max_size=ROWS)
steps = st.builds(Op, bits, actions, st.none())
resets = st.builds(Op, bits.filter(any), actions, some_seeds)


# What the examples share is made anew by the first reset of each.
@settings(max_examples=12, deadline=None, derandomize=True)
@given(seeds=st.lists(st.integers(0, 2**40), min_size=ROWS, max_size=ROWS), ops=st.lists(steps | resets, max_size=14))
def test_any_interleaving_leaves_a_row_its_single_run(envs: Together, seeds: list[int], ops: list[Op]) -> None:
    observation, _ = envs.all.reset(seed=seeds)
    answer = dict(observation)
    for row, env in enumerate(envs.alone):
        equal(env.reset(seed=[seeds[row]])[0]["frame"][0], answer["frame"][row])
    disabled = envs.all.autoreset_mode is AutoresetMode.DISABLED
    for given_op in ops:
        op = given_op
        before, last = envs.all.get_state(), answer
        if disabled and op.seeds is None:
            op = op._replace(
                rows=[row and not bool(done) for row, done in zip(op.rows, before.tensors["done"], strict=True)]
            )
        answer, info = perform(envs.all, op, list(range(ROWS)))
        after = envs.all.get_state()
        for row in range(ROWS):
            if op.rows[row]:
                single, single_info = perform(envs.alone[row], op, [row])
                for part, value in single.items():
                    equal(answer[part][row], value[0])
                same_info(info, single_info, row)
                continue
            for part in ("frame", "features"):
                assert np.array_equal(answer[part][row], last[part][row])
            if op.seeds is None:
                assert (answer["reward"][row], answer["terminated"][row], answer["truncated"][row]) == (0, False, False)
            assert not any(mask[row] for key, mask in info.items() if key.startswith("_"))
            for name, tensor in before.tensors.items():
                assert torch.equal(after.tensors[name][row], tensor[row]), name


@pytest.mark.parametrize("mode", MODES)
def test_finished_rows_wait_for_their_turn(folder: Path, mode: AutoresetMode) -> None:
    """Rows 0 and 2 finish; then only row 0 is asked for, then both."""
    env = vec(folder, terminate="never", max_episode_steps=2, autoreset_mode=mode)
    env.reset(seed=0)
    env.step([0, 0, 0], mask=[True, False, True])
    *_, truncated, _ = env.step([0, 0, 0])
    assert truncated.tolist() == [True, False, True]
    only = np.array([True, False, False])
    if mode is AutoresetMode.DISABLED:
        with pytest.raises(gym.error.ResetNeeded, match=r"rows \[0\] are finished"):
            env.step([0, 0, 0], mask=only)
        assert env.step([0, 0, 0], mask=[False, True, False])[3].tolist() == [False, True, False]
        return
    frames, rewards, _, truncated, info = env.step([0, 0, 0], mask=only)
    assert not truncated.any()
    assert rewards[1:].tolist() == [0, 0]
    if mode is AutoresetMode.NEXT_STEP:
        assert rewards[0] == 0
        assert not info["_termination_probability"].any()
        frames_after, _, _, truncated, info = env.step([0, 0, 0])
        assert info["_termination_probability"].tolist() == [True, True, False]
        assert truncated.tolist() == [False, True, False]
        assert not np.array_equal(frames_after[2], frames[2])
    else:
        assert info["_termination_probability"].tolist() == [True, False, False]


def test_a_mask_of_no_row_changes_nothing(folder: Path) -> None:
    env, other = vec(folder), vec(folder)
    frames, _ = env.reset(seed=1)
    other.reset(seed=1)
    again, rewards, terminated, truncated, info = env.step([0, 1, 2], mask=np.zeros(3, bool))
    assert np.array_equal(frames, again)
    assert not rewards.any()
    assert not (terminated | truncated).any()
    assert not info["_termination_probability"].any()
    for action in actions_of(3, 3):
        assert np.array_equal(env.step(action)[0], other.step(action, mask=torch.ones(3, dtype=torch.bool))[0])


@pytest.mark.parametrize("mask", [[True, False], [1, 0, 1], True, [[True, True, True]]])
def test_a_step_mask_must_fit(folder: Path, mask: Any) -> None:
    env = vec(folder)
    env.reset(seed=0)
    with pytest.raises(InputError, match=r"mask must be bool \(3,\), got"):
        env.step([0, 0, 0], mask=mask)


@pytest.mark.parametrize("seed", [-1, [0, -3, 1], 2**63])
def test_seeds_out_of_range_are_refused(folder: Path, seed: Any) -> None:
    with pytest.raises(InputError, match=r"give numbers from 0 to below 2 \*\* 63"):
        vec(folder).reset(seed=seed)
