"""What a world model refuses, and whether it says what and why."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.model import WorldModel
from worlds import generator, random_clips, random_frames, random_model, small_config

CONFIG = small_config()
FRAMES = random_frames(CONFIG, 2, 3, source=generator(0))
ACTIONS = torch.tensor([[-1, 0, 2], [1, 1, 1]])


@pytest.fixture(scope="module")
def model() -> WorldModel:
    return random_model(CONFIG, 0)


@pytest.mark.parametrize(
    ("action", "message"), [(3, "action 3 is outside the 3 actions"), (99, "action 99"), (-2, "action -2")]
)
def test_unknown_action(model: WorldModel, action: int, message: str) -> None:
    """In every verb. Only -1 means that no action led to a frame; another negative number is a mistake."""
    wrong = ACTIONS.clone()
    wrong[1, 1] = action
    clips = replace(random_clips(CONFIG, (3, 3), 3, 0), actions=wrong)
    with pytest.raises(InputError, match=message):
        model.observe(FRAMES, wrong)
    with pytest.raises(InputError, match=message):
        model.imagine(wrong[:, 1], model.empty(2), steps=1, generator=generator(0))
    with pytest.raises(InputError, match=message):
        model.loss(clips, generator(0))


@pytest.mark.parametrize(
    "wrong", [ACTIONS.int(), ACTIONS.float(), ACTIONS[0], ACTIONS[..., None]], ids=["int32", "float", "1-d", "3-d"]
)
def test_actions_of_another_kind(model: WorldModel, wrong: torch.Tensor) -> None:
    clips = replace(random_clips(CONFIG, (3, 3), 3, 0), actions=wrong)
    with pytest.raises(ValueError, match=r"actions must be int64 \(B, T\)"):
        model.observe(FRAMES, wrong)
    with pytest.raises(ValueError, match=r"actions must be int64 \(B, T\)"):
        model.loss(clips, generator(0))


@pytest.mark.parametrize("wrong", [ACTIONS, torch.tensor(1), torch.tensor([0.0, 1.0])], ids=["2-d", "0-d", "float"])
def test_actions_to_imagine_of_another_kind(model: WorldModel, wrong: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"actions (to imagine )?must be"):
        model.imagine(wrong, model.empty(2), steps=1, generator=generator(0))


@pytest.mark.parametrize(
    "frames", [FRAMES[0], FRAMES[:, :2], FRAMES[:1]], ids=["one video", "fewer frames", "fewer rows"]
)
def test_frames_without_their_actions(model: WorldModel, frames: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"frames must be \(B, T, h, w, 3\) with actions \(B, T\)"):
        model.observe(frames, ACTIONS)


def test_frames_of_another_size(model: WorldModel) -> None:
    with pytest.raises(InputError, match=r"must be uint8 \(\.\.\., 16, 8, 3\)"):
        model.observe(FRAMES.transpose(2, 3), ACTIONS)


@pytest.mark.parametrize("steps", [0, -1])
def test_no_denoising_steps(model: WorldModel, steps: int) -> None:
    with pytest.raises(ValueError, match="at least one denoising step"):
        model.imagine(ACTIONS[:, 0], model.empty(2), steps=steps, generator=generator(0))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_wrong_number_of_generators(model: WorldModel, count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} generators for 2 rows"):
        model.imagine(ACTIONS[:, 0], model.empty(2), steps=1, generator=[generator(0)] * count)


@pytest.mark.parametrize("rows", [1, 3])
def test_memory_of_another_number_of_rows(model: WorldModel, rows: int) -> None:
    """Never broadcast: a single memory for several rows is a mistake of the caller."""
    with pytest.raises((ValueError, RuntimeError)):
        model.imagine(ACTIONS[:, 0], model.empty(rows), steps=1, generator=generator(0))
    with pytest.raises((ValueError, RuntimeError)):
        model.observe(FRAMES, ACTIONS, model.empty(rows))


def test_not_fitted() -> None:
    model = WorldModel(CONFIG)
    with pytest.raises(InputError, match=r"not fitted.*tokenizer\.fit"):
        model.observe(FRAMES, ACTIONS)
    with pytest.raises(InputError, match=r"not fitted.*tokenizer\.fit"):
        model.imagine(ACTIONS[:, 0], model.empty(2), steps=1, generator=generator(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch": 5}, "patch=5 does not divide the frame 16x8: choose one that does, such as 4"),
        ({"patch": 0}, "patch"),
        ({"tiles": ((1, 1), (1, 3))}, r"tile \(1, 3\) does not divide the 4x2 token grid"),
        ({"tiles": ((0, 1),)}, r"tile.*\(0, 1\)"),
        ({"tiles": ()}, "tiles"),
        ({"dim": 36}, "dim=36 over heads=2"),
        ({"heads": 8}, "dim=32 over heads=8"),
        ({"heads": 0}, "heads"),
        ({"head_dim": 24}, "head_dim=24"),
        ({"conv": 1}, "conv=1"),
        ({"scan": "blokwise"}, "scan.*blokwise"),
        ({"window": -1}, "window=-1"),
        ({"num_actions": -1}, "num_actions=-1"),
        ({"num_actions": 3, "action_size": 2}, "either discrete or continuous"),
        ({"pose_size": -1}, "pose_size=-1"),
        ({"action_dropout": 1.5}, r"action_dropout=1\.5"),
        ({"target": "z"}, "target='z'"),
        ({"weight": "none"}, "weight='none'"),
        ({"tokenizer": "none"}, "tokenizer='none'"),
        ({"window": 4, "chunk": 3}, "window=4 must be whole chunks of chunk=3"),
        ({"layers": 0}, "layers=0"),
        ({"reward_horizon": 0}, "reward_horizon=0"),
    ],
    ids=str,
)
def test_settings_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small_config(**change)


def test_tiles_matter_to_the_blockwise_scan_alone() -> None:
    assert small_config(scan="none", tiles=((3, 3),)).window == 2
    assert small_config(scan="whole-frame", tiles=((3, 3),)).tile(1) == (4, 2)
    assert [small_config().tile(layer) for layer in range(3)] == [(2, 1), (1, 1), (2, 1)]


def test_config_through_json() -> None:
    config = small_config(tiles=((4, 2), (2, 1), (1, 1)), scan="whole-frame", noise_mean=-0.1)
    again = WorldModelConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert hash(again) == hash(config)
    with pytest.raises(InputError, match=r"unknown keys \['colour'\]"):
        WorldModelConfig.from_dict({**config.to_dict(), "colour": 1})
