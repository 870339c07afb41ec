"""Whatever is handed to a dream or written into settings is refused in one line, or means what was handed over.

Each test takes FUZZ inputs, by default few: `make fuzz` takes 10,000 together with those of `test_fuzz.py`.
"""

from __future__ import annotations

import dataclasses
import json
import struct
import typing
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import tyro
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, iterate
from hypothesis import given
from hypothesis import strategies as st

from dreams import dream_folder, vec
from fuzzing import JSON, as_json, changed, changes, many, replaced, same_array, some_arrays, tried
from lssvwm.agents.running.settings import LoopSettings
from lssvwm.agents.running.settings_file import from_json, overlaid, read_config, to_json
from lssvwm.envs.dream import DreamState, DreamVectorEnv
from lssvwm.envs.dream.options import DreamOptions
from lssvwm.envs.dream.validation import check_actions
from lssvwm.envs.factory import DiscreteActions, EnvConfig
from lssvwm.envs.minecraft.actions import BUTTONS, full_action
from lssvwm.envs.recorded import ReadOptions
from lssvwm.envs.recorded.__main__ import ConvertOptions
from lssvwm.envs.spaces.actions import flat, shaped, space_of, spec_of
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.config import WorldModelConfig
from worlds import small_config

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")  # of strange numbers

# Dreams


@pytest.fixture(scope="module")
def dream(tmp_path_factory: pytest.TempPathFactory) -> DreamVectorEnv:
    options = {"rows": 2, "max_episode_steps": 5, "context_info": True, "autoreset_mode": "Disabled"}
    env = vec(dream_folder(tmp_path_factory.mktemp("run")), **options)
    env.reset(seed=1)
    return env


def is_at(env: DreamVectorEnv, state: DreamState) -> bool:
    now = env.get_state()
    return all(torch.equal(now.tensors[name], tensor) for name, tensor in state.tensors.items())


def test_snapshots(dream: DreamVectorEnv, tmp_path: Path) -> None:
    """One that is taken up replays what it was taken from; one that is refused changes nothing."""
    path = tmp_path / "state"
    dream.reset(seed=1)
    saved = dream.get_state()
    saved.save(path)
    content = path.read_bytes()
    wanted = dream.step([0, 2])
    elsewhere = dream.get_state()
    header = struct.unpack_from("<Q", content)[0]
    told, body = json.loads(content[8 : 8 + header]), content[8 + header :]

    def take_up() -> bool:
        dream.set_state(DreamState.load(path))
        return True

    @many
    @given(changes() | replaced(told).map(json.dumps))
    def check(done: Any) -> None:
        if isinstance(done, str):
            path.write_bytes(struct.pack("<Q", len(done.encode())) + done.encode() + body)
        else:
            path.write_bytes(changed(content, done))
        dream.set_state(elsewhere.copied())
        if tried(take_up):
            assert is_at(dream, saved)
            found = dream.step([0, 2])
            assert all(
                same_array(np.asarray(one), np.asarray(two)) for one, two in zip(found[:4], wanted, strict=False)
            )
        else:
            assert is_at(dream, elsewhere)

    check()


