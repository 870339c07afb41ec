"""Gymnasium's own vector wrappers around dreams, in the autoreset modes that each supports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import vector as wrappers

from dreams import ID, MODES, actions_of, dream_folder, vec

STEPS = 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dream_folder(tmp_path_factory.mktemp("run"))


def play(env: Any, mode: AutoresetMode) -> list[Any]:
    """Answers of a reset and nine steps; finished rows are reset where that is for the caller."""
    answers: list[Any] = [env.reset(seed=0)]
    for action in actions_of(env.num_envs, STEPS):
        answers.append(env.step(action))
        done = answers[-1][2] | answers[-1][3]
        if done.any() and mode is AutoresetMode.DISABLED:
            env.reset(options={"reset_mask": done})
    return answers


@pytest.mark.parametrize("mode", MODES)
def test_rewards(folder: Path, mode: AutoresetMode) -> None:
    options: dict[str, Any] = {"autoreset_mode": mode, "max_episode_steps": 3}
    plain = [answer[1] for answer in play(vec(folder, **options), mode)[1:]]
    clipped = play(wrappers.ClipReward(vec(folder, **options), -0.1, 0.1), mode)[1:]
    for before, after in zip(plain, clipped, strict=True):
        assert np.array_equal(np.clip(before, -0.1, 0.1), after[1])
    normalised = np.array([answer[1] for answer in play(wrappers.NormalizeReward(vec(folder, **options)), mode)[1:]])
    assert np.isfinite(normalised).all()
    assert np.array_equal(normalised != 0, np.array(plain) != 0)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_observations(folder: Path, mode: AutoresetMode) -> None:
    """Gymnasium refuses these in SAME_STEP."""
    options: dict[str, Any] = {"autoreset_mode": mode, "max_episode_steps": 3}
    plain = [answer[0] for answer in play(vec(folder, **options), mode)]
    half = wrappers.RescaleObservation(
        wrappers.DtypeObservation(vec(folder, **options), np.float32), np.float32(0), np.float32(1)
    )
    grey = wrappers.GrayscaleObservation(vec(folder, **options))
    for frames, scaled, greyed in zip(plain, play(half, mode), play(grey, mode), strict=True):
        np.testing.assert_allclose(scaled[0], frames / 255, atol=1e-6)
        assert greyed[0].shape == (3, 16, 8)


def test_normalised_features(folder: Path) -> None:
    env = wrappers.NormalizeObservation(vec(folder, observation="features", max_episode_steps=3))
    answers = play(env, AutoresetMode.NEXT_STEP)
    assert all(np.isfinite(answer[0]).all() and np.abs(answer[0]).max() < 50 for answer in answers)


def test_dictionaries_are_flattened(folder: Path) -> None:
    env = wrappers.FlattenObservation(vec(folder, observation="both", max_episode_steps=3))
    answers = play(env, AutoresetMode.NEXT_STEP)
    assert all(answer[0].shape == (3, 16 * 8 * 3 + 12) for answer in answers)


def test_infos_row_by_row(folder: Path) -> None:
    env = wrappers.DictInfoToList(vec(folder, max_episode_steps=2, terminate="never", context_info=True))
    answers = play(env, AutoresetMode.NEXT_STEP)
    assert len(answers[0][1]) == 3
    for row in range(3):
        assert answers[0][1][row]["context_frames"].shape == (3, 16, 8, 3)
        assert set(answers[1][4][row]) == {"termination_probability"}
        assert set(answers[3][4][row]) == {
            "context_frames",
            "context_actions",
            "context_length",
        }  # the step that only begins


@pytest.mark.parametrize("wrapper", ["single", "vector"])
def test_videos(folder: Path, tmp_path: Path, wrapper: str) -> None:
    pytest.importorskip("moviepy")
    options: dict[str, Any] = {"checkpoint": str(folder / "model"), "context_length": 3, "render_mode": "rgb_array"}
    if wrapper == "single":
        env: Any = gym.wrappers.RecordVideo(
            gym.make(ID, **options), str(tmp_path / "videos"), episode_trigger=lambda _: True
        )
        env.reset(seed=0)
        env.step(0)
    else:
        env = wrappers.RecordVideo(gym.make_vec(ID, 4, **options), str(tmp_path / "videos"), video_length=3)
        env.reset(seed=0)
        for _ in range(4):
            env.step(np.zeros(4, int))
    env.close()
    videos = list(tmp_path.glob("videos/*.mp4"))
    assert videos
    assert all(video.stat().st_size > 0 for video in videos)


@pytest.mark.parametrize("rows", [1, 3])
def test_rendered_frames_follow_the_dream(folder: Path, rows: int) -> None:
    """What a recorder is given: one frame (h, w, 3) uint8 per row at every step, none of them used again."""
    env = vec(folder, rows, render_mode="rgb_array", max_episode_steps=2, terminate="never")
    kept = []
    frames, _ = env.reset(seed=0)
    for action in actions_of(rows, 5):
        shown = env.render()
        assert shown is not None
        assert [picture.shape for picture in shown] == [(16, 8, 3)] * rows
        assert np.array_equal(np.stack(shown), frames)
        kept.append((shown, [picture.copy() for picture in shown]))
        frames, *_ = env.step(action)
    for shown, copies in kept:
        assert all(np.array_equal(one, two) for one, two in zip(shown, copies, strict=True))
    assert env.metadata["render_fps"] == 10
    assert vec(folder, rows).render() is None
