"""The world model's features on real frames are those of whole episodes, whatever resets when; the pair of worlds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from lssvwm.agents.policies.baselines import RandomPolicy
from lssvwm.envs.checker import check_vector_env
from lssvwm.envs.dream import DreamVectorEnv
from lssvwm.envs.factory import EnvConfig, make, make_vec
from lssvwm.envs.features import WorldModelFeatures, make_pair
from lssvwm.envs.recording.recorder import record
from lssvwm.worldmodel.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import EpisodeStore
from worlds import random_model, small_config

MODES = list(AutoresetMode)
CONTEXT = 3
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


class Walk(gym.Env[Any, Any]):
    """Every history of actions has a picture of its own; ends after 4 to 6 steps, as the seed decides."""

    observation_space = gym.spaces.Box(0, 255, (16, 8, 3), np.uint8)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.path = [int(self.np_random.integers(1000))]
        return self.look(), {"steps": 0}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.path.append(int(action))
        steps = len(self.path) - 1
        return self.look(), float(action), steps == 4 + self.path[0] % 3, False, {"steps": steps}

    def look(self) -> Any:
        coarse = np.random.default_rng(self.path).integers(256, size=(4, 2, 3), dtype=np.uint8)
        return coarse.repeat(4, 0).repeat(4, 1)


@pytest.fixture(scope="module", autouse=True)
def walk() -> Iterator[None]:
    gym.register("test/Walk-v0", entry_point=Walk)
    yield
    del gym.registry["test/Walk-v0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, walk: None) -> Path:
    """A model with random weights of Walk, and episodes so short that every context begins with its episode."""
    root = tmp_path_factory.mktemp("run")
    store = EpisodeStore(root / "episodes", create=True)
    short = EnvConfig("test/Walk-v0", max_episode_steps=CONTEXT)
    record(short, store, RandomPolicy(3), episodes=6, num_envs=2, seed=7, processes=False, progress=False)
    world = {"num_actions": 3, "episodes": "../episodes", "env": EnvConfig("test/Walk-v0").to_dict()}
    save_checkpoint(root / "model", random_model(small_config(), 0).float(), world=world, step=0)
    return root / "model"


def rows_of(mode: AutoresetMode, rows: int = 3) -> Any:
    config = EnvConfig("test/Walk-v0")
    if mode is AutoresetMode.DISABLED:
        return make_vec(config, rows, processes=False)
    return SyncVectorEnv([lambda: make(config)] * rows, autoreset_mode=mode)


def array(value: Any) -> Any:
    return value.numpy() if isinstance(value, torch.Tensor) else value


class Track:
    """What one row showed, episode by episode: frames, the actions that led there, features."""

    def __init__(self) -> None:
        self.episodes: list[list[tuple[Any, int, Any]]] = []

    def begin(self, frame: Any, features: Any) -> None:
        self.episodes.append([(frame, -1, features)])

    def add(self, frame: Any, action: int, features: Any) -> None:
        self.episodes[-1].append((frame, action, features))


def play(envs: Any, mode: AutoresetMode, steps: int) -> list[Track]:
    """Play random actions, and put the observations together by what the autoreset mode promises."""
    source, tracks = np.random.default_rng(3), [Track() for _ in range(envs.num_envs)]
    shown, _ = envs.reset(seed=11)
    for row, track in enumerate(tracks):
        track.begin(array(shown["frame"][row]), array(shown["features"][row]))
    ended = np.zeros(envs.num_envs, bool)
    for _ in range(steps):
        if mode is AutoresetMode.DISABLED and ended.any():
            shown, _ = envs.reset(options={"reset_mask": ended})
            for row in np.flatnonzero(ended):
                tracks[row].begin(array(shown["frame"][row]), array(shown["features"][row]))
        actions = source.integers(3, size=envs.num_envs)
        shown, _, terminated, truncated, info = envs.step(actions)
        done = array(terminated) | array(truncated)
        for row, track in enumerate(tracks):
            here = array(shown["frame"][row]), array(shown["features"][row])
            if mode is AutoresetMode.NEXT_STEP and ended[row]:
                track.begin(*here)
            elif mode is AutoresetMode.SAME_STEP and done[row]:
                last = info["final_obs"]
                frame, features = (
                    (last["frame"][row], last["features"][row])
                    if isinstance(last, dict)
                    else (last[row]["frame"], last[row]["features"])
                )
                track.add(array(frame), int(actions[row]), array(features))
                track.begin(*here)
            else:
                track.add(here[0], int(actions[row]), here[1])
        ended = done
    return tracks


def frames_of(envs: Any, mode: AutoresetMode, steps: int) -> list[Any]:
    """Every frame that a game of random actions shows, final ones too."""
    source, ended = np.random.default_rng(3), np.zeros(3, bool)

    def frame(observation: Any) -> Any:
        return observation["frame"] if isinstance(observation, dict) else observation

    found = [*frame(envs.reset(seed=11)[0])]
    for _ in range(steps):
        if mode is AutoresetMode.DISABLED and ended.any():
            found += [*frame(envs.reset(options={"reset_mask": ended})[0])]
        observation, _, terminated, truncated, info = envs.step(source.integers(3, size=3))
        assert observation in envs.observation_space
        found += [*frame(observation), *(frame(last) for last in info.get("final_obs", ()) if last is not None)]
        ended = terminated | truncated
    return found


@pytest.mark.parametrize("output", ["numpy", "torch"])
@pytest.mark.parametrize("mode", MODES)
def test_features_are_those_of_each_episode_observed_by_itself(folder: Path, mode: AutoresetMode, output: Any) -> None:
    envs = WorldModelFeatures(rows_of(mode), folder, observation="both", output=output)
    tracks = play(envs, mode, steps=14)
    episodes = [episode for track in tracks for episode in track.episodes]
    assert len(episodes) >= 8
    for episode in episodes:
        frames = torch.from_numpy(np.stack([frame for frame, _, _ in episode]))[None]
        actions = torch.tensor([[action for _, action, _ in episode]])
        with torch.no_grad():
            expected = envs.model.observe(frames, actions)[0].features[0]
        told = torch.from_numpy(np.stack([features for _, _, features in episode]))
        assert told.dtype == torch.float32
        torch.testing.assert_close(told, expected, **CLOSE)
    ends = [episode for track in tracks for episode in track.episodes[:-1]]
    assert ends
    assert all(5 <= len(episode) <= 7 for episode in ends)


@pytest.mark.parametrize("mode", MODES)
def test_frames_are_those_of_the_environment(folder: Path, mode: AutoresetMode) -> None:
    watched = frames_of(WorldModelFeatures(rows_of(mode), folder, observation="both"), mode, 10)
    assert np.array_equal(np.stack(watched), np.stack(frames_of(rows_of(mode), mode, 10)))


@pytest.mark.parametrize("mode", MODES)
def test_a_reset_forgets_everything(folder: Path, mode: AutoresetMode) -> None:
    envs, fresh = (WorldModelFeatures(rows_of(mode), folder) for _ in range(2))
    envs.reset(seed=0)
    for _ in range(8):
        _, _, terminated, _, _ = envs.step([0, 1, 2])
        if terminated.any():
            break
    assert terminated.any()
    assert np.array_equal(envs.reset(seed=5)[0], fresh.reset(seed=5)[0])
    assert np.array_equal(envs.step([2, 1, 0])[0], fresh.step([2, 1, 0])[0])


def test_a_partial_reset_leaves_the_other_rows_alone(folder: Path) -> None:
    create = [lambda: make(EnvConfig("test/Walk-v0"))] * 3  # gymnasium's own rows change the options they are given
    envs, twin = (
        WorldModelFeatures(SyncVectorEnv(create, autoreset_mode=AutoresetMode.DISABLED), folder) for _ in range(2)
    )
    for each in (envs, twin):
        each.reset(seed=0)
        before, *_ = each.step([1, 2, 0])
    options = {"reset_mask": np.array([False, True, False])}
    after, _ = envs.reset(seed=[None, 5, None], options=options)
    assert list(options) == ["reset_mask"]
    assert np.array_equal(after[[0, 2]], before[[0, 2]])
    assert not np.allclose(after[1], before[1])
    others, *_ = envs.step([2, 2, 1])
    expected, *_ = twin.step([2, 2, 1])
    assert np.array_equal(others[[0, 2]], expected[[0, 2]])


def test_observations_belong_to_the_caller(folder: Path) -> None:
    kept, scribbled = (
        WorldModelFeatures(rows_of(AutoresetMode.DISABLED), folder, observation="both") for _ in range(2)
    )
    one, two = kept.reset(seed=1)[0], scribbled.reset(seed=1)[0]
    for action in ([0, 1, 2], [2, 2, 0], [1, 0, 1]):
        for part in two.values():
            part[...] = 7
        one, two = kept.step(action)[0], scribbled.step(action)[0]
        assert np.array_equal(one["features"], two["features"])
        assert np.array_equal(one["frame"], two["frame"])


def test_rewards_and_infos_go_through(folder: Path) -> None:
    envs = WorldModelFeatures(rows_of(AutoresetMode.SAME_STEP), folder, output="torch")
    _, info = envs.reset(seed=2)
    assert info["steps"].tolist() == [0, 0, 0]
    features, reward, terminated, _, info = envs.step(torch.tensor([2, 0, 1]))
    assert features.shape == (3, 12)
    assert torch.equal(reward, torch.tensor([2.0, 0.0, 1.0], dtype=torch.float64))
    assert terminated.dtype == torch.bool
    assert info["steps"].tolist() == [1, 1, 1]
    assert envs.metadata["autoreset_mode"] is envs.autoreset_mode is AutoresetMode.SAME_STEP


@pytest.mark.parametrize("output", ["numpy", "torch"])
def test_dreams_can_be_watched_too(folder: Path, output: Any) -> None:
    """Their final frames come as objects or as one batch, their frames as arrays or tensors."""
    dreams = DreamVectorEnv(
        2,
        checkpoint=folder,
        context_length=CONTEXT,
        max_episode_steps=3,
        terminate="never",
        autoreset_mode="SameStep",
        output=output,
    )
    tracks = play(WorldModelFeatures(dreams, folder, observation="both"), AutoresetMode.SAME_STEP, steps=7)
    model = load_checkpoint(folder).model
    for episode in (episode for track in tracks for episode in track.episodes):
        frames = torch.from_numpy(np.stack([frame for frame, _, _ in episode]))[None]
        with torch.no_grad():
            expected = model.observe(frames, torch.tensor([[action for _, action, _ in episode]]))[0].features[0]
        torch.testing.assert_close(torch.from_numpy(np.stack([f for _, _, f in episode])), expected, **CLOSE)


@pytest.mark.parametrize("observation", ["features", "frame", "both"])
@pytest.mark.parametrize("output", ["numpy", "torch"])
@pytest.mark.parametrize("mode", MODES)
def test_a_pair_agrees_in_spaces_types_and_mode(folder: Path, mode: Any, output: Any, observation: Any) -> None:
    settings: dict[str, Any] = {"observation": observation, "output": output, "autoreset_mode": mode}
    pair = make_pair(folder, 2, **settings, channels_first=True, context_length=CONTEXT)
    assert pair.real.observation_space == pair.dream.observation_space
    assert pair.real.single_observation_space == pair.dream.single_observation_space
    assert pair.real.action_space == pair.dream.action_space
    assert pair.real.single_action_space == pair.dream.single_action_space
    assert pair.real.metadata["autoreset_mode"] is pair.dream.metadata["autoreset_mode"] is mode

    def kinds(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: kinds(part) for key, part in value.items()}
        return type(value), value.dtype, value.shape

    actions = pair.dream.action_space.sample()
    assert kinds(pair.real.reset(seed=0)[0]) == kinds(pair.dream.reset(seed=0)[0])
    assert [kinds(v) for v in pair.real.step(actions)[:4]] == [kinds(v) for v in pair.dream.step(actions)[:4]]


def test_a_dream_begins_where_the_real_episode_stands(folder: Path) -> None:
    """The context of a dream, played for real: the same frames, and features up to float error."""
    pair = make_pair(
        folder, 3, observation="both", autoreset_mode="Disabled", context_length=CONTEXT, context_info=True
    )
    dreamt, info = pair.dream.reset(seed=4)
    frames, actions = info["context_frames"], info["context_actions"]
    store = EpisodeStore(folder.parent / "episodes")
    episodes = [store.read(name) for name in store.names]
    seeds = [
        next(int(e.extras["seed"]) for e in episodes if np.array_equal(e.image[:CONTEXT], frames[row]))
        for row in range(3)
    ]
    assert len(set(seeds)) > 1
    shown, _ = pair.real.reset(seed=seeds)
    assert np.array_equal(shown["frame"], frames[:, 0])
    for t in range(1, CONTEXT):
        shown, *_ = pair.real.step(actions[:, t])
        assert np.array_equal(shown["frame"], frames[:, t])
    assert np.array_equal(shown["frame"], dreamt["frame"])
    np.testing.assert_allclose(shown["features"], dreamt["features"], **CLOSE)


def test_dreamt_features_are_those_of_the_dreamt_frames(folder: Path) -> None:
    """Observing what a dream showed, as if it were real, tells what the dream told."""
    dream = make_pair(folder, 2, observation="both", context_length=CONTEXT, context_info=True, terminate="never").dream
    shown, info = dream.reset(seed=4)
    frames, actions = [*info["context_frames"].swapaxes(0, 1)], [*info["context_actions"].swapaxes(0, 1)]
    told = [shown["features"]]
    for action in np.random.default_rng(0).integers(3, size=(5, 2)):
        shown, *_ = dream.step(action)
        frames.append(shown["frame"])
        actions.append(action)
        told.append(shown["features"])
    clip = torch.from_numpy(np.stack(frames, 1)), torch.from_numpy(np.stack(actions, 1))
    with torch.no_grad():
        seen = dream.model.observe(*clip)[0].features[:, CONTEXT - 1 :]
    torch.testing.assert_close(torch.from_numpy(np.stack(told, 1)), seen, **CLOSE)


def test_what_learned_on_dreamt_features_acts_on_real_ones(folder: Path) -> None:
    pair = make_pair(folder, 2, output="torch", autoreset_mode="SameStep", context_length=CONTEXT)
    policy = torch.nn.Linear(12, 3)
    for envs in pair:
        features, _ = envs.reset(seed=0)
        for _ in range(8):
            features, *_ = envs.step(policy(features).argmax(1))
        assert features.numpy() in envs.observation_space


def test_environments_that_do_not_fit_are_refused(folder: Path) -> None:
    larger = gym.make_vec("CartPole-v1", 2, vectorization_mode="sync")
    with pytest.raises(InputError, match=r"environments observe Box.*models Box\(0, 255, \(16, 8, 3\), uint8\)"):
        WorldModelFeatures(larger, folder)
    fewer = make_vec(EnvConfig("test/Walk-v0", actions=(0, 1)), 2, processes=False)
    with pytest.raises(InputError, match=r"take the actions Discrete\(2\).*models Discrete\(3\)"):
        WorldModelFeatures(fewer, folder)
    loaded = load_checkpoint(folder)
    nameless = Checkpoint(loaded.model, {**loaded.world, "env": None}, 0, folder)
    with pytest.raises(InputError, match="names no real environment"):
        make_pair(nameless, 2, context_length=CONTEXT)
    posed = Checkpoint(random_model(small_config(pose_size=2), 0).float(), {}, 0, folder)
    with pytest.raises(InputError, match="no model of an environment"):
        WorldModelFeatures(rows_of(AutoresetMode.DISABLED), posed)


def test_the_contract_of_vector_environments_holds(folder: Path) -> None:
    def create(num_envs: int, autoreset_mode: AutoresetMode) -> WorldModelFeatures:
        rows = [lambda: make(EnvConfig("test/Walk-v0"))] * num_envs
        return WorldModelFeatures(SyncVectorEnv(rows, autoreset_mode=autoreset_mode), folder, observation="both")

    report = check_vector_env(create, modes=MODES, steps=25)
    assert not report.codes, str(report)