def test_options_of_reset(dream: DreamVectorEnv) -> None:
    """Rows begin where they were told to, and the others stay."""
    dream.reset(seed=1)
    before = dream.get_state().copied()
    shown = dream.step([0, 0])[0]
    after = dream.get_state().copied()
    row: dict[str, st.SearchStrategy[Any]] = {
        "context_frames": some_arrays((3, 16, 8, 3)) | st.none() | JSON,
        "context_actions": some_arrays((3,)) | st.none() | JSON,
        "context_length": st.integers(-1, 4) | st.none() | JSON,
        "episode": st.sampled_from(dream.store.names) | st.none() | JSON,
        "start": st.integers(-1, 9) | st.none() | JSON,
        "reset_mask": st.booleans() | JSON,
    }
    frames = st.just(np.arange(3 * 16 * 8 * 3, dtype=np.uint8).reshape(3, 16, 8, 3))
    handed = st.fixed_dictionaries(
        {"context_frames": frames, "context_actions": st.just(np.array([-1, 2, 0]))},
        optional={"context_length": st.integers(1, 3)},
    )
    found = st.fixed_dictionaries({"episode": st.sampled_from(dream.store.names), "start": st.integers(0, 9)})
    rows = st.lists(handed | found | st.just({}), min_size=2, max_size=2).map(
        lambda told: {key: [one.get(key) for one in told] for key in row if any(key in one for one in told)}
    )
    wild = {key: st.lists(value, min_size=2, max_size=2) | value for key, value in row.items()}
    good = st.builds(lambda a, b: {**a, **b}, rows, st.fixed_dictionaries({}, optional=wild) | st.just({}))

    @many
    @given(st.fixed_dictionaries({}, optional=wild) | rows | good)
    def check(options: dict[str, Any]) -> None:
        dream.set_state(after.copied())
        answer = tried(lambda: dream.reset(options=options))
        if answer is None:
            assert is_at(dream, after)
            return
        observation, info = answer
        mask = [True, True] if options.get("reset_mask") is None else list(options["reset_mask"])
        for at in range(2):
            told = {key: options[key][at] for key in row if options.get(key) is not None and key != "reset_mask"}
            own = slice(-int(info["context_length"][at]), None)
            assert not mask[at] or np.array_equal(observation[at], info["context_frames"][at, -1])
            if not mask[at]:
                assert np.array_equal(observation[at], shown[at])
            elif told.get("context_frames") is not None:
                length = told.get("context_length") or len(told["context_frames"])
                assert info["context_length"][at] == length
                assert np.array_equal(info["context_frames"][at, own], told["context_frames"][-length:])
                assert np.array_equal(info["context_actions"][at, own], told["context_actions"][-length:])
            elif told.get("episode") is not None:
                e = dream.store.read(told["episode"])
                first = max(told["start"] - 2, 0)
                assert np.array_equal(info["context_frames"][at, own], e.image[first : told["start"] + 1])
                assert np.array_equal(info["context_actions"][at, own], e.action[first : told["start"] + 1])

    check()
    dream.set_state(before)


# Actions

DTYPES = st.sampled_from([np.int8, np.int32, np.int64, np.uint8])
SHAPES = st.sampled_from([(1,), (3,), (2, 2)])
BOUNDS = st.sampled_from(
    [
        (0.0, 1.0),
        (np.array([-1.0, 0, 1]), 2.0),
        (-1e-3, 0.1),
        (-3.0, 7.5),
        (0.1, 0.3),
        (-1e300, 1e300),
        (1.0, 1.0 + 1e-12),
    ]
)
CHOICES = st.sampled_from([1, 2, 3, 127, 2**24, 2**24 + 3, 2**31])


def box(bounds: tuple[Any, Any], shape: tuple[int, ...], dtype: Any) -> spaces.Space[Any] | None:
    try:
        return spaces.Box(*(np.full(shape, bound).astype(dtype) for bound in bounds), dtype=dtype)
    except (ValueError, OverflowError):  # Gymnasium's own refusal
        return None


def _plain() -> st.SearchStrategy[Any]:
    discrete = st.builds(lambda n, start: spaces.Discrete(n, start=start), CHOICES, st.sampled_from([0, 0, 0, -1, 2]))
    boxes = st.builds(
        box, BOUNDS, SHAPES | st.just(()), st.sampled_from([np.float16, np.float32, np.float64, np.uint8])
    )
    multi = st.builds(
        lambda n, shape, start: spaces.MultiDiscrete(np.full(shape, n), start=np.full(shape, start)),
        CHOICES,
        SHAPES,
        st.sampled_from([0, 0, 0, 1]),
    )
    return (discrete | boxes | multi | st.builds(spaces.MultiBinary, st.sampled_from([1, 4, (2, 3)]))).filter(bool)


SPACES = _plain() | st.lists(
    st.tuples(st.sampled_from(["b", "a", "", "é.x"]), _plain() | st.just(spaces.Text(3))), min_size=1, max_size=3
).map(lambda entries: spaces.Dict(OrderedDict(entries)))


def one_by_one(space: spaces.Space[Any], batch: Any, rows: int) -> list[Any]:
    found = list(iterate(batch_space(space, rows), batch))
    return [one[()] if isinstance(one, np.ndarray) and not one.ndim else one for one in found]


