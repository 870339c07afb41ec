"""Dreams can be left and taken up again: snapshots, copies, files, pickles, other processes."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from dreams import ID, MODES, NEVER, actions_of, certain, dream_folder, exact, vec
from lssvwm.envs.dream import DreamEnv, DreamState, DreamVectorEnv
from lssvwm.worldmodel.checkpoint import load_checkpoint, save_checkpoint
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import EpisodeStore
from worlds import random_model, small_config, small_store

ROOT = Path(__file__).parent.parent
OPTIONS: dict[str, Any] = {"max_episode_steps": 3, "observation": "both"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dream_folder(tmp_path_factory.mktemp("run"))


def continued(env: DreamVectorEnv, steps: int = 7) -> list[Any]:
    """All that `steps` steps say, through ends of episodes; finished rows are reset where that is for the caller."""
    said: list[Any] = []
    for action in np.random.default_rng(8).integers(3, size=(steps, 1)):
        observation, *rest, info = env.step(np.full(env.num_envs, action))
        told = {key: value for key, value in info.items() if key not in ("final_obs", "final_info")}
        said.append([*observation.values(), *rest, *told.values()])
        done = rest[1] | rest[2]
        if done.any() and env.autoreset_mode is AutoresetMode.DISABLED:
            said.append(list(env.reset(options={"reset_mask": np.asarray(done)})[0].values()))
    return said


def same(one: list[Any], two: list[Any], rows: Any = slice(None)) -> bool:
    return len(one) == len(two) and all(
        len(a) == len(b) and all(np.array_equal(np.asarray(x)[rows], np.asarray(y)) for x, y in zip(a, b, strict=True))
        for a, b in zip(one, two, strict=True)
    )


def begun(folder: Path, steps: int = 2, **options: Any) -> DreamVectorEnv:
    env = vec(folder, **{**OPTIONS, **options})
    env.reset(seed=3)
    for action in actions_of(3, steps):
        env.step(action)
    return env


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("terminate", ["sample", "never"])
def test_a_state_replays_bit_for_bit(folder: Path, mode: AutoresetMode, terminate: Any) -> None:
    """In the environment it was taken from and in another; noise, endings and next contexts alike."""
    steps = 0 if mode is AutoresetMode.DISABLED else 3  # NEXT_STEP: rows are finished and wait
    env = begun(folder, steps, autoreset_mode=mode, terminate=terminate)
    other = vec(folder, autoreset_mode=mode, terminate=terminate, **OPTIONS)
    state = env.get_state()
    first = continued(env)
    env.set_state(state)
    assert same(first, continued(env))
    other.set_state(state)
    assert same(first, continued(other))
    assert not same(first, continued(other))


def test_a_state_is_of_its_moment(folder: Path) -> None:
    env = begun(folder)
    state = env.get_state()
    kept = state.copied()
    continued(env)
    env.reset(seed=9)
    assert state.rows == 3
    for name, tensor in state.tensors.items():
        assert torch.equal(tensor, kept.tensors[name]), name


def test_what_the_memory_of_all_frames_holds_is_in_the_state(tmp_path: Path) -> None:
    """With attention over everything memory grows: a state of a long dream fits an environment that has none yet."""
    small_store(tmp_path / "episodes")
    model = random_model(small_config(window=None), 0).float()
    save_checkpoint(tmp_path / "model", model, world={"num_actions": 3, "episodes": "../episodes"}, step=0)
    env = begun(tmp_path, terminate="never", max_episode_steps=50)
    env.reset(options={"reset_mask": np.array([False, True, False])})
    state = env.get_state()
    first = continued(env, 3)
    again = vec(tmp_path, terminate="never", **{**OPTIONS, "max_episode_steps": 50})
    again.set_state(state)
    assert same(first, continued(again, 3))
    env.set_state(state)
    short = env.select([1])
    assert short.get_state().tensors["memory.layers.0.2"].shape[1] == 3


def test_clones_go_on_as_the_original_would(folder: Path) -> None:
    env = DreamVectorEnv(3, checkpoint=exact(folder), context_length=3, **OPTIONS)
    env.reset(seed=3)
    env.step([0, 1, 2])
    clones = env.clone(2)
    assert clones.num_envs == 6
    assert clones.model is env.model
    for of_clones, of_env in zip(continued(clones), continued(env), strict=True):
        for two, one in zip(of_clones, of_env, strict=True):
            for copies in (two[::2], two[1::2]):  # side by side
                np.testing.assert_allclose(copies, one, rtol=1e-5, atol=1e-6)


def test_selected_rows_go_on_as_they_would(folder: Path) -> None:
    env = DreamVectorEnv(3, checkpoint=certain(folder, NEVER), context_length=3, observation="both")
    env.reset(seed=1)
    env.step([0, 1, 2])
    some = env.select([2, 0, 2])
    said, of_some = continued(env, 3), continued(some, 3)
    assert same(said, of_some, [2, 0, 2])
    assert env.select(np.array([1])).num_envs == 1
    for rows in ([3], [-1], [0.5], [True, False, True], []):
        with pytest.raises(InputError, match="give some of the row numbers 0 to 2"):
            env.select(rows)  # type: ignore[arg-type]


def test_copies_leave_the_original_alone(folder: Path) -> None:
    env, untouched = begun(folder), begun(folder)
    for twin in (env.clone(1), env.select([0, 1, 2]), copy.deepcopy(env)):
        continued(twin)
        twin.reset(seed=0)
        twin.close()
    assert same(continued(env), continued(untouched))


def test_before_the_first_reset_there_is_no_state(folder: Path) -> None:
    env = vec(folder)
    for attempt in (env.get_state, lambda: env.clone(2), lambda: env.select([0])):
        with pytest.raises(gym.error.ResetNeeded, match="no state"):
            attempt()
    twin, loaded = copy.deepcopy(env), pickle.loads(pickle.dumps(env))
    frames = env.reset(seed=4)[0]
    assert np.array_equal(frames, twin.reset(seed=4)[0])
    assert np.array_equal(frames, loaded.reset(seed=4)[0])


def other_world(folder: Path, to: Path, step: int = 0, **changes: Any) -> Path:
    model = random_model(small_config(**changes), 0).float()
    save_checkpoint(to, model, world={"num_actions": 3, "episodes": str(folder / "episodes")}, step=step)
    return to


def test_a_state_of_other_dreams_is_refused(folder: Path, tmp_path: Path) -> None:
    state = begun(folder).get_state()

    def refused(match: str, rows: int = 3, **options: Any) -> None:
        env = vec(folder, rows, **{**OPTIONS, **options})
        with pytest.raises(InputError, match=match):
            env.set_state(state)

    refused("the state has 3 rows, the environment 4: make one with num_envs=3", rows=4)
    refused("context_length is 3 there and 4 here", context_length=4)
    refused("max_episode_steps is 3 there and 9 here.*make the environment as", max_episode_steps=9)
    refused("terminate is 'sample' there and 'never' here", terminate="never")
    refused("steps is 2 there and 1 here", steps=1)
    refused("truncate_above is None there and 'heads > 2.0' here", uncertainty="heads", truncate_above=2.0)
    refused("model.state_size is 4 there and 8 here", checkpoint=other_world(folder, tmp_path / "wide", state_size=8))
    refused("training step is 0 there and 7 here", checkpoint=other_world(folder, tmp_path / "trained", step=7))
    small_store(tmp_path / "episodes", 5)
    refused("episodes is '.*' there and '.*' here", contexts=tmp_path / "episodes")
    shown_otherwise = vec(folder, **{**OPTIONS, "observation": "frame"}, output="torch", prefetch=False, stagger=True)
    shown_otherwise.set_state(state)


@pytest.fixture
def saved(folder: Path, tmp_path: Path) -> Path:
    begun(folder).get_state().save(tmp_path / "state")
    return tmp_path / "state"


def _broken(state: DreamState, **changes: Any) -> DreamState:
    tensors = {**state.tensors, **changes}
    return DreamState({name: tensor for name, tensor in tensors.items() if tensor is not None}, state.origin)


def test_a_state_that_no_environment_gave_changes_nothing(folder: Path) -> None:
    env = begun(folder)
    state = env.get_state()
    expected = continued(env)
    tensors = state.tensors
    memory = next(name for name in tensors if name.startswith("memory.") and tensors[name].is_floating_point())
    for changes, message in (
        ({"frame": tensors["frame"][:, :-1]}, r"'frame' of the state is torch\.uint8 .* the environment's is"),
        ({"clock": tensors["clock"].float()}, r"'clock' of the state is torch\.float32"),
        ({"clock": tensors["clock"] - 100}, "'clock' of the state is negative"),
        ({"done": tensors["done"].long()}, r"'done' of the state is torch\.int64"),
        ({memory: torch.full_like(tensors[memory], np.nan)}, "is not finite"),
        ({"features": None}, "has no tensor 'features'"),
        ({"more": tensors["clock"]}, "has an unknown tensor 'more'"),
        ({"chance.noise": torch.full_like(tensors["chance.noise"], 255)}, r"'chance\.noise' of the state is no gen"),
    ):
        env.set_state(state)
        with pytest.raises(InputError, match=message):
            env.set_state(_broken(state, **changes))
        assert same(expected, continued(env))


def test_files_hold_the_state(folder: Path, saved: Path) -> None:
    env = begun(folder)
    loaded, state = DreamState.load(saved), env.get_state()
    assert loaded.origin == state.origin
    assert loaded.tensors.keys() == state.tensors.keys()
    for name, tensor in state.tensors.items():
        assert torch.equal(loaded.tensors[name], tensor), name
        assert loaded.tensors[name].dtype == tensor.dtype
    assert [file.name for file in saved.parent.iterdir()] == ["state"]


SCRIPT = """
import sys, numpy as np, gymnasium as gym, torch
torch.set_num_threads(1)
sys.path[:0] = ["tests", "."]
from lssvwm.envs.dream import DreamState
from test_dream_state import continued
env = gym.make_vec("lssvwm:lssvwm/Dream-v0", num_envs=3, checkpoint=sys.argv[1], context_length=3, max_episode_steps=3,
                   observation="both")
