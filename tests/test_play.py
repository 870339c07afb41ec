"""The game that is played by hand: where it begins, what its keys are, going back, handing over, saving."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
import torch

from corridor import CORRIDOR, Script
from lssvwm.agents.policies.baselines import RandomPolicy
from lssvwm.agents.running.environment import probe
from lssvwm.envs.factory import EnvConfig, make
from lssvwm.envs.keys import MEMORY_MAZE, MINIGRID, keys_of, to_gymnasium
from lssvwm.envs.minecraft.actions import action_set
from lssvwm.envs.play.command import by_name
from lssvwm.envs.play.context import choose_context
from lssvwm.envs.play.game import Game
from lssvwm.envs.play.messages import parse, picture
from lssvwm.envs.play.policy import PolicyPlayer
from lssvwm.envs.play.real_side import real_config
from lssvwm.envs.play.trajectory import Trajectory
from lssvwm.envs.recording.provenance import SEED_KEY
from lssvwm.envs.recording.recorder import record
from lssvwm.worldmodel.actions import told
from lssvwm.worldmodel.checkpoint import load_checkpoint, save_checkpoint
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import Clips, EpisodeStore
from lssvwm.worldmodel.told import ToldPart, told_now
from plays import corridor_run, game_of, options_of
from steering import steering
from worlds import random_model, small_config


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corridor_run(tmp_path_factory.mktemp("run"))


def dreamt(game: Game, actions: list[int]) -> Any:
    frames = []
    for action in actions:
        game.step(action)
        frames.append(game.pictures().dream.copy())
    return np.stack(frames)


def test_both_begin_where_the_recording_stands(checkpoint: Path) -> None:
    game = game_of(checkpoint)
    for number in range(4):
        game.begin(number)
        past, shown = game.context, game.pictures()
        recorded = game.store.read(past.episode)
        assert 4 <= past.frames <= 6
        assert past.seed in (3, 4)
        assert np.array_equal(shown.dream, recorded.image[past.frames - 1])
        assert np.array_equal(shown.real, shown.dream)
        assert game.state()["real"]["notice"] == ""
        assert game.dream.read == past.frames
    lengths = {
        (one.episode, one.frames) for one in (choose_context(game.store, n, seed=0, longest=6) for n in range(30))
    }
    assert len(lengths) > 3
    assert (
        choose_context(game.store, 5, seed=0, longest=6).episode
        == choose_context(game.store, 5, seed=0, longest=6).episode
    )


def test_another_world_than_was_recorded_is_said(checkpoint: Path) -> None:
    game = game_of(checkpoint)
    assert game.real is not None
    past = next(b for b in (choose_context(game.store, n, seed=0, longest=6) for n in range(9)) if b.frames > 4)
    wrong = past.clips.actions.clone()
    wrong[0, 1:] = 1 - wrong[0, 1:]
    game.real.begin(replace(past, clips=replace(past.clips, actions=wrong)))
    assert "another picture than the recording" in game.real.notice
    game.real.begin(replace(past, seed=None))
    assert "recorded without its seed" in game.real.notice
    game.real.begin(past)
    assert game.real.notice == ""


def test_both_take_the_same_actions_and_the_real_one_is_real(checkpoint: Path) -> None:
    game = game_of(checkpoint)
    env, past = gym.make("Corridor-v0"), game.context
    env.reset(seed=past.seed)
    for action in past.clips.actions[0, 1:].tolist():
        env.step(action)
    for action in (1, 0, 1):
        game.step(action)
        assert np.array_equal(game.pictures().real, env.step(action)[0])
    assert game.dream_trajectory.actions[-3:] == game.real_trajectory.actions[-3:] == [1, 0, 1]  # type: ignore[union-attr]
    assert game.state()["dream"]["played"] == game.state()["real"]["played"] == 3
    assert game.dream.read == past.frames + 3


@pytest.mark.parametrize("steps", [None, 4])
def test_going_back_repeats_the_dream_bit_for_bit(checkpoint: Path, steps: int | None) -> None:
    """With other denoising steps in between, too: the moment is the same, whatever it was dreamt with."""
    game = game_of(checkpoint)
    game.step(1)
    game.keep()
    first = dreamt(game, [0, 1, 1])
    real = game.pictures().real
    if steps is not None:
        game.change(steps=steps)
    game.back()
    assert game.state()["real"]["apart"]
    assert np.array_equal(game.pictures().real, real)  # it cannot go back
    assert (len(game.dream_trajectory), game.dream.read) == (game.context.frames + 1,) * 2
    if steps is not None:
        assert not np.array_equal(dreamt(game, [0, 1, 1]), first)
        game.back()
        game.change(steps=2)
    assert np.array_equal(dreamt(game, [0, 1, 1]), first)


def test_going_back_needs_a_snapshot_of_this_dream(checkpoint: Path) -> None:
    game = game_of(checkpoint)
    game.keep()
    game.begin(1)
    with pytest.raises(InputError, match="take a snapshot first"):
        game.back()


def test_the_same_context_again_is_the_same_dream(checkpoint: Path) -> None:
    game = game_of(checkpoint)
    first = dreamt(game, [1, 0])
    game.begin(1)
    game.begin(0)
    assert np.array_equal(dreamt(game, [1, 0]), first)


def test_meters(checkpoint: Path, tmp_path: Path) -> None:
    game = game_of(checkpoint, uncertainty="draws")
    game.step(1)
    told = game.state()["dream"]
    assert told["uncertainty"] > 0
    assert told["termination"] < 1e-6
    assert told["window"] == 2
    game.change(uncertainty="none")
    game.step(1)
    assert game.state()["dream"]["uncertainty"] is None
    json.dumps(game.state(), allow_nan=False)
    ending = game_of(corridor_run(tmp_path, ends=True), real=None)
    ending.step(1)
    assert ending.state()["dream"]["ended"]
    assert ending.over
    before = ending.pictures().dream
    ending.step(1)
    assert np.array_equal(ending.pictures().dream, before)


class Noting(Script):
    """A policy that notes what it sees and is told."""

    def __init__(self) -> None:
        super().__init__([1])
        self.seen: list[Any] = []
        self.resets = 0

    def reset(self, rows: Any, seeds: Any) -> None:
        super().reset(rows, seeds)
        self.resets += 1

    def act(self, frames: Any, info: Any) -> Any:
        self.seen.append(frames[0])
        return super().act(frames, info)

    def took(self, actions: Any) -> None:
        self.seen.append(int(actions[0]))


def test_the_policy_reads_what_happened_and_nothing_twice(checkpoint: Path) -> None:
    policy = Noting()
    game = game_of(checkpoint, policy="plays:script=1")
    assert game.policy is not None
    game.policy._policy = policy
    game.step(0)
    game.step(None)
    game.step(0)
    game.step(None)
    past = game.context
    frames = [one for one in policy.seen if isinstance(one, np.ndarray)]
    told = [one for one in policy.seen if isinstance(one, int)]
    assert np.array_equal(np.stack(frames), np.stack(game.dream_trajectory.frames[: past.frames + 3]))
    assert told == [*past.clips.actions[0, 1:].tolist(), 0, 1, 0]
    assert game.dream_trajectory.actions[-4:] == [0, 1, 0, 1]
    assert policy.resets == 1
    game.begin(1)
    game.step(None)
    assert policy.resets == 2


def test_saved_episodes_hold_what_was_played(checkpoint: Path, tmp_path: Path) -> None:
    game = game_of(checkpoint, out=tmp_path / "out")
    with pytest.raises(InputError, match="no policy was loaded"):
        game.step(None)
    frames = dreamt(game, [1, 0, 1])
    game.dream.world.checkpoint.world["fps"] = 5
    assert game.real is not None
    game.real.env.metadata = {**game.real.env.metadata, "render_fps": 3}
    game.save("episode", 8.0)
    past = game.context
    (dream,), (real,) = (
        [store.read(name) for name in store.names]
        for store in (EpisodeStore(tmp_path / "out" / name) for name in ("dream", "real"))
    )
    assert (float(dream.extras["fps"]), float(real.extras["fps"])) == (5, 3), "of the worlds, not of the page"
    assert int(dream.extras["dreamt_from"]) == past.frames
    assert np.array_equal(dream.image, np.concatenate([past.clips.frames[0].numpy(), frames]))
    assert dream.action.tolist() == [*past.clips.actions[0].tolist(), 1, 0, 1] == real.action.tolist()
    assert json.loads(str(real.extras["recording"]))["policy"] == "ByHand"
    env = make(CORRIDOR)
    shown, _ = env.reset(seed=int(real.extras[SEED_KEY]))
    for at, action in enumerate(real.action[1:], 1):
        assert np.array_equal(shown, real.image[at - 1])
        shown, reward, *_ = env.step(action)
        assert real.reward[at] == reward
    video = game.save("video", 8.0).removeprefix("Saved ")
    import av

    with av.open(video) as container:
        assert container.streams.video[0].frames == past.frames + 3


def test_stores_of_what_was_played_hold_one_world(checkpoint: Path, tmp_path: Path) -> None:
    game = game_of(checkpoint, out=tmp_path)
    dreamt(game, [1])
    game.save("episode", 8.0)
    env = game.dream.world.checkpoint.world["env"]
    game.dream.world.checkpoint.world["env"] = {**env, "id": "another-v0"}
    with pytest.raises(InputError, match=r"dream/.* is an episode of .*Corridor-v0, not of another-v0"):
        game.save("episode", 8.0)
    game.dream.world.checkpoint.world["env"] = env
    game.save("episode", 8.0)
    assert len(EpisodeStore(tmp_path / "dream")) == 2


def test_a_policy_is_told_the_goal_that_the_dream_is_told() -> None:
    part, seen = ToldPart("mission", (2,), ("ball", "get", "key")), []

    class Noting(RandomPolicy):
        def act(self, frames: Any, info: Any) -> Any:
            seen.append(told_now(info, 1, (part,)).tolist())
            return super().act(frames, info)

    numbers = torch.as_tensor(part.encode("get key", "here"))
    flat = torch.zeros(1, 3)
    clips = Clips(
        torch.zeros(1, 3, 8, 8, 3, dtype=torch.uint8), flat.long(), flat, flat.bool(), ~flat.bool(),
        told=numbers.expand(1, 3, 2),
    )  # fmt: skip
    PolicyPlayer(Noting(3), "it").next(Trajectory(clips, (part,)), seed=0)
    assert seen == [[numbers.tolist()]] * 3


def test_which_world_is_the_real_one(checkpoint: Path) -> None:
    loaded = load_checkpoint(checkpoint)
    assert real_config("recorded", loaded) == CORRIDOR
    assert real_config("corridor:Corridor-v0", loaded) == replace(CORRIDOR, id="corridor:Corridor-v0")
    with pytest.raises(InputError, match="was recorded"):
        real_config("recorded", replace(loaded, world={}))
    with pytest.raises(InputError, match="name the world that it was trained in"):
        game_of(checkpoint, real="MiniGrid-MemoryS7-v0")


def test_another_world_is_shown_at_the_size_of_the_model(checkpoint: Path) -> None:
    loaded, tall = load_checkpoint(checkpoint), random_model(small_config(height=16, width=8, num_actions=2), 0)
    assert real_config("a/B-v0", loaded).size == 16
    assert real_config("a/B-v0", replace(loaded, model=tall)).size == (16, 8)


def test_keys_come_from_the_environment_else_are_digits() -> None:
    assert [one.chords for one in keys_of("", 3).bindings] == [(("0",),), (("1",),), (("2",),)]
    assert len(keys_of("", 40).bindings) == 40
    maze = keys_of("lssvwm:lssvwm/MemoryMaze-9x9-v0", 6)
    assert maze == MEMORY_MAZE
    assert maze.idle == 0
    assert maze.bindings[4].chords[0] == ("w", "a")
    some = keys_of("MiniGrid-MemoryS7-v0", 2, (2, 0))
    assert [(one.action, one.label) for one in some.bindings] == [(0, "forward"), (1, "turn left")]
    assert some.idle is None

    class Told(gym.Wrapper[Any, Any, Any, Any]):
        def get_keys_to_action(self) -> dict[Any, int]:
            return {(ord("k"),): 1, ("j", "l"): 2, (1 << 30 | 82,): 1, (): 0}

    told = keys_of("Other-v0", 4, env=Told(gym.make("Corridor-v0")))
    assert [one.chords for one in told.bindings] == [(), (("k",), ("ArrowUp",)), (("j", "l"),), (("0",),)]
    assert told.idle == 0


@pytest.mark.parametrize(("task", "name"), [("LookAway", "turns"), ("Retrace", "walk"), ("Treechop", "treechop")])
def test_minetest_actions_are_called_what_they_are(task: str, name: str) -> None:
    actions = action_set(name)
    keys = keys_of(f"lssvwm/Minetest-{task}-v0", len(actions.names))
    assert ["noop", *(one.label for one in keys.bindings[1:])] == list(actions.names)
    chords = [chord for one in keys.bindings for chord in one.chords]
    assert len(set(chords)) == len(chords)
    assert keys_of(f"lssvwm/Minetest-{task}-v0", 100).bindings[1].label == "action 1"


def test_real_worlds_tell_gymnasium_their_keys() -> None:
    pytest.importorskip("pygame")
    from gymnasium.utils.play import PlayableGame

    from lssvwm.envs.memory_maze.environment import MemoryMaze

    env = make(EnvConfig("MiniGrid-MemoryS7-v0"), render_mode="rgb_array")
    env.reset()
    table = env.get_wrapper_attr("get_keys_to_action")()
    assert keys_of("MiniGrid-MemoryS7-v0", 7, env=env) == MINIGRID
    assert ord("w") in PlayableGame(env, table).relevant_keys
    assert MemoryMaze.get_keys_to_action(cast("Any", None)) == to_gymnasium(MEMORY_MAZE)
    assert to_gymnasium(MEMORY_MAZE)[ord("w"), ord("a")] == 4


BAD = [
    "",
    "no json",
    "[" * 5000,
    "[]",
    '"hold"',
    '{"do": "fly"}',
    '{"do": ["hold"]}',
    '{"do": "hold", "value": 2}',
    '{"do": "hold", "value": -1}',
    '{"do": "hold", "value": true}',
    '{"do": "hold", "value": 0.5}',
    '{"do": "hold", "value": "w"}',
    '{"do": "begin"}',
    '{"do": "begin", "value": -1}',
    '{"do": "begin", "value": 1e99}',
    '{"do": "speed", "value": NaN}',
    '{"do": "speed", "value": 1000}',
    '{"do": "steps", "value": 1000000}',
    '{"do": "pause", "value": 1}',
    '{"do": "save", "value": "../x"}',
    '{"do": "uncertainty", "value": null}',
    '{"do": "keep", "value": 1}',
]


@pytest.mark.parametrize("text", BAD)
def test_messages_that_are_no_order(text: str) -> None:
    with pytest.raises(InputError, match=r"that is no|cannot be"):
        parse(text, 2)


def test_orders_and_pictures() -> None:
    assert parse('{"do": "hold", "value": 1, "id": 7}', 2).id == 7
    assert parse('{"do": "hold", "value": null, "id": NaN}', 2).id is None
    assert parse('{"do": "back"}', 2).value is None
    frame = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    data = picture(b"\1", frame)
    import io

    from PIL import Image

    assert data[0] == 1
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data[1:]))), frame)


@pytest.mark.parametrize("text", ["nothing", "os:", "no such:thing", "os:nothing", "plays.missing:f"])
def test_policies_that_are_not_there(text: str, checkpoint: Path) -> None:
    with pytest.raises(InputError, match="--policy"):
        by_name(load_checkpoint(checkpoint), text)


def test_options_that_cannot_be(checkpoint: Path, tmp_path: Path) -> None:
    from lssvwm.envs.play.command import play

    for changes in ({"speed": 0.0}, {"past": 0}, {"seed": -1}):
        with pytest.raises(InputError, match="give a speed"):
            play(options_of(checkpoint, **changes), by_name)
    with pytest.raises(InputError, match="does not exist"):
        game_of(checkpoint, contexts=tmp_path / "none")
    assert game_of(checkpoint, steps=3).dream.choices == (1, 2, 3, 4, 8, 16)


def test_a_world_whose_actions_have_no_keys_is_refused_at_the_start(checkpoint: Path, tmp_path: Path) -> None:
    config = steering("choices")
    actions = probe(config).actions
    store = EpisodeStore(tmp_path / "episodes", create=True)
    record(config, store, RandomPolicy(actions), episodes=1, num_envs=1, seed=0, processes=False, progress=False)
    model = random_model(small_config(**told(actions)), 0).float()
    save_checkpoint(tmp_path / "model", model, world={"episodes": "../episodes", "env": config.to_dict()}, step=0)
    for real in ("recorded", None):
        with pytest.raises(InputError, match=r"model takes .*, and keys stand for discrete actions"):
            game_of(tmp_path / "model", real=real)
