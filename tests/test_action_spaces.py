"""Every kind of action space: told to files and models and back, embedded, refused where it cannot be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from lssvwm.envs.factory import make, make_vec
from lssvwm.envs.spaces.actions import as_recorded, flat, no_action, shaped, space_of, spec_of
from lssvwm.worldmodel.actions import ActionPart, ActionSpec, actions_of, told
from lssvwm.worldmodel.checkpoint import load_checkpoint, save_checkpoint
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.diffusion.noise import fourier
from lssvwm.worldmodel.layers.conditioning import NOISE_BANDS, Condition
from steering import SPACES, steering
from worlds import generator, random_model, randomised, small_config

VECTORS = [kind for kind in SPACES if kind != "discrete"]


def config_of(kind: str, **changes: Any) -> WorldModelConfig:
    return small_config(**told(spec_of(SPACES[kind], kind)), **changes)


@pytest.mark.parametrize("kind", SPACES)
def test_a_space_comes_back_from_what_is_kept_of_it(kind: str) -> None:
    config = config_of(kind)
    read = WorldModelConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert read == config
    assert space_of(actions_of(read)) == SPACES[kind]
    assert (actions_of(read).count > 0) == (kind == "discrete")


@pytest.mark.parametrize("kind", SPACES)
def test_actions_become_numbers_and_come_back(kind: str) -> None:
    space, actions = SPACES[kind], spec_of(SPACES[kind], kind)
    rows = batch_space(space, 50)
    rows.seed(1)
    given = rows.sample()
    numbers = flat(actions, given)
    assert numbers.shape == ((50,) if actions.count else (50, actions.size))
    assert numbers.dtype == (np.int64 if actions.count else np.float32)
    assert as_recorded(actions, numbers, 50) is not numbers
    back = shaped(actions, numbers)
    assert rows.contains(back)
    for key in space.spaces if isinstance(space, spaces.Dict) else [...]:
        np.testing.assert_allclose(back[key], given[key], rtol=1e-6)
    assert all(space.contains(shaped(actions, one)) for one in numbers)  # dtypes and shapes of a single one, too


def test_rounding_to_32_bits_leads_out_of_no_bounds() -> None:
    space = spaces.Box(0.1, 0.3, (1,), np.float64)
    edge = np.array([[0.3]], np.float32)  # 0.30000001192...
    assert space.contains(shaped(spec_of(space, "it"), edge)[0])


def test_the_numbers_of_a_dictionary_lie_side_by_side() -> None:
    actions = spec_of(SPACES["dict"], "it")
    assert actions.choices == (0, 0, 3, 2, 2)
    assert actions.low == pytest.approx((-0.3, -0.3, 0, 0, 0))
    assert actions.high == pytest.approx((0.3, 0.3, 2, 1, 1))
    one = shaped(actions, np.float32([0.1, -0.2, 2, 0, 1]))
    assert (one["gear"], one["keys"].tolist()) == (2, [0, 1])
    assert np.isnan(no_action(actions)).all()


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(-np.inf, 1.0, (2,)), "finite bounds"),
        (spaces.Box(0, 9, (2,), np.int64), "floating"),
        (spaces.Text(3), "Discrete, Box, MultiDiscrete, MultiBinary and a Dict of these"),
        (spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(2)})}), "'a' the action space Dict"),
        (spaces.Discrete(3, start=-1), "begin at -1"),
    ],
)
def test_other_spaces_are_refused_by_name(space: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"Mine has.*{message}"):
        spec_of(space, "Mine")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"kind": "ball"}, "kind='ball'"),
        ({"kind": "box", "shape": [2], "low": [0.0], "high": [1.0], "dtype": "float32"}, "its numbers are 2"),
        ({"kind": "box", "shape": [1], "low": [1.0], "high": [1.0], "dtype": "float32"}, "below the upper ones"),
        ({"kind": "box", "shape": [1], "low": [float("nan")], "high": [1.0]}, "low="),
        ({"kind": "multi-binary", "shape": [2], "choices": [2, 0]}, "at least 1 each"),
        ({"kind": "box", "shape": [99999]}, "give 1 to 4096 numbers"),
        ({"kind": "discrete", "choices": [3]}, "give discrete actions as num_actions"),
        ({"kind": "box", "shape": [3], "dtype": "float32"}, "action_size=2, but the parts have 3 numbers"),
        ({"kind": "box", "size": 3}, "a part has the keys"),
        ("box", "action_parts="),
    ],
)
def test_a_config_that_describes_no_action_is_refused(part: Any, message: str) -> None:
    values = {**small_config(num_actions=0, action_size=2).to_dict(), "action_parts": [part]}
    with pytest.raises(InputError, match=message):
        WorldModelConfig.from_dict(values)


def test_configs_from_before_have_actions_of_unknown_bounds() -> None:
    values = small_config(num_actions=0, action_size=2).to_dict()
    del values["action_parts"]
    config = WorldModelConfig.from_dict(values)
    assert actions_of(config) == ActionSpec.unbounded(2)
    assert not actions_of(config).bounded
    old = {
        name for name in random_model(small_config(num_actions=0, action_size=2), 0).state_dict() if "condition" in name
    }
    assert {"backbone.condition.action.weight", "backbone.condition.motion.0.weight"} <= old
    assert not any("choices" in name for name in old)
    with pytest.raises(InputError, match="name each part"):
        ActionSpec((ActionPart("discrete", choices=(2,), key="a"), ActionPart("discrete", choices=(2,), key="a")))


def test_every_choice_has_an_embedding_of_its_own_and_all_are_added() -> None:
    config = config_of("dict")
    condition = randomised(lambda: Condition(config), 0)
    assert condition.choices is not None
    assert condition.motion is not None
    level = torch.rand(2, 3, generator=generator(1), dtype=torch.float64)
    actions = torch.tensor([[0.1, -0.2, 2, 0, 1], [0.3, 0.0, 0, 1, 1]]).double()[:, None].repeat(1, 3, 1)
    actions[0, 0] = torch.nan
    found = condition(level, actions, None)
    noise = condition(level, torch.full_like(actions, torch.nan), None)
    torch.testing.assert_close(found[0, 0], noise[0, 0])

    base = condition.noise(fourier(level, NOISE_BANDS, 2.0, 0.002))
    for row, t in ((0, 1), (1, 0), (1, 2)):
        camera, (gear, first, second) = actions[row, t, :2], actions[row, t, 2:].long().tolist()
        table = condition.choices.weight
        added = condition.motion(camera / 0.3) + table[gear] + table[3 + first] + table[5 + second]
        wanted = torch.nn.functional.silu(base[row, t] + added)
        torch.testing.assert_close(found[row, t], wanted, atol=1e-6, rtol=1e-6)  # bounds are kept in 32 bits


@pytest.mark.parametrize("wrong", [[0.1, 0.1, 3, 0, 0], [0.1, 0.1, -1, 0, 0], [0.1, 0.1, 0.5, 0, 0]])
def test_choices_that_do_not_exist_are_refused(wrong: list[float]) -> None:
    condition = Condition(config_of("dict"))
    with pytest.raises(InputError, match="trained on another action space"):
        condition.check(torch.tensor(wrong).view(1, 1, 5), None, 1)
    condition.check(torch.full((1, 1, 5), torch.nan), None, 1)


@pytest.mark.parametrize("kind", SPACES)
def test_environments_keep_their_own_actions(kind: str) -> None:
    env = make(steering(kind))
    assert env.action_space == SPACES[kind]
    envs = make_vec(steering(kind), 2, processes=False)
    envs.reset(seed=3)
    envs.action_space.seed(0)
    frames = envs.step(envs.action_space.sample())[0]
    assert frames.shape == (2, 16, 8, 3)


def test_a_checkpoint_keeps_the_space(tmp_path: Path) -> None:
    model = random_model(config_of("dict"), 0).float()
    save_checkpoint(tmp_path, model, world={}, step=0)
    loaded = load_checkpoint(tmp_path).model
    assert loaded.config == model.config
    assert space_of(actions_of(loaded.config)) == SPACES["dict"]
    wide = replace(model.config, action_parts=spec_of(spaces.Box(-1, 1, (5,)), "it").parts)
    assert {"backbone.condition.choices.weight"} == set(model.state_dict()) - set(random_model(wide, 0).state_dict())