env.set_state(DreamState.load(sys.argv[2]))
np.savez(sys.argv[3], *(array for said in continued(env) for array in said))
"""


def test_another_process_goes_on_bit_for_bit(folder: Path, saved: Path, tmp_path: Path) -> None:
    out = tmp_path / "said.npz"
    arguments = [sys.executable, "-c", SCRIPT, str(folder / "model"), str(saved), str(out)]
    subprocess.run(arguments, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    here = [array for said in continued(begun(folder)) for array in said]
    with np.load(out, allow_pickle=False) as there:
        assert len(there.files) == len(here)
        for name, array in zip(there.files, here, strict=True):
            assert np.array_equal(there[name], array)


def test_files_that_are_no_state(folder: Path, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing does not exist: give a file written by DreamState\.save"):
        DreamState.load(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"model\.safetensors is no state of dreams"):
        DreamState.load(folder / "model" / "model.safetensors")
    whole = saved.read_bytes()
    saved.write_bytes(whole[:-50])
    with pytest.raises(InputError, match="state cannot be read"):
        DreamState.load(saved)
    saved.write_bytes(whole.replace(rb"\"format\": 2", rb"\"format\": 9"))
    with pytest.raises(InputError, match="state has format 9, this version reads 2"):
        DreamState.load(saved)


def test_a_file_of_before_starts_and_parts_of_actions_were_known_goes_on(folder: Path, tmp_path: Path) -> None:
    env = begun(folder)
    state = env.get_state()
    origin = {name: value for name, value in state.origin.items() if name not in ("start", "model.action_parts")}
    DreamState(state.tensors, origin).save(tmp_path / "before")
    now = (tmp_path / "before").read_bytes()
    (tmp_path / "before").write_bytes(now.replace(rb"\"format\": 2", rb"\"format\": 1"))
    before = DreamState.load(tmp_path / "before")
    env.set_state(before)
    with pytest.raises(InputError, match="start is 'any' there and 'episode' here"):
        begun(folder, start="episode").set_state(before)


@pytest.mark.parametrize("output", ["numpy", "torch"])
def test_pickles_go_on_without_weights(folder: Path, output: Any) -> None:
    env = begun(folder, output=output)
    state = env.get_state()
    there = pickle.loads(pickle.dumps(env))
    weights = sum(p.nbytes for p in env.model.parameters())
    held = sum(tensor.nbytes for tensor in state.tensors.values())
    assert len(pickle.dumps(env)) < held + 20_000 < held + weights / 2
    assert there.model is not env.model
    assert there.spec == env.spec
    assert same(continued(env), continued(there))


def test_pickles_of_views_hold_no_more_than_they_show(folder: Path) -> None:
    env = begun(folder)
    assert len(pickle.dumps(env.select([0]))) < len(pickle.dumps(env)) / 2


def test_a_pickle_keeps_its_contexts_when_episodes_are_added(tmp_path: Path) -> None:
    folder = dream_folder(tmp_path)
    env = begun(folder)
    pickled = pickle.dumps(env)
    store = EpisodeStore(folder / "episodes")
    store.append(store.read(store.names[0]))
    assert same(continued(env), continued(pickle.loads(pickled)))


def test_a_pickle_notices_that_the_model_was_trained_on(tmp_path: Path) -> None:
    folder = dream_folder(tmp_path)
    pickled = pickle.dumps(begun(folder))
    loaded = load_checkpoint(folder / "model")
    save_checkpoint(folder / "model", loaded.model, world=loaded.world, step=10)
    with pytest.raises(InputError, match="training step is 0 there and 10 here"):
        pickle.loads(pickled)


def test_a_loaded_checkpoint_is_shared_but_not_pickled(folder: Path) -> None:
    loaded = load_checkpoint(folder / "model")
    env = DreamVectorEnv(3, checkpoint=loaded, context_length=3, **OPTIONS)
    env.reset(seed=3)
    twin = copy.deepcopy(env)
    assert twin.model is env.model is loaded.model
    assert same(continued(env), continued(twin))
    with pytest.raises(InputError, match=r"checkpoint='.*model'"):
        pickle.dumps(env)
    with pytest.raises(InputError, match="make it from the folder"):
        pickle.dumps(DreamEnv(checkpoint=loaded, context_length=3))


def _in_child(env: DreamVectorEnv, answer: Any) -> None:
    torch.set_num_threads(1)
    answer.send_bytes(pickle.dumps(continued(env)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_inherit_a_dream(folder: Path, method: Any) -> None:
    """Forked, the child has no thread to read contexts; spawned, it has no weights. Both go on alike."""
    env = begun(folder)
    context = multiprocessing.get_context(method)
    here, there = context.Pipe()
    child = context.Process(target=_in_child, args=(env, there))
    child.start()
    assert here.poll(60)
    said = pickle.loads(here.recv_bytes())
    child.join()
    assert child.exitcode == 0
    assert same(said, continued(env))


def test_a_single_dream_is_left_and_taken_up_too(folder: Path, tmp_path: Path) -> None:
    env = gym.make(ID, checkpoint=str(folder / "model"), context_length=3, terminate="never")
    inner = env.unwrapped
    assert isinstance(inner, DreamEnv)
    inner.reset(seed=3)
    inner.step(1)
    state = inner.get_state()
    state.save(tmp_path / "state")
    twins = [
        inner,
        copy.deepcopy(inner),
        pickle.loads(pickle.dumps(inner)),
        DreamEnv(checkpoint=folder / "model", context_length=3, terminate="never"),
    ]
    twins[-1].set_state(DreamState.load(tmp_path / "state"))
    twins[0].set_state(state)
    said = [[twin.step(2)[:2] for _ in range(3)] + [twin.reset()[0]] for twin in twins]
    for one in said[1:]:
        for (a, reward), (b, other) in zip(said[0][:3], one[:3], strict=True):
            assert np.array_equal(a, b)
            assert reward == other
        assert np.array_equal(said[0][3], one[3])
    assert len(pickle.dumps(inner)) < 70_000
    with pytest.raises(InputError, match="the state has 1 rows, the environment 3"):
        vec(folder, terminate="never", max_episode_steps=None).set_state(state)


def test_the_original_seeds_still_lead_the_way(folder: Path) -> None:
    """After a state was taken up, `reset(seed)` begins as ever, and nothing is left of what was expected."""
    env, plain = begun(folder), vec(folder, **OPTIONS)
    env.set_state(env.get_state())
    frames, _ = env.reset(seed=1)
    assert np.array_equal(frames["frame"], plain.reset(seed=1)[0]["frame"])
