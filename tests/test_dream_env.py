"""The learned simulator keeps the contracts of Gymnasium: spaces, copies, seeds, specs, errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from dreams import ID, MODES, actions_of, dream_folder, roll, vec
from lssvwm.envs.dream import DreamVectorEnv
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import Episode, EpisodeStore


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dream_folder(tmp_path_factory.mktemp("run"))


@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version.*")
@pytest.mark.parametrize("wrapped", [False, True])
def test_gymnasium_finds_nothing_wrong(folder: Path, wrapped: bool) -> None:
    env = gym.make(ID, checkpoint=str(folder / "model"), render_mode="rgb_array")
    check_env(env if wrapped else env.unwrapped)


@pytest.mark.filterwarnings("ignore:.*minimal resolution.*", "ignore:.*render_mode.*")
@pytest.mark.parametrize("wrapped", [False, True])
def test_stable_baselines_finds_nothing_wrong(folder: Path, wrapped: bool) -> None:
    from stable_baselines3.common.env_checker import check_env as check_for_stable_baselines

    env = gym.make(ID, checkpoint=str(folder / "model"))
    check_for_stable_baselines(env if wrapped else env.unwrapped)


@pytest.mark.parametrize("mode", MODES)
def test_shapes_types_and_spaces(folder: Path, mode: AutoresetMode) -> None:
    env = vec(folder, autoreset_mode=mode, max_episode_steps=3, terminate="never", render_mode="rgb_array")
    assert env.metadata["autoreset_mode"] is mode
    assert env.single_observation_space == gym.spaces.Box(0, 255, (16, 8, 3), np.uint8)
    assert env.single_action_space == gym.spaces.Discrete(3)
    frames, _ = env.reset(seed=0)
    assert frames in env.observation_space
    for _ in range(3):
        frames, rewards, terminated, truncated, info = env.step(env.action_space.sample())
        assert frames in env.observation_space
        assert frames.dtype == np.uint8
        assert (rewards.dtype, rewards.shape) == (np.float64, (3,))
        assert (terminated.dtype, terminated.shape) == (np.bool_, (3,))
        assert (truncated.dtype, truncated.shape) == (np.bool_, (3,))
        assert info["termination_probability"].shape == (3,)
        pictures = env.render()
        assert pictures is not None
        assert len(pictures) == 3
        assert all(np.array_equal(picture, frame) for picture, frame in zip(pictures, frames, strict=True))
        if (terminated | truncated).all():
            break


@pytest.mark.parametrize("mode", MODES)
def test_numpy_and_torch_say_the_same(folder: Path, mode: AutoresetMode) -> None:
    settings: dict[str, Any] = {"autoreset_mode": mode, "max_episode_steps": 3, "terminate": "never"}
    arrays, tensors = vec(folder, **settings), vec(folder, **settings, output="torch")
    pairs = [(arrays.reset(seed=5)[0], tensors.reset(seed=5)[0])]
    for action in actions_of(3, 3 if mode is AutoresetMode.DISABLED else 8):
        one, two = arrays.step(action), tensors.step(torch.from_numpy(action))
        pairs += zip(one[:4], two[:4], strict=True)
        pairs.append((one[4]["termination_probability"], two[4]["termination_probability"]))
        if "final_obs" in one[4]:
            pairs.append((np.stack(one[4]["final_obs"]), two[4]["final_obs"]))
    for array, tensor in pairs:
        assert isinstance(tensor, torch.Tensor)
        assert array.dtype == tensor.numpy().dtype
        assert np.array_equal(array, tensor.numpy())


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict | tuple | list):
        return [leaf for part in (value.values() if isinstance(value, dict) else value) for leaf in leaves(part)]
    if isinstance(value, np.ndarray) and value.dtype == object:
        return leaves(list(value))
    return [value] if isinstance(value, np.ndarray | torch.Tensor) else []


@pytest.mark.parametrize("output", ["numpy", "torch"])
@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_what_is_returned_belongs_to_the_caller(folder: Path, mode: AutoresetMode, output: str) -> None:
    settings: dict[str, Any] = {
        "autoreset_mode": mode,
        "output": output,
        "max_episode_steps": 2,
        "render_mode": "rgb_array",
    }
    kept, scribbled = vec(folder, **settings), vec(folder, **settings)
    history: list[Any] = []
    results = [kept.reset(seed=3), scribbled.reset(seed=3)]
    for action in actions_of(3, 7):
        for one, two in zip(leaves(results[0]), leaves(results[1]), strict=True):
            assert np.array_equal(one, two)
        fresh = leaves(results[1])
        for leaf in fresh:
            if output == "numpy":
                assert not any(np.shares_memory(leaf, old) for old in history)
                assert leaf.flags.writeable
            leaf[...] = 1
        assert np.array_equal(np.stack(kept.render() or ()), np.stack(scribbled.render() or ()))
        history += fresh
        given = action.copy()
        results = [kept.step(action), scribbled.step(given)]
        given[...] = 0
        picture = scribbled.render()
        assert picture is not None
        picture[0][...] = 9
        drawn = kept.render()
        assert drawn is not None
        assert np.array_equal(drawn[1], np.asarray(results[0][0][1]))


def test_a_spec_makes_the_same_environment_again(folder: Path) -> None:
    env = vec(folder, max_episode_steps=5, autoreset_mode="SameStep", terminate="never")
    assert env.spec is not None
    again = gym.make_vec(EnvSpec.from_json(env.spec.to_json()))
    assert again.num_envs == 3
    assert again.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    actions = actions_of(3, 6)
    assert np.array_equal(roll(env, 1, actions)[0], roll(again, 1, actions)[0])  # type: ignore[arg-type]
    single = gym.make(ID, checkpoint=str(folder / "model"), max_episode_steps=5)
    assert single.spec is not None
    copy = gym.make(EnvSpec.from_json(single.spec.to_json()))
    assert np.array_equal(single.reset(seed=3)[0], copy.reset(seed=3)[0])
    assert np.array_equal(single.step(1)[0], copy.step(1)[0])


def test_gymnasium_may_put_single_dreams_side_by_side(folder: Path) -> None:
    """`vectorization_mode="sync"`: slower, the same dreams."""
    many = gym.make_vec(ID, 2, vectorization_mode="sync", checkpoint=str(folder / "model"), context_length=3)
    assert np.array_equal(many.reset(seed=4)[0], vec(folder, 2).reset(seed=4)[0])


@pytest.mark.parametrize("wrong", [[0, 1, 3], [0, -1, 0]])
def test_unknown_actions_are_refused(folder: Path, wrong: list[int]) -> None:
    env = vec(folder)
    env.reset(seed=0)
    with pytest.raises(InputError, match=r"outside the action space Discrete\(3\)"):
        env.step(wrong)


@pytest.mark.parametrize("wrong", [[0, 1], [[0, 1, 2]], 0, [0.0, 1.0, 2.0], [True, False, True]])
def test_actions_of_another_shape_or_type_are_refused(folder: Path, wrong: Any) -> None:
    env = vec(folder)
    env.reset(seed=0)
    with pytest.raises(InputError, match="actions must be 3 whole numbers"):
        env.step(wrong)


def test_a_refused_action_leaves_the_dream_as_it_was(folder: Path) -> None:
    env, other = vec(folder), vec(folder)
    env.reset(seed=0)
    other.reset(seed=0)
    with pytest.raises(InputError):
        env.step([0, 1, 3])
    assert np.array_equal(env.step([0, 1, 2])[0], other.step([0, 1, 2])[0])


def saved(folder: Path, to: Path, **world: Any) -> Path:
    shutil.copytree(folder / "model", to)
    meta = json.loads((to / "config.json").read_text())
    meta["world"] = world
    (to / "config.json").write_text(json.dumps(meta))
    return to


def contexts(root: Path, height: int = 16, actions: int = 3, frames: int = 8) -> Path:
    store = EpisodeStore(root, create=True)
    action = np.full(frames, actions - 1)
    action[0] = -1
    end = np.arange(frames) == frames - 1
    store.append(
        Episode(
            np.zeros((frames, height, 8, 3), np.uint8), action, np.zeros(frames, np.float32), end, np.zeros_like(end)
        )
    )
    return root


@pytest.mark.parametrize("make", [gym.make, gym.make_vec])
def test_what_cannot_be_dreamed_is_refused_at_construction(folder: Path, tmp_path: Path, make: Any) -> None:
    def refused(match: str, **options: Any) -> None:
        with pytest.raises(InputError, match=match):
            make(ID, **{"checkpoint": str(folder / "model"), **options})

    refused(r"nowhere.config\.json does not exist", checkpoint=str(tmp_path / "nowhere"))
    nameless = saved(folder, tmp_path / "nameless")
    refused(
        r"nameless names no folder of episodes, and carries no contexts.npz: give contexts=FOLDER",
        checkpoint=str(nameless),
    )
    moved = saved(folder, tmp_path / "moved", episodes="../gone")
    refused(
        r"names the episodes .*gone, which are not there, and carries no contexts.npz: give contexts=FOLDER",
        checkpoint=str(moved),
    )
    refused("missing", contexts=str(tmp_path / "missing"))
    (tmp_path / "empty").mkdir()
    refused("empty holds no episodes", contexts=str(tmp_path / "empty"))
    other = saved(folder, tmp_path / "other", num_actions=6, episodes="../episodes")
    refused("models 3 actions, but its environment has 6", checkpoint=str(other), contexts=str(folder / "episodes"))
    larger = contexts(tmp_path / "larger", height=32)
    refused(r"contexts show frames of \(32, 8\).*models \(16, 8\)", contexts=str(larger))
    richer = contexts(tmp_path / "richer", actions=5)
    refused("contexts hold action 4.*models 3 actions", contexts=str(richer))
    short = contexts(tmp_path / "short", frames=4)
    refused("contexts of 8 frames need an episode of 9 or more, but the longest in .*short has 4", contexts=str(short))
    refused(r"terminate='maybe': choose one of", terminate="maybe")
    refused("steps=0", steps=0)
    for length in (0, (0, 3), (3, 1), (1, 2, 3), (8,), (), "whole", 1.5):
        refused("context_length=.*give a number of at least 1, ", context_length=length)
    for start in ("end", -0.1, 1.5, None):
        refused("start=.*choose any, episode, or the share", start=start)


def test_options_of_several_rows_are_refused_at_construction(folder: Path) -> None:
    for options, match in (
        ({"output": "jax"}, "output='jax': choose one of numpy, torch"),
        ({"render_mode": "human"}, "render_mode='human'"),
        ({"num_envs": 0}, "num_envs=0"),
        ({"max_episode_steps": 0}, "max_episode_steps=0"),
    ):
        with pytest.raises(InputError, match=match):
            DreamVectorEnv(**{"checkpoint": folder / "model", **options})  # type: ignore[arg-type]


def test_a_broken_checkpoint_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "model", tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"model\.safetensors cannot be read"):
        DreamVectorEnv(checkpoint=tmp_path / "model", contexts=folder / "episodes")


def test_there_is_nothing_to_render_before_a_reset(folder: Path) -> None:
    for env in (
        vec(folder, render_mode="rgb_array"),
        gym.make(ID, checkpoint=str(folder / "model"), render_mode="rgb_array").unwrapped,
    ):
        with pytest.raises(gym.error.ResetNeeded, match=r"call reset\(\) first"):
            env.render()
        env.reset(seed=0)
        assert env.render() is not None
    assert vec(folder).render() is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there_is_named(folder: Path) -> None:
    for name in ("cuda", "cuda:7", "nonsense"):
        with pytest.raises(InputError, match=f"--device {name}: "):
            vec(folder, device=name)


def test_a_closed_environment_stays_closed(folder: Path) -> None:
    for env, action in ((vec(folder), [0, 0, 0]), (gym.make(ID, checkpoint=str(folder / "model")).unwrapped, 0)):
        env.reset(seed=0)
        env.close()
        with pytest.raises(gym.error.ClosedEnvironmentError, match="make a new one"):
            env.reset()
        with pytest.raises(gym.error.ClosedEnvironmentError, match="make a new one"):
            env.step(action)  # type: ignore[arg-type]