def alike(space: spaces.Space[Any], one: Any, other: Any) -> bool:
    """Equal, as far as float32 tells."""
    if isinstance(space, spaces.Dict):
        return all(alike(part, one[key], other[key]) for key, part in space.items())
    exact = not isinstance(space, spaces.Box)
    return np.array_equal(one, other) if exact else np.allclose(one, other, rtol=1e-6, atol=0)


def test_actions_of_any_space() -> None:
    """A space that is taken comes back; its actions come through files as they are, and stay in it."""

    @many
    @given(SPACES, st.integers(0, 2**31))
    def check(space: spaces.Space[Any], seed: int) -> None:
        spec = tried(lambda: spec_of(space, "the world"))
        if spec is None:
            return
        again = space_of(spec)
        assert spec_of(again, "the world") == spec
        batched = batch_space(space, 3)
        batched.seed(seed)
        batch = batched.sample()
        vectors = flat(spec, batch)
        assert vectors.dtype == (np.int64 if spec.count else np.float32)
        assert np.isfinite(vectors).all()
        taken = check_actions(batch if not spec.count else vectors, 3, spec, torch.device("cpu")).numpy()
        assert np.array_equal(taken, vectors)
        for before, after in zip(one_by_one(space, batch, 3), one_by_one(again, shaped(spec, vectors), 3), strict=True):
            assert space.contains(after)
            assert alike(space, before, after)

    check()


VALUES = st.sampled_from([0, 1, 2, 3, -1, 0.5, 1.0, np.nan, np.inf, True, None, "1", 2**40, 2**64, 1j, [1], {}])
NUMBERS = st.sampled_from([np.uint8, np.uint16, np.uint64, np.int64, np.float16, np.float64, np.bool_, object, "U3"])


def _given(shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
    even = st.builds(
        lambda value, dtype, shape: np.full(shape, value, np.float64).astype(dtype),
        st.sampled_from([0, 1, 2, 0.5, -1, 5, np.nan]),
        NUMBERS,
        st.sampled_from([shape, shape, shape[::-1], (*shape, 1), shape[1:]]),
    )
    tensors = st.sampled_from([torch.zeros(shape), torch.ones(shape, dtype=torch.int32), torch.ones(shape).bool()])
    return even | tensors | st.lists(VALUES, min_size=shape[0], max_size=shape[0]) | VALUES


def test_actions_that_are_given(dream: DreamVectorEnv) -> None:
    """What is taken is in the space, and is what was given."""
    kinds: list[tuple[spaces.Space[Any], tuple[int, ...]]] = [
        (spaces.Discrete(3), (2,)),
        (spaces.Box(-1.0, 1.0, (3,), np.float32), (2, 3)),
        (spaces.Box(0.0, 1.0, (), np.float64), (2,)),
        (spaces.MultiDiscrete([2, 3]), (2, 2)),
        (spaces.MultiBinary((2, 3)), (2, 2, 3)),
    ]
    plain = st.sampled_from(kinds).flatmap(lambda kind: st.tuples(st.just(kind[0]), _given(kind[1])))
    named = spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Box(-1.0, 1.0, (2,), np.float32)})
    entries = st.fixed_dictionaries({"a": _given((2,)), "b": _given((2, 2))}, optional={"c": VALUES})
    cases = plain | st.tuples(st.just(named), entries | VALUES)

    @many
    @given(cases)
    def check(case: tuple[spaces.Space[Any], Any]) -> None:
        space, actions = case
        spec = spec_of(space, "the world")
        taken = tried(lambda: check_actions(actions, 2, spec, torch.device("cpu")))
        if taken is None:
            return
        assert taken.dtype == (torch.int64 if spec.count else torch.float32)
        rows = one_by_one(space, shaped(spec, taken.numpy()), 2)
        assert all(space.contains(row) for row in rows)
        keyed = {key: np.asarray(value) for key, value in (actions if spec.named else {"": actions}).items()}
        told = np.concatenate([keyed[part.key].reshape(2, -1) for part in spec.parts], 1).astype(np.float64)
        assert np.allclose(told, taken.numpy().reshape(2, -1), rtol=1e-6, atol=0)

    check()


