"""What frames are conditioned on: discrete, continuous or no actions, a pose, and actions that are withheld."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.episodes import NO_ACTION, Clips
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.model import Features, WorldModel
from worlds import (
    assert_close,
    assert_same,
    generator,
    gradients,
    random_clips,
    random_frames,
    random_model,
    small_config,
)

ROWS, FRAMES = 2, 6
DISCRETE = small_config()
CONTINUOUS = small_config(num_actions=0, action_size=2)
POSED = small_config(pose_size=3)
POSE_ALONE = small_config(num_actions=0, pose_size=3)
KINDS = {"discrete": DISCRETE, "continuous": CONTINUOUS, "posed": POSED, "pose alone": POSE_ALONE}


def actions_for(config: WorldModelConfig, seed: int) -> Tensor:
    if config.action_size:
        return torch.randn(ROWS, FRAMES, config.action_size, generator=generator(seed), dtype=torch.float64)
    return torch.randint(max(config.num_actions, 1), (ROWS, FRAMES), generator=generator(seed))


def pose_for(config: WorldModelConfig, seed: int) -> Tensor | None:
    if not config.pose_size:
        return None
    return 5 * torch.rand(ROWS, FRAMES, config.pose_size, generator=generator(seed), dtype=torch.float64)


def clips_for(config: WorldModelConfig, seed: int = 1) -> Clips:
    clips = random_clips(DISCRETE, (FRAMES, 4), FRAMES, seed)
    return replace(clips, actions=actions_for(config, seed), pose=pose_for(config, seed))


@torch.no_grad()
def observe(
    model: WorldModel, seed: int = 1, actions: Tensor | None = None, pose: Any = "own"
) -> tuple[Features, Memory]:
    config = model.config
    frames = random_frames(config, ROWS, FRAMES, source=generator(1))
    pose = pose_for(config, seed) if isinstance(pose, str) else pose
    return model.observe(frames, actions_for(config, seed) if actions is None else actions, pose=pose)


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> WorldModel:
    return random_model(KINDS[request.param], 0)


def test_it_is_heeded(model: WorldModel) -> None:
    """Other actions, or another pose: other features from the frame where they differ, the same before it."""
    config = model.config
    for part in ("actions", "pose"):
        given = {"actions": actions_for(config, 1), "pose": pose_for(config, 1)}
        if given[part] is None:
            continue
        changed = given[part].clone()
        changed[:, 3] = (changed[:, 3] + 1) % 3
        before, after = observe(model, **given)[0], observe(model, **{**given, part: changed})[0]
        assert_same(before.features[:, :3], after.features[:, :3])
        told = part == "pose" or config.num_actions + config.action_size > 0
        assert torch.equal(before.features[:, 3], after.features[:, 3]) != told


def test_segments_and_dreams(model: WorldModel) -> None:
    """Observed in two segments as in one; and what a dream commits is what observing its frame would have."""
    config, actions = model.config, actions_for(model.config, 1)
    pose, frames = pose_for(config, 1), random_frames(config, ROWS, FRAMES, source=generator(1))

    def at(part: Any) -> Tensor | None:
        return None if pose is None else pose[:, part]

    with torch.no_grad():
        whole, memory = model.observe(frames, actions, pose=pose)
        first, middle = model.observe(frames[:, :4], actions[:, :4], pose=at(slice(0, 4)))
        second, after = model.observe(frames[:, 4:], actions[:, 4:], middle, pose=at(slice(4, None)))
        assert_close(torch.cat([first.features, second.features], 1), whole.features)
        assert_close(after, memory)
        dreamt = model.imagine(actions[:, 4], middle, steps=2, generator=generator(0), pose=at(4))
        shown, again = model.observe(dreamt.frame[:, None], actions[:, 4:5], middle, pose=at(slice(4, 5)))
        assert_same(again, dreamt.memory)
        assert_same(shown.features[:, 0], dreamt.features)


def test_it_is_trained(model: WorldModel) -> None:
    losses = model.loss(clips_for(model.config), generator(0))
    found = {name: g for name, g in gradients(model, losses.total).items() if "condition." in name}
    assert {name.split(".")[2] for name in found} >= {"noise", "action"} | (
        {"pose"} if model.config.pose_size else set()
    )
    assert all(bool(g.isfinite().all()) for g in found.values())
    unreached = {name for name, g in found.items() if not g.any()}
    assert unreached <= {"backbone.condition.action.weight"}  # continuous: only frame 0 of an episode has none


def test_none_is_like_a_withheld_action() -> None:
    """And withholding all of them gives the loss of clips without any."""
    for config in (DISCRETE, CONTINUOUS):
        none = torch.full_like(actions_for(config, 1), torch.nan if config.action_size else NO_ACTION)
        clips = clips_for(config)
        model = random_model(replace(config, action_dropout=1.0), 0)
        withheld, without = model.loss(clips, generator(0)), model.loss(replace(clips, actions=none), generator(0))
        assert_close(withheld.diffusion, without.diffusion)
        told = random_model(config, 0).loss(clips, generator(0))
        assert not torch.isclose(told.diffusion, withheld.diffusion)


def test_half_of_a_continuous_action_is_none() -> None:
    """A vector with one NaN is no action; the rest of it has no say."""
    model, actions = random_model(CONTINUOUS, 0), actions_for(CONTINUOUS, 1)
    actions[:, 2, 0] = torch.nan
    other = actions.clone()
    other[:, 2, 1] += 1
    assert_same(observe(model, actions=actions)[0], observe(model, actions=other)[0])


@pytest.mark.parametrize(
    ("config", "actions", "pose", "error", "message"),
    [
        (POSED, None, None, InputError, "conditioned on a pose of 3 numbers"),
        (DISCRETE, None, torch.zeros(ROWS, FRAMES, 3), InputError, "knows no pose"),
        (POSED, None, torch.zeros(ROWS, FRAMES, 2), ValueError, r"pose must be \(2, 6, 3\)"),
        (
            CONTINUOUS,
            torch.zeros(ROWS, FRAMES, 3),
            "own",
            InputError,
            "actions have 3 numbers, this world model wants 2",
        ),
        (CONTINUOUS, torch.zeros(ROWS, FRAMES, dtype=torch.int64), "own", ValueError, r"shape \(B, T, 2\)"),
    ],
)
def test_what_does_not_fit(config: WorldModelConfig, actions: Any, pose: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        observe(random_model(config, 0), actions=actions, pose=pose)
