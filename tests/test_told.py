"""Goals in words and numbers: from what a world tells to recordings, world models, dreams and policies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from doors import CODES, COLORS, doors
from exact_worlds import GoalWorld
from lssvwm.agents.dreamer.dreamer import Dreamer, DreamerConfig
from lssvwm.agents.model_free.ppo import PPO, PPOConfig
from lssvwm.agents.model_free.recurrent import RecurrentPolicy, load_net
from lssvwm.agents.policies.baselines import RandomPolicy
from lssvwm.envs.dream import DreamVectorEnv
from lssvwm.envs.factory import make_vec
from lssvwm.envs.features import WorldModelFeatures
from lssvwm.envs.policy import Policy
from lssvwm.envs.recording.recorder import record
from lssvwm.worldmodel.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.episodes.packed import pack
from lssvwm.worldmodel.told import MOST, ToldPart, told_apart, told_in, told_now, told_parts, words_of
from vector_play import play
from worlds import assert_close, generator, random_clips, random_model, small_config

WORDS = ToldPart("mission", (4,), ("ball", "box", "near", "the"))
NUMBERS = ToldPart("goal", (2,))
TOLD = small_config(told=(WORDS, NUMBERS))


def store_of(root: Path, changing: bool = False, episodes: int = 16) -> EpisodeStore:
    store = EpisodeStore(root, create=True)
    record(
        doors(changing),
        store,
        RandomPolicy(3),
        episodes=episodes,
        num_envs=1,
        seed=0,
        processes=False,
        progress=False,
    )
    return store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes of the world, and a world model with random weights that is told its missions."""
    root = tmp_path_factory.mktemp("told")
    store = store_of(root / "episodes")
    config = small_config(height=8, width=8, told=told_parts(store, ["mission"]), patch=4, tiles=((1, 1),))
    world = {"num_actions": 3, "episodes": "../episodes", "env": doors().to_dict()}
    save_checkpoint(root / "model", random_model(config, 0).float(), world=world, step=0)
    return root


@pytest.fixture
def dream(folder: Path) -> Iterator[DreamVectorEnv]:
    env = DreamVectorEnv(3, checkpoint=folder / "model", context_length=1, max_episode_steps=2, terminate="never")
    yield env
    env.close()


# Words and numbers