class Counting(gym.Env[Any, Any]):
    """Keeps what it was told to do."""

    observation_space = spaces.Box(0, 255, (2, 2, 3), np.uint8)
    action_space = spaces.Discrete(4, start=3)

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        return np.zeros((2, 2, 3), np.uint8), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.done = action
        return np.zeros((2, 2, 3), np.uint8), 0.0, False, False, {}


def test_actions_that_a_world_is_given() -> None:
    """Renumbered actions, and Minecraft's: what is done is what was said."""
    offered = (3, 0, 2)
    env = DiscreteActions(Counting(), offered)
    buttons = st.dictionaries(st.sampled_from([*BUTTONS[:3], "camera", "dig"]), VALUES | _given((2,)), max_size=3)

    @many
    @given(VALUES | _given((1,)) | buttons)
    def check(action: Any) -> None:
        if isinstance(action, dict):
            done = tried(lambda: full_action(action))
            if done is not None:
                assert set(done) == {*BUTTONS, "camera"}
                assert all(type(done[name]) is int and done[name] in (0, 1) for name in BUTTONS)
                assert done["camera"].dtype == np.float64
                assert np.isfinite(done["camera"]).all()
                assert all(np.array_equal(np.ravel(np.asarray(action[name])), np.ravel(done[name])) for name in action)
            return
        try:
            env.step(action)
        except gym.error.InvalidAction:
            pass
        else:
            assert type(env.unwrapped.done) is int
            assert env.unwrapped.done == 3 + offered[int(action)]
            assert np.ndim(action) == 0
            assert int(action) == action

    check()


# Options


def test_options_of_dreams() -> None:
    """Options that are taken are those that were given."""
    fields = [f.name for f in dataclasses.fields(DreamOptions) if f.name != "autoreset_mode"]
    fitting = {
        "context_length": st.sampled_from([1, 8, "all", (2, 3), (3, 2), [2, 3], (1,), True, 2.0]),
        "start": st.sampled_from(["any", "episode", 0, 1, 0.5, 1.5, True, np.nan]),
        "max_episode_steps": st.sampled_from([None, 1, 2.5, 0, True, "5", np.nan]),
        "terminate": st.sampled_from(["sample", "never", "Never"]),
        "observation": st.sampled_from(["frame", "both", ["frame"]]),
        "uncertainty": st.sampled_from(["none", "heads"]),
        "truncate_above": st.sampled_from([None, 0, 1.5, np.nan, np.inf, -1.0, "1", True]),
        "pessimism": st.sampled_from([0, 1.5, np.nan, np.inf, -1, "1", True, None]),
        "pessimism_over": st.sampled_from(["masks", "draws", "none"]),
        "stagger": st.sampled_from([True, False, 1, "no"]),
        "render_mode": st.sampled_from([None, "rgb_array", "human"]),
    }
    optional = {name: fitting[name] | JSON if name in fitting else st.booleans() | JSON for name in fields}
    some = st.lists(st.sampled_from(fields), max_size=3, unique=True)
    kinds = typing.get_type_hints(DreamOptions)

    @many
    @given(some.flatmap(lambda names: st.fixed_dictionaries({name: optional[name] for name in names})))
    def check(given_options: dict[str, Any]) -> None:
        options = tried(lambda: DreamOptions(**given_options))
        if options is not None:
            for name, value in given_options.items():
                kept = getattr(options, name)
                assert kept == (tuple(value) if isinstance(value, list) else value)  # as JSON has it
                assert isinstance(kept, bool) == (kinds[name] is bool)
                assert not isinstance(kept, float) or np.isfinite(kept)
            json.dumps(options.decisive)

    check()


