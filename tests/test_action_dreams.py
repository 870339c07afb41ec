"""Worlds of every kind of action, recorded and dreamt: spaces, contexts, checker, real and dream side by side."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from dreams import ID
from lssvwm.agents.adapters import for_stable_baselines
from lssvwm.agents.adapters.torchrl import TorchRLEnv
from lssvwm.agents.policies.baselines import RandomPolicy, make_policy
from lssvwm.agents.running.environment import probe
from lssvwm.envs import DreamVectorEnv, check_vector_env, make_pair
from lssvwm.envs.checker import from_id, single_from_id
from lssvwm.envs.factory import make
from lssvwm.envs.play.command import PlayOptions, by_name, open_game
from lssvwm.envs.recording.recorder import record
from lssvwm.envs.spaces.actions import shaped
from lssvwm.worldmodel.actions import told
from lssvwm.worldmodel.checkpoint import save_checkpoint
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import Episode, EpisodeStore
from steering import SPACES, TARGET, moved, steering
from worlds import random_model, small_config

VECTORS = [kind for kind in SPACES if kind != "discrete"]


def recorded(root: Path, kind: str, *, processes: bool = False, episodes: int = 4) -> EpisodeStore:
    store = EpisodeStore(root, create=True)
    policy = make_policy("random", probe(steering(kind)).actions)
    record(steering(kind), store, policy, episodes=episodes, num_envs=2, seed=5, processes=processes, progress=False)
    return store


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @functools.cache
    def folder(kind: str) -> Path:
        """A world model with random weights in `folder/model`, and the episodes that it names."""
        root = tmp_path_factory.mktemp(kind)
        recorded(root / "episodes", kind)
        model = random_model(small_config(**told(probe(steering(kind)).actions)), 0).float()
        with torch.no_grad():
            model.reward_head[-1].weight.mul_(0.01)
        world = {"episodes": "../episodes", "env": steering(kind).to_dict()}
        save_checkpoint(root / "model", model, world=world, step=0)
        return root

    return folder


def options(folder: Path, **more: Any) -> dict[str, Any]:
    return {"checkpoint": str(folder / "model"), "context_length": 3, "max_episode_steps": 4, "steps": 1, **more}


def replayed(kind: str, episode: Episode) -> None:
    """The recorded actions lead to the recorded frames."""
    env, space = make(steering(kind)), probe(steering(kind)).actions
    assert np.isnan(episode.action[0]).all()
    frame, _ = env.reset(seed=int(episode.extras["seed"]))
    for t, action in enumerate(episode.action):
        if t:
            frame, reward, *_ = env.step(shaped(space, action))
            assert reward == pytest.approx(float(episode.reward[t]), abs=1e-6)
        np.testing.assert_array_equal(frame, episode.image[t])


@pytest.mark.parametrize("kind", VECTORS)
def test_recorded_actions_are_those_that_led_to_the_frames(tmp_path: Path, kind: str) -> None:
    store = recorded(tmp_path, kind)
    assert store.action_size == probe(steering(kind)).actions.size
    for name in store.names:
        replayed(kind, store.read(name))


def test_processes_are_sent_dictionaries_too(tmp_path: Path) -> None:
    store = recorded(tmp_path, "dict", processes=True, episodes=2)
    for name in store.names:
        replayed("dict", store.read(name))


def test_random_play_fills_the_space_and_each_row_is_its_own() -> None:
    for kind in VECTORS:
        actions = probe(steering(kind)).actions
        policy, alone = RandomPolicy(actions), RandomPolicy(actions)
        policy.reset(np.arange(2), np.array([7, 8]))
        alone.reset(np.arange(1), np.array([8]))
        frames = np.zeros((2, 8, 8, 3), np.uint8)
        drawn = np.stack([policy.act(frames, {}) for _ in range(300)])
        np.testing.assert_array_equal(drawn[:, 1], np.stack([alone.act(frames[:1], {})[0] for _ in range(300)]))
        assert drawn.dtype == np.float32
        low, high, choices = (np.array(part) for part in (actions.low, actions.high, actions.choices))
        middle = drawn.reshape(-1, actions.size).mean(0)
        np.testing.assert_allclose(middle, (low + high) / 2, atol=0.15 * (high - low).max())
        for number, count in enumerate(choices):
            assert not count or set(drawn[..., number].ravel()) == set(range(count))
        assert all(SPACES[kind].contains(shaped(actions, one)) for one in drawn[:, 0])


@pytest.mark.parametrize("kind", VECTORS)
def test_the_dream_has_the_real_space_and_tells_the_actions_of_its_contexts(worlds: Any, kind: str) -> None:
    env = gym.make_vec(ID, num_envs=2, **options(worlds(kind), context_info=True))
    assert env.single_action_space == SPACES[kind]
    _, info = env.reset(seed=1)
    assert info["context_actions"].shape == (2, 3, probe(steering(kind)).actions.size)
    env.action_space.seed(0)
    assert env.step(env.action_space.sample())[0].shape == (2, 16, 8, 3)
    env.close()


@pytest.mark.parametrize(("kind", "output"), [("box", "numpy"), ("dict", "torch")])
def test_the_checker_finds_nothing(worlds: Any, kind: str, output: str) -> None:
    given = options(worlds(kind), terminate="never")
    report = check_vector_env(
        functools.partial(from_id, ID, **given),
        modes=[AutoresetMode.NEXT_STEP],
        outputs=[output],
        steps=5,
        num_envs=2,
        single=single_from_id(ID, **given),
        pickling=False,
        wrappers=False,
    )
    assert not report.violations


def test_shorter_contexts_have_no_actions_in_front(worlds: Any) -> None:
    dreams = DreamVectorEnv(8, **options(worlds("box"), context_length=(1, 4), context_info=True))
    _, info = dreams.reset(seed=0)
    own = (
        np.arange(info["context_actions"].shape[1])
        >= info["context_actions"].shape[1] - info["context_length"][:, None]
    )
    assert np.isnan(info["context_actions"][~own]).all()
    assert len(set(info["context_length"].tolist())) > 1


@pytest.mark.parametrize(
    ("kind", "actions", "message"),
    [
        ("box", np.zeros((2, 3)), r"numbers of shape \(2, 2\), got torch.float64 \(2, 3\)"),
        ("box", np.array([[0.0, 0.0], [0.0, 0.31]]), "outside the action space: 2 numbers from"),
        ("box", np.array([[0.0, 0.0], [0.0, np.nan]]), "outside the action space"),
        ("choices", np.zeros((2, 2)), r"whole numbers of shape \(2, 2\)"),
        ("choices", np.array([[0, 0], [3, 0]]), r"outside the action space: 2 choices of \[3, 5\]"),
        ("bits", np.array([[0, 0, 0, -1], [0, 0, 0, 0]]), "outside the action space: 4 choices of 2"),
        ("dict", np.zeros((2, 5)), r"a dictionary with the keys \['camera', 'gear', 'keys'\], got ndarray"),
        ("dict", {"camera": np.zeros((2, 2)), "gear": np.zeros(2, int)}, r"got \['camera', 'gear'\]"),
        (
            "dict",
            {"camera": np.zeros((2, 2)), "gear": np.zeros((2, 1), int), "keys": np.zeros((2, 2), bool)},
            r"'gear' of actions must be whole numbers of shape \(2,\)",
        ),
    ],
)
def test_other_actions_are_refused(worlds: Any, kind: str, actions: Any, message: str) -> None:
    dreams = DreamVectorEnv(2, **options(worlds(kind)))
    dreams.reset(seed=0)
    with pytest.raises(InputError, match=message):
        dreams.step(actions)


def test_a_dream_feels_every_part_of_an_action(worlds: Any) -> None:
    dreams = DreamVectorEnv(1, **options(worlds("dict")))
    dreams.reset(seed=0)
    start, seen = dreams.get_state(), []
    base = {"camera": np.float32([[0.1, 0.1]]), "gear": np.array([1]), "keys": np.array([[0, 1]], np.int8)}
    changes = [{}, {"camera": np.float32([[0.1, 0.2]])}, {"gear": np.array([2])}, {"keys": np.array([[1, 1]], np.int8)}]
    for change in changes:
        dreams.set_state(start)
        seen.append(dreams.step({**base, **change})[0].tobytes())
    assert len(set(seen)) == len(changes)


@pytest.mark.parametrize("kind", ["box", "dict"])
def test_real_and_dream_take_the_same_actions(worlds: Any, kind: str) -> None:
    pair = make_pair(worlds(kind) / "model", 2, context_length=3)
    assert pair.real.single_action_space == pair.dream.single_action_space == SPACES[kind]
    pair.real.action_space.seed(0)
    for env in pair:
        env.reset(seed=1)
        features = [env.step(pair.real.action_space.sample())[0] for _ in range(12)]  # beyond an end
        assert np.stack(features).shape == (12, 2, 12)
        env.close()


@pytest.mark.parametrize("kind", ["box", "choices", "dict"])
def test_contexts_told_can_be_handed_over(worlds: Any, kind: str) -> None:
    first, second = (DreamVectorEnv(2, **options(worlds(kind), context_info=True)) for _ in range(2))
    frames, info = first.reset(seed=1)
    again, _ = second.reset(seed=1, options={key: info[key] for key in ("context_frames", "context_actions")})
    np.testing.assert_array_equal(frames, again)
    for name, tensor in first.get_state().tensors.items():
        assert torch.equal(tensor, second.get_state().tensors[name]), name


def test_whole_choices_can_be_handed_over(worlds: Any) -> None:
    first, second = (DreamVectorEnv(1, **options(worlds("choices"))) for _ in range(2))
    led, shown = np.array([[0, 1], [2, 4]]), np.zeros((1, 2, 16, 8, 3), np.uint8)
    for env, actions in ((first, led), (second, led.astype(np.float32))):
        env.reset(seed=0, options={"context_frames": shown, "context_actions": actions[None]})
    assert torch.equal(first.get_state().tensors["features"], second.get_state().tensors["features"])


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        ("box", [np.inf, 0.0]),
        ("box", [np.nan, 0.0]),
        ("box", [1e300, 0.0]),
        ("choices", [0.0, 5.0]),
        ("choices", [-1.0, 0.0]),
        ("choices", [0.5, 0.0]),
        ("choices", [0, 7]),
    ],
)
def test_context_actions_that_cannot_be_change_nothing(worlds: Any, kind: str, bad: list[float]) -> None:
    env = DreamVectorEnv(1, **options(worlds(kind)))
    env.reset(seed=0)
    before = env.get_state()
    given = {"context_frames": np.zeros((1, 1, 16, 8, 3), np.uint8), "context_actions": [[bad]]}
    with pytest.raises(InputError, match=r"'context_actions' of row 0 .* must be finite numbers \(C, 2\) of 2 "):
        env.reset(seed=7, options=given)
    after = env.get_state()
    assert all(torch.equal(tensor, after.tensors[name]) for name, tensor in before.tensors.items())


@pytest.mark.parametrize("kind", ["box", "choices"])
def test_only_discrete_actions_are_played_by_hand(worlds: Any, kind: str, tmp_path: Path) -> None:
    asked = PlayOptions(str(worlds(kind) / "model"), out=tmp_path, real="recorded")
    with pytest.raises(InputError, match=r"model takes 2 .* keys stand for discrete actions"):
        open_game(asked, by_name)


def test_contexts_of_other_actions_are_refused(worlds: Any, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"contexts hold actions of 2 numbers .* models 2 numbers from 0 to|hold actions of 2"
    ):
        DreamVectorEnv(1, **options(worlds("bits"), contexts=worlds("box") / "episodes"))
    model = random_model(small_config(num_actions=0, action_size=2), 0).float()
    save_checkpoint(tmp_path, model, world={"episodes": str(worlds("box") / "episodes")}, step=0)
    with pytest.raises(InputError, match=r"2 numbers without known bounds; train it with --env besides --episodes"):
        DreamVectorEnv(1, checkpoint=tmp_path)


def test_keys_cannot_steer_a_box(worlds: Any) -> None:
    env = gym.make(ID, **options(worlds("box")))
    env.reset(seed=0)
    env.step(np.zeros(2, np.float32))
    with pytest.raises(InputError, match="keys stand for discrete actions"):
        env.get_wrapper_attr("get_keys_to_action")()


@pytest.mark.parametrize("kind", ["box", "choices", "bits"])
def test_torchrl_rolls_out_vectors(worlds: Any, kind: str) -> None:
    pytest.importorskip("torchrl")
    from torchrl.envs.utils import check_env_specs

    dreams = DreamVectorEnv(2, **options(worlds(kind), autoreset_mode="Disabled", output="torch", terminate="never"))
    env = TorchRLEnv(dreams)
    check_env_specs(env)
    assert env.rollout(3)["action"].shape[:2] == (2, 3)


def test_stable_baselines_sees_the_box(worlds: Any) -> None:
    dreams = DreamVectorEnv(2, **options(worlds("box"), autoreset_mode="SameStep"))
    assert for_stable_baselines(dreams).action_space == SPACES["box"]


def test_the_tiny_world_is_what_its_actions_say() -> None:
    env = make(steering("dict"))
    env.reset(seed=0)
    before = env.unwrapped.point.copy()  # type: ignore[attr-defined]
    action = {"camera": np.float32([0.1, -0.1]), "gear": np.int64(2), "keys": np.array([0, 1], np.int8)}
    _, reward, *_ = env.step(action)
    np.testing.assert_allclose(moved("dict", action), [0.2, 0.0], atol=1e-6)
    after = np.clip(before + np.array([0.2, 0]), 0, 1)
    assert reward == pytest.approx(1 - 2 * np.abs(after - TARGET).sum(), abs=1e-6)