def test_a_text_is_the_same_numbers_everywhere_and_comes_back() -> None:
    assert words_of("put the red-ball, then stop.") == ["put", "the", "red-ball", ",", "then", "stop", "."]
    part = ToldPart("mission", (6,), (",", ".", "Go", "box", "the"))
    numbers = part.encode("Go the box, the.", "it")
    assert numbers.tolist() == [3, 5, 4, 1, 5, 2]
    assert part.decode(numbers) == "Go the box, the."
    assert part.encode("", "it").tolist() == [0] * 6
    assert part.decode(np.zeros(6, np.float32)) == ""
    assert NUMBERS.encode([3, -1], "it").tolist() == [3, -1]
    assert ToldPart("n").encode(np.int64(7), "it").tolist() == [7]


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        (WORDS, "the cat", "it: 'mission' is 'the cat', .* no word 'cat', only ball, box, near, the: record"),
        (WORDS, "the box near the ball", "which has 5 words; the world model has learned texts of 4 at most"),
        (WORDS, 3, "'mission' must be a text, got 3"),
        (NUMBERS, [1, 2, 3], r"'goal' must be numbers of shape \(2,\), got \[1, 2, 3\]"),
        (NUMBERS, "far", r"must be numbers of shape \(2,\)"),
        (NUMBERS, [[1], [2, 3]], r"must be numbers of shape \(2,\)"),
        (NUMBERS, [np.nan, 0], "'goal' is not finite"),
        (NUMBERS, [1e300, 0], "'goal' is not finite"),
    ],
)
def test_what_cannot_be_told_is_named(part: ToldPart, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        part.encode(value, "it")


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ([{"key": "image", "shape": [8, 9]}], rf"'image' cannot be told: it has 72 numbers \(8, 9\), give 1 to {MOST}"),
        ([{"key": "mission", "shape": [65], "words": ["a"]}], "'mission' cannot be told: it has 65 words"),
        ([{"key": "mission", "shape": [2], "words": []}], "told 'mission' is no text"),
        ([{"key": "mission", "shape": [2], "words": ["a", "a"]}], "told 'mission' is no text"),
        ([{"key": "m", "shape": [1], "words": [str(n) for n in range(5000)]}], "5000 different words, give 4096"),
        ([{"shape": [2]}], r"a part has the keys \['shape'\]"),
        ([{"key": "a", "size": 2}], "a part has the keys"),
        ([{"key": 3}], "told.key=3: give text"),
        ([{"key": "a"}, {"key": "a"}], "names a key twice"),
        ("mission", "told='mission'"),
        (["mission"], "told="),
    ],
)
def test_a_config_that_tells_nonsense_is_refused(told: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        WorldModelConfig.from_dict({**small_config().to_dict(), "told": told})


def test_a_config_travels_as_json_and_older_ones_tell_nothing() -> None:
    plain = json.loads(json.dumps(TOLD.to_dict()))
    assert plain["told"][0] == {"key": "mission", "shape": [4], "words": ["ball", "box", "near", "the"]}
    assert WorldModelConfig.from_dict(plain) == TOLD
    del plain["told"]
    assert WorldModelConfig.from_dict(plain).told == ()
    names = set(random_model(small_config(), 0).state_dict())
    assert not any("goal" in name for name in names)  # so that weights of before fit


# Recordings


def test_a_text_is_recorded_once_unless_it_changes(tmp_path: Path) -> None:
    store = store_of(tmp_path / "same")
    for name in store.names:
        extras = store.read(name).extras
        assert extras["mission"].shape == ()
        color = str(extras["mission"]).split()[2]
        assert extras["code"].tolist() == [CODES[color].tolist()] * 2
    changing = store_of(tmp_path / "changing", changing=True)
    extras = changing.read(changing.names[0]).extras
    assert extras["mission"].shape == (3,)
    told = [COLORS.index(str(text).split()[2]) for text in extras["mission"]]
    assert told == [(told[0] + t) % 3 for t in range(3)]


def test_every_frame_of_a_clip_is_told_what_was_recorded_with_it(tmp_path: Path) -> None:
    plain = store_of(tmp_path, changing=True)
    parts = told_parts(plain, ["code", "mission"])
    assert parts[0] == ToldPart("code", (2,))
    assert parts[1] == ToldPart("mission", (6,), (",", *sorted(("blue", "door", "green", "now", "open", "red", "the"))))
    store = EpisodeStore(tmp_path, told=parts)
    clips = store.sample(16, 5, np.random.default_rng(0))
    assert clips.told is not None
    assert (clips.told.shape, clips.told.dtype) == ((16, 5, 8), torch.float32)
    assert not clips.told[~clips.mask].any()
    for row in range(16):
        shown = int(clips.mask[row].sum())
        told = told_apart(clips.told[row, :shown].numpy(), parts)
        for code, text in zip(told["code"], told["mission"], strict=True):
            assert CODES[text.split()[2]].tolist() == code.tolist()
            assert text.endswith("door, now")
    assert plain.sample(2, 3, np.random.default_rng(0)).told is None
    pack(tmp_path / "contexts.npz", store)
    packed = EpisodeStore(tmp_path / "contexts.npz", told=parts)

    def by_seed(some: EpisodeStore) -> dict[int, Any]:
        first, rows = np.zeros(1, np.int64), range(len(some))
        return {
            int(some.read(some.names[row]).extras["seed"]): some.gather(np.array([row]), first, 3).told for row in rows
        }

    whole = by_seed(store)
    assert all(torch.equal(told, whole[seed]) for seed, told in by_seed(packed).items())


def test_what_the_episodes_lack_is_named(tmp_path: Path) -> None:
    store = store_of(tmp_path, episodes=2)
    with pytest.raises(InputError, match=f"--tell smell: {store.names[0]} has no such extra"):
        told_parts(store, ["smell"])
    with pytest.raises(InputError, match=r"--tell seed: .* has no such extra"):
        told_parts(store, ["seed"])
    episode = store.read(store.names[0])
    other = {"mission": np.array(["open", "shut"]), "code": np.zeros((2, 3))}
    store.append(replace(episode, extras={**episode.extras, **other}))
    with pytest.raises(InputError, match=r"--tell code: episodes have it as numbers of \[\(2,\), \(3,\)\]"):
        told_parts(store, ["code"])
    unknown = EpisodeStore(tmp_path, told=[ToldPart("mission", (6,), ("open", "shut"))], strict=True)
    with pytest.raises(InputError, match=r"\.episode: 'mission' is .* no word 'the'"):
        unknown.sample(8, 2, np.random.default_rng(0))
    with pytest.raises(InputError, match="'smell' is told to the model, but there is no such extra with every frame"):
        told_in(episode.extras, 2, [ToldPart("smell")], "it")
    blank = {**episode.extras, "mission": np.array("")}
    empty = EpisodeStore(tmp_path / "blank", create=True)
    empty.append(replace(episode, extras=blank))
    with pytest.raises(InputError, match="--tell mission: no episode has a word there"):
        told_parts(empty, ["mission"])


# The model


def told_for(rows: int, frames: int, seed: int = 3) -> torch.Tensor:
    words = torch.randint(5, (rows, frames, 4), generator=generator(seed)).float()
    return torch.cat([words, 9 * torch.randn(rows, frames, 2, generator=generator(seed))], -1)


def test_each_frame_is_conditioned_on_what_it_is_told_and_dreams_carry_it_on() -> None:
    model, clips, told = random_model(TOLD, 0), random_clips(TOLD, [6, 6], 6, 1), told_for(2, 6)
    seen, memory = model.observe(clips.frames, clips.actions, told=told)
    for column in (0, 3, 4, 5):
        other = told.clone()
        other[0, 3, column] = (other[0, 3, column] + 1) % 5
        changed, _ = model.observe(clips.frames, clips.actions, told=other)
        differ = (changed.features != seen.features).any(-1)
        assert differ.tolist() == [[False] * 3 + [True] * 3, [False] * 6], column
    swapped = torch.cat([told[..., [1, 0]], told[..., 2:]], -1)
    assert not torch.equal(swapped, told)
    assert not torch.allclose(model.observe(clips.frames, clips.actions, told=swapped)[0].features, seen.features)
    first, middle = model.observe(clips.frames[:, :4], clips.actions[:, :4], told=told[:, :4])
    second, after = model.observe(clips.frames[:, 4:], clips.actions[:, 4:], middle, told=told[:, 4:])
    assert_close(torch.cat([first.features, second.features], 1), seen.features)
    assert_close(after, memory)
    dreamt = model.imagine(clips.actions[:, 1].clamp(min=0), memory, generator=generator(4))
    shown, again = model.observe(dreamt.frame[:, None], clips.actions[:, 1:2].clamp(min=0), memory, told=told[:, -1:])
    assert_close(shown.features[:, 0], dreamt.features)
    assert_close(again, dreamt.memory)
    assert_close(memory.load_state_dict(memory.state_dict()), memory)
    assert_close(memory.put(torch.tensor([0]), memory.select(torch.tensor([1]))).told, told[[1, 1], -1])


@pytest.mark.parametrize("forcing", ["teacher", "diffusion"])
def test_learning_reaches_what_is_told_and_carries_it(forcing: Any) -> None:
    config = replace(TOLD, forcing=forcing)
    model = random_model(config, 0).train()
    clips = replace(random_clips(config, [6, 6], 6, 1), told=told_for(2, 6))
    losses = model(clips, model.draw(clips, generator(2)), carry=True)
    losses.total.backward()
    assert all(bool(p.grad.abs().sum() > 0) for n, p in model.named_parameters() if "backbone.goal" in n)  # type: ignore[union-attr]
    assert_close(losses.memory, model.observe(clips.frames, clips.actions, told=clips.told)[1])


def test_a_model_that_is_told_something_has_to_be_told_it() -> None:
    model, clips = random_model(TOLD, 0), random_clips(TOLD, [3], 3, 1)
    with pytest.raises(InputError, match=r"is told mission, goal with every frame: give told \(B, T, 6\)"):
        model.observe(clips.frames, clips.actions)
    with pytest.raises(InputError, match="is told mission"):
        model.draw(clips, generator(0))
    with pytest.raises(ValueError, match=r"told must be floating \(1, 3, 6\)"):
        model.observe(clips.frames, clips.actions, told=told_for(1, 2))
    with pytest.raises(InputError, match="is told nothing: leave it out"):
        random_model(small_config(), 0).observe(clips.frames, clips.actions, told=told_for(1, 3))


# Dreams


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_a_row_is_told_what_its_context_was_until_it_begins_anew(folder: Path, mode: str) -> None:
    store = EpisodeStore(folder / "episodes")
    env = DreamVectorEnv(
        4, checkpoint=folder / "model", context_length=1, max_episode_steps=2, terminate="never", autoreset_mode=mode
    )
    twin = DreamVectorEnv(4, checkpoint=folder / "model", context_length="all", max_episode_steps=2, terminate="never")
    where = {"episode": list(store.names[:4]), "start": [0] * 4}
    recorded = [str(store.read_array(name, "mission")) for name in store.names[:4]]
    for one in (env, twin):
        _, info = one.reset(seed=0, options=where)
        assert info["mission"].tolist() == recorded
        assert info["_mission"].tolist() == [True] * 4
    actions = np.zeros(4, np.int64)
    assert env.step(actions)[-1]["mission"].tolist() == recorded
    *_, truncated, info = env.step(actions)
    assert truncated.all()
    if mode == "SameStep":
        assert info["final_info"]["mission"].tolist() == recorded
    else:
        assert info["mission"].tolist() == recorded
    if mode == "Disabled":
        _, info = env.reset(options={**where, "reset_mask": np.array([True, False, True, False])})
        assert info["_mission"].tolist() == [True, False, True, False]
    told = env._dreams.memory.told
    assert told is not None
    texts = told_apart(told.numpy(), env.model.config.told)["mission"].tolist()
    has = info["_mission"]
    assert [texts[row] for row in np.flatnonzero(has)] == info["mission"][has].tolist()


def test_a_reset_can_tell_something_else(dream: DreamVectorEnv, folder: Path) -> None:
    first = EpisodeStore(folder / "episodes").names[0]
    context: dict[str, Any] = {"episode": [first] * 3, "start": [0] * 3}
    told = {"mission": ["open the red door", None, "open the blue door"]}
    _, recorded = dream.reset(seed=0, options=context)
    _, info = dream.reset(seed=0, options={**context, "told": told})
    assert info["mission"].tolist() == [told["mission"][0], recorded["mission"][1], told["mission"][2]]
    same = {"mission": ["open the red door"] * 3}
    frames, _ = dream.reset(seed=[1, 1, 1], options={**context, "told": same})
    handed = {"context_frames": frames[:, None], "context_actions": np.full((3, 1), -1), "told": same}
    state = dream.get_state()
    dreamt = dream.step(np.zeros(3, np.int64))[0]
    assert (dreamt[0] == dreamt[1]).all()
    dream.reset(seed=[1, 1, 1], options=handed)
    np.testing.assert_array_equal(dream.step(np.zeros(3, np.int64))[0], dreamt)
    dream.reset(seed=[1, 1, 1], options={**context, "told": {"mission": ["now"] * 3}})
    assert (dream.step(np.zeros(3, np.int64))[0] != dreamt).any()
    dream.set_state(state)
    for env in (dream, dream.clone(1)):
        shown, *_, info = env.step(np.zeros(3, np.int64))
        np.testing.assert_array_equal(shown, dreamt)
        assert info["mission"].tolist() == same["mission"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"told": {"mission": ["fly"] * 3}}, "'told' of row 0 in reset.*no word 'fly'"),
        ({"told": {"mission": [None, None, 5]}}, "'told' of row 2 in reset.*must be a text, got 5"),
        ({"told": {"mission": ["now"]}}, "'mission' in reset.* needs 3 entries"),
        ({"told": {"goal": [1, 2, 3]}}, r"keys that the world model is told, \['mission'\], got 'goal'"),
        ({"told": "now"}, "must be a dictionary.* got str"),
        (
            {"context_frames": np.zeros((3, 1, 8, 8, 3), np.uint8), "context_actions": np.full((3, 1), -1)},
            "do not say what the world model is told: give 'told' with 'mission' too",
        ),
    ],
)
def test_options_that_tell_nonsense_are_refused(dream: DreamVectorEnv, options: Any, message: str) -> None:
    _, before = dream.reset(seed=0)
    with pytest.raises(InputError, match=message):
        dream.reset(options=options)
    assert dream.step(np.zeros(3, np.int64))[-1]["mission"].tolist() == before["mission"].tolist()