def test_settings_files(tmp_path: Path) -> None:
    """In a file that people write, and in that of a run: the settings are what is written there."""
    default = LoopSettings()
    told = to_json(default)
    path = tmp_path / "config.yaml"

    @st.composite
    def few(draw: st.DrawFn) -> Any:
        other = draw(replaced(told))
        if not isinstance(other, dict):
            return other
        differ = [key for key in other if key not in told or other[key] is not told[key]]
        kept = {*differ, *draw(st.lists(st.sampled_from(sorted(told)), max_size=2))}
        return {key: value for key, value in other.items() if key in kept}

    @many
    @given(few() | changes())
    def check(done: Any) -> None:
        if isinstance(done, list) and done and isinstance(done[0], tuple):
            path.write_bytes(changed(json.dumps(told, indent=1).encode(), done))
        else:
            path.write_bytes(json.dumps(done).encode())
        values = tried(lambda: read_config(path))
        settings = None if values is None else tried(lambda: overlaid(default, values, path))
        if values is not None and settings is not None:
            check_settings(to_json(settings), values, told)
            assert tried(lambda: from_json(LoopSettings, to_json(settings), path)) == settings
        if values is not None:
            run = tried(lambda: from_json(LoopSettings, {**told, **values}, path))
            assert run is None or as_json(to_json(run)) == as_json(to_json(run))

    check()


def check_settings(read: Any, written: Any, default: Any) -> None:
    """`read` has what is `written`, and for all else what it would have had."""
    if isinstance(default, dict) and isinstance(written, dict):
        assert set(read) == set(default)
        for key in read:
            check_settings(read[key], written.get(key, default[key]), default[key])
    elif isinstance(default, list) and isinstance(written, list) and len(written) == len(default):
        for one, other, usual in zip(read, written, default, strict=True):
            check_settings(one, other, usual)
    else:
        assert as_json(read) == as_json(written)


def test_configs_of_worlds() -> None:
    """Of models and environments, as checkpoints have them."""
    model = json.loads(json.dumps(small_config().to_dict()))
    parts = [{"kind": "box", "shape": [2], "low": [0, 0], "high": [1, 1], "dtype": "float32"}]
    vectors = {**model, "num_actions": 0, "action_size": 2, "action_parts": parts}
    world = EnvConfig("MiniGrid-MemoryS7-v0", size=8, actions=(0, 1), options='{"a": 1}', layouts=(0, 3)).to_dict()
    read = ReadOptions()

    @many
    @given(replaced(model) | replaced(vectors) | replaced(world) | replaced(dataclasses.asdict(read)))
    def check(told: Any) -> None:
        if isinstance(told, dict) and "max_frames" in told:
            options = tried(lambda: ReadOptions(**told)) if set(told) <= set(vars(read)) else None
            assert options is None or all(getattr(options, key) == value for key, value in told.items())
            assert options is None or all(
                type(vars(options)[name]) is type(vars(read)[name]) for name in ("size", "every")
            )
        elif isinstance(told, dict) and "id" in told:
            config = tried(lambda: EnvConfig.from_dict(told))
            if config is not None:
                check_settings(as_json(config.to_dict()), as_json(told), as_json(config.to_dict()))
                assert EnvConfig.from_dict(config.to_dict()) == config
        else:
            known = tried(lambda: WorldModelConfig.from_dict(told))
            if known is not None:
                check_settings(as_json(known.to_dict()), as_json(told), as_json(known.to_dict()))
                assert WorldModelConfig.from_dict(json.loads(json.dumps(known.to_dict()))) == known

    check()


def test_command_lines() -> None:
    """A command line that is taken says what was typed."""
    texts = st.sampled_from(["8", "0", "-1", "1e3", "2.5", "nan", "inf", "", "None", "none", "crop", "vpt", "ä", "1_0"])
    flags = ("size", "max-frames", "actions", "image-key", "every", "fps", "fit", "limit")
    chosen = st.lists(st.sampled_from(flags), max_size=2, unique=True)
    lines = chosen.flatmap(lambda names: st.fixed_dictionaries(dict.fromkeys(names, texts)))

    @many
    @given(lines, st.sampled_from(["minari", "videos", "rlds", "nothing"]))
    def check(typed: dict[str, str], name: str) -> None:
        args = [name, "from", "--to", "there"]
        for flag, text in typed.items():
            args += [f"--{flag}", text]

        def parsed() -> ConvertOptions | None:
            try:
                return tyro.cli(ConvertOptions, args=args, prog="convert")
            except SystemExit:
                return None

        options = tried(parsed)
        if options is not None:
            assert (options.format, options.folder, options.to) == (name, Path("from"), Path("there"))
            values = {**vars(options), **vars(options.read)}
            for flag, text in typed.items():
                value = values[flag.replace("-", "_")]
                number = isinstance(value, int | float)
                assert value == (type(value)(text) if number else None if text == "None" else text)

    check()


