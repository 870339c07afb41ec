"""What one may ask of a dream: what it shows, what it tells, when it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from dreams import MODES, NEVER, actions_of, certain, dream_folder, roll, vec
from lssvwm.envs.dream import DreamVectorEnv
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import EpisodeStore

FRAME = gym.spaces.Box(0, 255, (16, 8, 3), np.uint8)
FEATURES = gym.spaces.Box(-np.inf, np.inf, (12,), np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dream_folder(tmp_path_factory.mktemp("run"))


def play(env: DreamVectorEnv, steps: int) -> list[Any]:
    """Observations of a reset and `steps` steps."""
    return [env.reset(seed=3)[0], *(env.step(action)[0] for action in actions_of(env.num_envs, steps))]


@pytest.mark.parametrize(
    ("observation", "space"),
    [("frame", FRAME), ("features", FEATURES), ("both", gym.spaces.Dict(frame=FRAME, features=FEATURES))],
)
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_what_is_observed(folder: Path, mode: AutoresetMode, observation: Any, space: gym.Space[Any]) -> None:
    settings: dict[str, Any] = {"max_episode_steps": 3, "terminate": "never", "autoreset_mode": mode}
    env, both = vec(folder, observation=observation, **settings), vec(folder, observation="both", **settings)
    assert env.single_observation_space == space
    for seen, whole in zip(play(env, 6), play(both, 6), strict=True):
        assert seen in env.observation_space
        assert whole in both.observation_space
        for part, values in seen.items() if observation == "both" else [(observation, seen)]:
            assert np.array_equal(values, whole[part])


def test_features_are_those_of_the_model(folder: Path) -> None:
    """At the beginning those of the last real frame, then those of the frame that was dreamt."""
    env, store = vec(folder, observation="both", terminate="never"), EpisodeStore(folder / "episodes")
    first, _ = env.reset(seed=30)
    clip = store.sample_contexts(1, 3, np.random.default_rng(31))
    with torch.no_grad():
        seen, memory = env.model.observe(clip.frames, clip.actions)
        np.testing.assert_allclose(first["features"][1], seen.features[0, -1], rtol=1e-3, atol=1e-4)
        dreamt, *_ = env.step([0, 2, 1])
        after, _ = env.model.observe(torch.from_numpy(dreamt["frame"][1])[None, None], torch.tensor([[2]]), memory)
    np.testing.assert_allclose(dreamt["features"][1], after.features[0, 0], rtol=1e-3, atol=1e-4)
    assert not np.allclose(dreamt["features"][1], first["features"][1], atol=1e-2)


@pytest.mark.parametrize("output", ["numpy", "torch"])
@pytest.mark.parametrize("observation", ["frame", "both"])
def test_channels_first(folder: Path, observation: Any, output: Any) -> None:
    settings: dict[str, Any] = {
        "observation": observation,
        "output": output,
        "context_info": True,
        "max_episode_steps": 1,
        "autoreset_mode": "SameStep",
        "render_mode": "rgb_array",
    }
    last, first = vec(folder, **settings), vec(folder, channels_first=True, **settings)
    frame = (lambda seen: seen["frame"]) if observation == "both" else (lambda seen: seen)
    assert frame(first.single_observation_space).shape == (3, 16, 8)
    if output == "numpy":
        assert first.reset()[0] in first.observation_space
    for one, two in ((last.reset(seed=1), first.reset(seed=1)), (last.step([0, 1, 2]), first.step([0, 1, 2]))):
        pairs = [(frame(one[0]), frame(two[0])), (one[-1]["context_frames"], two[-1]["context_frames"])]
        if "final_obs" in one[-1] and output == "numpy":
            pairs += [(frame(a), frame(b)) for a, b in zip(one[-1]["final_obs"], two[-1]["final_obs"], strict=True)]
        elif "final_obs" in one[-1]:
            pairs.append((frame(one[-1]["final_obs"]), frame(two[-1]["final_obs"])))
        for hwc, chw in pairs:
            assert chw.shape[-3:] == (3, 16, 8)
            assert np.array_equal(np.asarray(hwc), np.moveaxis(np.asarray(chw), -3, -1))
    shown = first.render()
    assert shown is not None
    assert shown[0].shape == (16, 8, 3)


@pytest.mark.parametrize("output", ["numpy", "torch"])
def test_final_observations_of_every_kind(folder: Path, output: Any) -> None:
    settings: dict[str, Any] = {"observation": "both", "output": output, "terminate": "never", "max_episode_steps": 2}
    same, after = vec(folder, autoreset_mode="SameStep", **settings), vec(folder, **settings)
    assert np.array_equal(np.asarray(play(same, 1)[-1]["frame"]), np.asarray(play(after, 1)[-1]["frame"]))
    info, expected = same.step([1, 1, 1])[4], after.step([1, 1, 1])[0]
    final = info["final_obs"]
    if output == "numpy":
        assert (final.shape, final.dtype) == ((3,), object)
        final = {part: np.stack([row[part] for row in final]) for part in ("frame", "features")}
    for part, values in final.items():
        assert isinstance(values, torch.Tensor if output == "torch" else np.ndarray)
        assert np.array_equal(np.asarray(values), np.asarray(expected[part]))
    assert set(info["final_info"]) == {"termination_probability", "_termination_probability"}


def test_no_array_is_given_twice(folder: Path) -> None:
    """Of one answer either: the last infos of a row are not the infos of the step."""
    env = vec(folder, autoreset_mode="SameStep", max_episode_steps=1, uncertainty="heads", context_info=True)
    env.reset(seed=0)
    frames, rewards, terminated, truncated, info = env.step([0, 1, 2])
    arrays = [frames, rewards, terminated, truncated, *info["final_obs"], *info.pop("final_info").values()]
    arrays += [array for key, array in info.items() if key != "final_obs"]
    assert len(arrays) > 14
    for number, array in enumerate(arrays):
        assert not any(np.shares_memory(array, other) for other in arrays[:number])


@pytest.mark.parametrize("output", ["numpy", "torch"])
@pytest.mark.parametrize("mode", MODES)
def test_contexts_are_told_when_a_row_begins(folder: Path, mode: AutoresetMode, output: Any) -> None:
    """Every row by its own seed and number of the dream; the last frame is the observation."""
    store = EpisodeStore(folder / "episodes")
    env = vec(folder, context_info=True, max_episode_steps=2, terminate="never", autoreset_mode=mode, output=output)

    def told(info: dict[str, Any], frames: Any, dream: int, rows: list[bool]) -> None:
        assert info["_context_frames"].tolist() == info["_context_actions"].tolist() == rows
        assert info["context_frames"].shape == (3, 3, 16, 8, 3)
        for row in range(3):
            clip = store.sample_contexts(1, 3, np.random.default_rng((50 + row, dream)))
            shown, led = (np.asarray(info[f"context_{part}"][row]) for part in ("frames", "actions"))
            assert np.array_equal(shown, clip.frames[0] * rows[row])
            assert np.array_equal(led, clip.actions[0] * rows[row])
            assert not rows[row] or np.array_equal(shown[-1], np.asarray(frames[row]))

    frames, info = env.reset(seed=50)
    told(info, frames, 0, [True] * 3)
    frames, info = env.reset(options={"reset_mask": np.array([False, True, False])})
    told(info, frames, 1, [False, True, False])
    env.step([0, 1, 2], mask=[True, False, True])
    frames, *_, info = env.step([0, 1, 2])
    if mode is AutoresetMode.NEXT_STEP:
        assert "context_frames" not in info
        frames, *_, info = env.step([0, 1, 2])
    if mode is AutoresetMode.DISABLED:
        frames, info = env.reset(options={"reset_mask": np.array([True, False, True])})
    told(info, frames, 1, [True, False, True])


def horizons(env: DreamVectorEnv, steps: int) -> np.ndarray[Any, Any]:
    return np.stack([env.step(np.zeros(env.num_envs, int))[3] for _ in range(steps)])


@pytest.mark.parametrize("mode", MODES)
def test_staggered_horizons_do_not_come_at_once(folder: Path, mode: AutoresetMode) -> None:
    env = DreamVectorEnv(
        8,
        checkpoint=folder / "model",
        context_length=2,
        max_episode_steps=8,
        steps=1,
        terminate="never",
        stagger=True,
        autoreset_mode=mode,
    )
    env.reset(seed=5)
    if mode is AutoresetMode.DISABLED:
        ends = []
        for _ in range(24):
            ends.append(env.step(np.zeros(8, int))[3])
            if ends[-1].any():
                env.reset(options={"reset_mask": ends[-1]})
        truncated = np.stack(ends)
    else:
        truncated = horizons(env, 27 if mode is AutoresetMode.NEXT_STEP else 24)
    first = truncated.argmax(0)
    assert len(set(first.tolist())) >= 6
    for row in range(8):  # later dreams are whole
        assert set(np.diff(np.flatnonzero(truncated[:, row]))) == {9 if mode is AutoresetMode.NEXT_STEP else 8}
    again = env.reset(seed=5)
    assert again is not None
    assert np.array_equal(horizons(env, 1)[0], truncated[0])
    alone = DreamVectorEnv(
        1, checkpoint=folder / "model", context_length=2, max_episode_steps=8, steps=1, terminate="never", stagger=True
    )
    for row in (0, 3):
        alone.reset(seed=5 + row)
        assert horizons(alone, 8)[:, 0].argmax() == first[row]


def test_without_stagger_all_rows_end_together(folder: Path) -> None:
    env = vec(folder, max_episode_steps=3, terminate="never")
    env.reset(seed=0)
    assert horizons(env, 3).tolist() == [[False] * 3, [False] * 3, [True] * 3]


@pytest.mark.parametrize("kind", ["heads", "draws"])
def test_uncertainty_is_told_and_changes_nothing(folder: Path, kind: Any) -> None:
    env, plain = vec(folder, uncertainty=kind), vec(folder)
    actions = actions_of(3, 4)
    told = []
    env.reset(seed=2)
    for action in actions:
        *_, info = env.step(action)
        assert (info["uncertainty"].dtype, info["uncertainty"].shape) == (np.float64, (3,))
        assert np.array_equal(info["uncertainty"] > 0, info["_uncertainty"])
        assert np.array_equal(info["_uncertainty"], info["_termination_probability"])
        told += info["uncertainty"].tolist()
    assert len(set(told)) > 6
    one, two = roll(env, 2, actions), roll(plain, 2, actions)
    assert np.array_equal(one[0], two[0])
    assert np.array_equal(one[1], two[1])


@pytest.mark.parametrize("mode", MODES)
def test_a_dream_that_leaves_the_known_world_is_truncated(folder: Path, mode: AutoresetMode) -> None:
    settings: dict[str, Any] = {"uncertainty": "draws", "terminate": "never", "autoreset_mode": mode}
    plain = vec(folder, **settings)
    plain.reset(seed=4)
    told = plain.step([0, 1, 2])[4]["uncertainty"]
    limit = float(np.sort(told)[1])  # the second is not above itself
    env = vec(folder, truncate_above=limit, **settings)
    env.reset(seed=4)
    _, _, terminated, truncated, info = env.step([0, 1, 2])
    assert not terminated.any()
    assert truncated.tolist() == (told > limit).tolist()
    assert truncated.sum() == 1
    last = info["final_info"] if mode is AutoresetMode.SAME_STEP else info
    assert last["uncertainty"][truncated] == told[truncated]


def test_an_end_is_no_truncation_however_uncertain(folder: Path) -> None:
    env = DreamVectorEnv(2, checkpoint=certain(folder, 30.0), context_length=2, uncertainty="draws", truncate_above=0.0)
    env.reset(seed=0)
    assert [flags.tolist() for flags in env.step([0, 0])[2:4]] == [[True, True], [False, False]]
    going_on = DreamVectorEnv(
        2, checkpoint=certain(folder, NEVER), context_length=2, uncertainty="draws", truncate_above=0.0
    )
    going_on.reset(seed=0)
    assert [flags.tolist() for flags in going_on.step([0, 0])[2:4]] == [[False, False], [True, True]]


@pytest.mark.parametrize("output", ["numpy", "torch"])
def test_infos_hold_numbers_only(folder: Path, output: Any) -> None:
    env = vec(
        folder,
        output=output,
        context_info=True,
        uncertainty="heads",
        max_episode_steps=1,
        autoreset_mode="SameStep",
        observation="features",
    )
    _, first = env.reset(seed=0)
    for info in (first, env.step([0, 1, 2])[4]):
        for key, value in info.items():
            inner = value.values() if isinstance(value, dict) else [value]
            for array in inner:
                kind = np.asarray(array).dtype.kind
                assert kind in "biuf" or (key == "final_obs" and kind == "O")
                wanted = np.ndarray if output == "numpy" or key.startswith("_") else torch.Tensor
                assert isinstance(array, wanted) or key == "final_info"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"observation": "pixels"}, "observation='pixels': choose one of frame, features, both"),
        ({"uncertainty": "some"}, "uncertainty='some': choose one of none, heads, draws"),
        ({"autoreset_mode": "Never"}, "autoreset_mode='Never': choose one of NextStep, SameStep, Disabled"),
        ({"truncate_above": 0.5}, "truncate_above=0.5 .*set uncertainty"),
        ({"stagger": True, "max_episode_steps": None}, "stagger=True .*give max_episode_steps"),
    ],
)
def test_options_that_cannot_be_met(folder: Path, options: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        DreamVectorEnv(**{"checkpoint": folder / "model", **options})