def test_a_single_dream_is_told_a_plain_text(folder: Path) -> None:
    env = gym.make("lssvwm:lssvwm/Dream-v0", checkpoint=str(folder / "model"), context_length=1)
    _, info = env.reset(seed=0, options={"told": {"mission": "open the red door"}})
    assert info == {"mission": "open the red door"}
    assert env.step(0)[-1]["mission"] == "open the red door"
    env.close()


def test_contexts_that_tell_nothing_are_refused_when_the_dream_is_made(folder: Path, tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path, create=True)
    old = EpisodeStore(folder / "episodes")
    for name in old.names:
        store.append(replace(old.read(name), extras={}))
    with pytest.raises(InputError, match="'mission' is told to the model, but there is no such extra"):
        DreamVectorEnv(2, checkpoint=folder / "model", contexts=tmp_path, context_length=1)


@pytest.mark.parametrize("mode", list(gym.vector.AutoresetMode))
def test_features_of_the_real_world_know_what_it_tells(folder: Path, mode: Any) -> None:
    loaded = load_checkpoint(folder / "model")
    model, parts = loaded.model, loaded.model.config.told
    raw = make_vec(doors(), 2, processes=False, autoreset_mode=mode)
    envs = WorldModelFeatures(make_vec(doors(), 2, processes=False, autoreset_mode=mode), loaded)
    features, info = envs.reset(seed=3)
    frames, _ = raw.reset(seed=3)
    told = told_now(info, 2, parts)
    actions = np.array([0, 1])

    def expected(*shown: Any) -> Any:
        led = torch.tensor([[-1, 0], [-1, 1]])[:, : len(shown)]
        video = torch.from_numpy(np.stack(shown, 1))
        goals = torch.from_numpy(told)[:, None].expand(-1, len(shown), -1)
        return model.observe(video, led, told=goals)[0].features[:, -1].numpy()

    np.testing.assert_allclose(features, expected(frames), rtol=1e-4, atol=1e-4)
    begun = frames.copy()
    features, *_, info = envs.step(actions)
    frames, *_, raw_info = raw.step(actions)
    if mode is gym.vector.AutoresetMode.SAME_STEP:
        last = np.stack(list(info["final_obs"]))
        np.testing.assert_allclose(last, expected(begun, np.stack(list(raw_info["final_obs"]))), rtol=1e-4, atol=1e-4)
        told = told_now(info, 2, parts)
        np.testing.assert_allclose(features, expected(frames), rtol=1e-4, atol=1e-4)
    else:
        np.testing.assert_allclose(features, expected(begun, frames), rtol=1e-4, atol=1e-4)


