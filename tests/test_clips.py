"""Clips of continuous actions and of poses, and batches of clips put together and taken apart."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import Clips, Episode, EpisodeStore
from test_episodes import episode, where


def continuous(frames: int, number: int = 0, size: int = 2) -> Episode:
    """Action t is (t, number, 0.5, ...)[:size]; none led to frame 0."""
    action = np.full((frames, 3), 0.5, np.float32)
    action[:, 0], action[:, 1] = np.arange(frames), number
    action[0] = np.nan
    return replace(episode(frames, number), action=action[:, :size])


def posed(frames: int, number: int = 0) -> Episode:
    """Positions (number, t) in whole numbers, the direction a float for each frame."""
    time = np.arange(frames)
    position = np.stack([np.full(frames, number), time], 1)
    return replace(episode(frames, number), extras={"agent_pos": position, "agent_dir": time / 10, "seed": np.array(3)})


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e300])
def test_a_pose_that_is_not_finite_is_named(tmp_path: Path, wrong: float) -> None:
    """When the episode is first read, wherever in it the clip lies."""
    store, whole = EpisodeStore(tmp_path, create=True, pose=("agent_dir",)), posed(9)
    path = store.append(replace(whole, extras={"agent_dir": np.where(np.arange(9) == 7, wrong, 0.0)}))
    with pytest.raises(InputError, match=rf"{path.name}: 'agent_dir' is asked for as pose, but is not finite"):
        store.gather(np.array([0]), np.array([0]), 2)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_continuous_actions_come_back(tmp_path: Path, size: int) -> None:
    store = EpisodeStore(tmp_path, create=True)
    for number in range(3):
        store.append(continuous(9, number, size))
    fresh = EpisodeStore(tmp_path)
    assert (fresh.action_size, fresh.max_action) == (size, -1)
    read = fresh.read(fresh.names[1]).action
    assert read.dtype == np.float32
    assert np.array_equal(read, continuous(9, 1, size).action, equal_nan=True)
    clips = fresh.sample(64, 6, np.random.default_rng(0))
    numbers, times = where(clips)
    assert (clips.actions.shape, clips.actions.dtype) == ((64, 6, size), torch.float32)
    untold = clips.actions.isnan().any(-1).numpy()
    assert np.array_equal(untold, (times == 0) | ~clips.mask.numpy())
    told = np.stack([times, numbers, np.full_like(times, 0.5, np.float64)], -1)[..., :size]
    assert np.array_equal(clips.actions.numpy()[~untold], told[~untold].astype(np.float32))


def test_continuous_actions_that_look_like_one_hot_ones(tmp_path: Path) -> None:
    """NaN in front says that they are not; published files have zeros or a filler there."""
    rows = np.eye(3, dtype=np.float32)[[0, 1, 2, 1]]
    rows[0] = np.nan
    store = EpisodeStore(tmp_path, create=True)
    store.append(replace(episode(4), action=rows))
    assert EpisodeStore(tmp_path).action_size == 3
    assert np.array_equal(EpisodeStore(tmp_path).read(store.names[0]).action, rows, equal_nan=True)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros((4, 2), np.float32), r"action\[0\] must be all NaN"),
        (np.full((4, 2), np.nan, np.float32), r"action\[1:\] must be finite"),
        (np.zeros((3, 2), np.float32), r"must be float32 \(4, A\)"),
        (np.zeros((4, 0), np.float32), r"must be float32 \(4, A\)"),
        (np.zeros((4, 2)), "or float32 .* where actions are continuous"),
    ],
)
def test_continuous_actions_are_checked(tmp_path: Path, action: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        EpisodeStore(tmp_path, create=True).append(replace(episode(4), action=action))


def test_one_action_space_per_folder(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path, create=True)
    store.append(continuous(5))
    for other in (episode(5), continuous(5, size=3)):
        with pytest.raises(InputError, match=r"actions of [03] numbers .* has 2: keep one action space"):
            store.append(other)
    assert len(EpisodeStore(tmp_path)) == 1


def test_poses_stand_side_by_side(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path, create=True, pose=("agent_pos", "agent_dir"))
    for number in range(3):
        store.append(posed(9, number))
    assert store.pose_size == 3
    for clips in (
        store.sample(64, 6, np.random.default_rng(0)),
        store.sample_contexts(64, 6, np.random.default_rng(0)),
    ):
        numbers, times = where(clips)
        assert clips.pose is not None
        assert (clips.pose.shape, clips.pose.dtype) == ((64, 6, 3), torch.float32)
        expected = np.stack([numbers, times, times / 10], -1) * clips.mask.numpy()[..., None]
        assert np.array_equal(clips.pose.numpy(), expected.astype(np.float32))
    assert EpisodeStore(tmp_path).sample(2, 3, np.random.default_rng(0)).pose is None
    assert EpisodeStore(tmp_path).pose_size == 0


@pytest.mark.parametrize("key", ["nowhere", "seed", "text"])
def test_a_pose_that_is_not_there_is_named(tmp_path: Path, key: str) -> None:
    e = posed(5)
    EpisodeStore(tmp_path, create=True).append(replace(e, extras={**e.extras, "text": np.array(list("abcde"))}))
    store = EpisodeStore(tmp_path, pose=("agent_pos", key))
    with pytest.raises(InputError, match=rf"'{key}' is asked for as pose.*it has .*agent_dir.*extra_obs"):
        store.sample(1, 3, np.random.default_rng(0))
    with pytest.raises(InputError, match=f"'{key}' is asked for as pose"):
        assert store.pose_size


def parts(clips: Clips) -> dict[str, torch.Tensor]:
    return {item.name: part for item in fields(clips) if (part := getattr(clips, item.name)) is not None}


@pytest.mark.parametrize("pose", [(), ("agent_pos",)])
def test_batches_come_apart_and_together(tmp_path: Path, pose: tuple[str, ...]) -> None:
    store = EpisodeStore(tmp_path, create=True, pose=pose)
    store.append(posed(12))
    whole = store.sample(7, 5, np.random.default_rng(0))
    assert len(parts(whole)) == 5 + len(pose)
    again = Clips.cat([whole.rows(slice(0, 2)), whole.rows(slice(2, 3)), whole.rows(slice(3, 7))])
    picked = whole.rows(torch.tensor([6, 0, 6]))
    for name, part in parts(whole).items():
        assert torch.equal(parts(again)[name], part), name
        assert torch.equal(parts(picked)[name], part[[6, 0, 6]]), name