CPU = torch.device("cpu")
TWO, BOX = spec_of(spaces.Discrete(2), "it"), spec_of(spaces.Box(-1.0, 1.0), "it")
RUN = Path("settings.json")
FOUND: dict[str, Callable[[], Any]] = {
    "no action": lambda: check_actions(None, 2, TWO, CPU),
    "no action in a row": lambda: check_actions([0, None], 2, TWO, CPU),
    "text": lambda: check_actions("1", 2, BOX, CPU),
    "a number of more than 64 bits": lambda: check_actions(2**64, 2, BOX, CPU),
    "an unsigned action of 64 bits": lambda: check_actions(np.full(2, 2**64 - 1, np.uint64), 2, TWO, CPU),
    "bounds beyond float32": lambda: spec_of(spaces.Box(-1e300, 1e300, (), np.float64), "it"),  # type: ignore[arg-type]
    "bounds that float32 takes for one": lambda: spec_of(spaces.Box(1, 1 + 1e-12, (2,), np.float64), "it"),  # type: ignore[arg-type]
    "choices that float32 takes for one": lambda: spec_of(spaces.MultiDiscrete([2**25]), "it"),
    "a part without a name": lambda: spec_of(spaces.Dict({"": spaces.Discrete(2)}), "it"),
    "an error of two lines": lambda: spec_of(spaces.MultiDiscrete([[2], [2]], start=[[1], [1]]), "it"),
    "a button of two lists": lambda: full_action({"attack": [0, [1]]}),
    "an option of another type": lambda: DreamOptions(channels_first=None),  # type: ignore[arg-type]
    "half a step": lambda: DreamOptions(max_episode_steps=2.5),  # type: ignore[arg-type]
    "pessimism as text": lambda: DreamOptions(pessimism="1"),  # type: ignore[arg-type]
    "pessimism without end": lambda: DreamOptions(pessimism=np.inf),
    "a threshold that is none": lambda: DreamOptions(uncertainty="heads", truncate_above=np.nan),
    "no rate": lambda: ReadOptions(every=None),  # type: ignore[arg-type]
    "a model's config that is a list": lambda: WorldModelConfig.from_dict([]),  # type: ignore[arg-type]
    "settings without a part": lambda: from_json(LoopSettings, {"dreamer": None}, RUN),
    "settings with a part of another type": lambda: from_json(LoopSettings, {"dreamer": []}, RUN),
    "settings with a list of another type": lambda: from_json(LoopSettings, {"actions": False}, RUN),
    "settings with keys that are numbers": lambda: from_json(LoopSettings, {"ppo": {1: 2, "x": 3}}, RUN),
    "a model's config with keys that are numbers": lambda: WorldModelConfig.from_dict({1: 2, "x": 3}),  # type: ignore[dict-item]
    "a world's config with keys that are numbers": lambda: EnvConfig.from_dict({1: 2, "x": 3}),  # type: ignore[dict-item]
    "keys of an action that are numbers": lambda: full_action({1: 2, "x": 3}),  # type: ignore[dict-item]
    "settings that are a list": lambda: from_json(LoopSettings, [], RUN),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", FOUND)
def test_found_by_the_fuzz(name: str) -> None:
    with pytest.raises(InputError) as told:
        FOUND[name]()
    assert "\n" not in str(told.value)


def test_unsigned_actions_are_numbers_too() -> None:
    assert check_actions(np.array([0, 1], np.uint16), 2, TWO, CPU).tolist() == [0, 1]


def test_a_snapshot_with_another_bit_is_refused(dream: DreamVectorEnv, tmp_path: Path) -> None:
    dream.get_state().save(tmp_path / "state")
    content = bytearray((tmp_path / "state").read_bytes())
    content[-1] ^= 1
    (tmp_path / "state").write_bytes(content)
    with pytest.raises(InputError, match="checksum"):
        DreamState.load(tmp_path / "state")