def test_an_environment_that_does_not_tell_is_named() -> None:
    with pytest.raises(InputError, match=r"'mission', which the environment does not tell in its info, only \['a'\]"):
        told_now({"a": [1]}, 2, [WORDS])
    half = {"mission": np.array(["the box", None], object), "_mission": np.array([True, False])}
    with pytest.raises(InputError, match="is told 'mission'"):
        told_now(half, 2, [WORDS])
    last = np.full((2, 4), 1, np.float32)
    assert told_now(half, 2, [WORDS], last).tolist() == [[4, 2, 0, 0], [1] * 4]


# Policies: every frame looks alike, and which action is right only the goal says


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_of(tmp_path_factory.mktemp("goals") / "episodes", episodes=60).root


def right(policy: Policy) -> float:
    """The share of 60 real episodes in which the right door is opened; a third is chance."""
    envs = make_vec(doors(), 4, processes=False)
    episodes = list(play(envs, policy, range(1000, 1060)))
    envs.close()
    return float(np.mean([episode.reward.sum() for episode in episodes]))


@pytest.mark.parametrize("keys", [("mission",), ("code",), ()])
def test_a_dreamer_that_is_told_the_goal_is_right_and_one_that_is_not_guesses(
    recorded: Path, tmp_path: Path, keys: tuple[str, ...]
) -> None:
    parts = told_parts(EpisodeStore(recorded), keys)
    world: Any = GoalWorld(parts)
    settings = DreamerConfig(rows=64, horizon=2, context=1, lr=5e-3, hidden=32, layers=1)
    dreamer = Dreamer(world, EpisodeStore(recorded, told=parts), settings, tmp_path)
    dreamer.train(25, progress=False)
    earned = right(dreamer.policy(greedy=True))
    assert earned == 1.0 if keys else earned < 0.6


@pytest.mark.parametrize("keys", [("mission",), ()])
def test_ppo_in_dreams_hears_the_goal_and_plays_by_it(recorded: Path, tmp_path: Path, keys: tuple[str, ...]) -> None:
    parts = told_parts(EpisodeStore(recorded), keys)
    world: Any = GoalWorld(parts)
    envs = DreamVectorEnv(
        32,
        checkpoint=Checkpoint(world, {}, 0, recorded),
        contexts=recorded,
        context_length=1,
        context_info=True,
        autoreset_mode="Disabled",
    )
    config = PPOConfig(rows=32, steps=4, minibatches=2, hidden=32, lr=5e-3)
    ppo = PPO(envs, config, tmp_path, told=parts)
    ppo.train(20, progress=False)
    envs.close()
    earned = right(RecurrentPolicy(load_net(tmp_path / "ppo.pt"), greedy=True))
    assert earned == 1.0 if keys else earned < 0.6
