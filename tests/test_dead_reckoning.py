"""Dead reckoning: what actions do is found in recorded poses, and tells a model where it is without them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

import train_wm
from benchmarks.path_integration import RING, WORLDS, found_again, trained
from lssvwm.worldmodel.actions import ActionPart
from lssvwm.worldmodel.checkpoint import load_checkpoint
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.episodes import NO_ACTION, Clips
from lssvwm.worldmodel.layers.dead_reckoning import PLACE, DeadReckoning, placed
from runs import TINY_WORLD
from worlds import assert_close

STAY, FORWARD, LEFT, RIGHT, UP = range(5)
ROLLS = 0.25
"""Of what an action does comes one frame later."""
DOES = torch.zeros(5, PLACE, dtype=torch.float64)
DOES[FORWARD, 0], DOES[UP, 2], DOES[UP, 4] = 0.5, 0.1, 0.005
DOES[LEFT, 3], DOES[RIGHT, 3] = math.radians(15), -math.radians(15)


def played(rows: int, frames: int, *, stuck: float = 0.0, three: bool = False, seed: int = 0) -> Clips:
    """Random play whose poses are computed step by step; a share of the frames is `stuck`."""
    random = np.random.default_rng(seed)
    actions = random.integers(0, 5 if three else 4, (rows, frames))
    actions[:, 0] = NO_ACTION
    poses = np.zeros((rows, frames, 6 if three else 4))
    for row in range(rows):
        place, before = np.array([3.0, -2.0, 1.0, random.uniform(0, 7), 0.1 * three]), np.zeros(PLACE)
        for t in range(frames):
            does = DOES[actions[row, t]].numpy() if t else np.zeros(PLACE)
            x, y, up, turn, pitch = (1 - ROLLS) * does + ROLLS * before
            cos, sin = math.cos(place[3]), math.sin(place[3])
            if random.random() >= stuck:
                place += [x * cos - y * sin, x * sin + y * cos, up, turn, pitch]
            before = does
            flat = math.cos(place[4])
            view = [flat * math.cos(place[3]), flat * math.sin(place[3]), math.sin(place[4])]
            poses[row, t] = [*place[[0, 2, 1]], *np.take(view, [0, 2, 1])] if three else [*place[:2], *view[:2]]
    blank = torch.zeros(rows, frames)
    return Clips(
        torch.zeros(rows, frames, 8, 8, 3, dtype=torch.uint8),
        torch.from_numpy(actions),
        blank,
        blank.bool(),
        torch.ones(rows, frames, dtype=torch.bool),
        torch.from_numpy(poses),
    )


def reckoning(**changes: Any) -> DeadReckoning:
    return DeadReckoning(WorldModelConfig(**{"num_actions": 5, "dead_reckoning": 2, **changes})).double()


def relative(places: Tensor) -> Tensor:
    """Positions as seen from the first of them."""
    moved, heading = places[..., :3] - places[:, :1, :3], places[:, :1, 3]
    cos, sin = heading.cos(), heading.sin()
    return torch.stack(
        [moved[..., 0] * cos + moved[..., 1] * sin, moved[..., 1] * cos - moved[..., 0] * sin, moved[..., 2]], -1
    )


@pytest.mark.parametrize("three", [False, True])
@pytest.mark.parametrize("stuck", [0.0, 0.1])
def test_what_actions_do_is_found_also_where_walls_stop_some_of_it(three: bool, stuck: float) -> None:
    path = reckoning()
    path.fit(played(32, 64, stuck=stuck, three=three), 0)
    found = path.moves.view(path.width, 2, PLACE)
    known = slice(None) if three else slice(0, UP)  # who never looked up does not know
    torch.testing.assert_close(found[known, 1], (1 - ROLLS) * DOES[known], atol=0.02, rtol=0)
    torch.testing.assert_close(found[known, 0], ROLLS * DOES[known], atol=0.02, rtol=0)


@pytest.mark.parametrize("three", [False, True])
def test_it_knows_where_it_is(three: bool) -> None:
    path, unseen = reckoning(), played(8, 200, three=three, seed=1)
    said = path.fit(played(32, 64, three=three), 0)
    assert "after 63 frames half are within 0.00 of where they are" in said
    assert unseen.pose is not None
    found, truth = path(unseen.actions, torch.zeros(8, path.size, dtype=torch.float64)), placed(unseen.pose)
    torch.testing.assert_close(found.pose[..., :3], relative(truth), atol=1e-3, rtol=0)
    turned = truth[..., 3] - truth[:, :1, 3]
    torch.testing.assert_close(found.pose[..., 3:5], torch.stack([turned.cos(), turned.sin()], -1), atol=1e-3, rtol=0)


def test_it_goes_on_where_it_stood() -> None:
    path, clips = reckoning(dead_reckoning=3), played(4, 40)
    path.fit(clips, 0)
    begin = torch.zeros(4, path.size, dtype=torch.float64)
    whole = path(clips.actions, begin)
    first = path(clips.actions[:, :1], begin)
    rest = path(clips.actions[:, 1:], first.after)
    assert_close(torch.cat([first.pose, rest.pose], 1), whole.pose)
    assert_close(rest.after, whole.after)


def test_what_lies_behind_the_mask_does_not_count() -> None:
    clips, paths = played(8, 40), [reckoning(), reckoning()]
    clips.mask[:, 30:] = False
    assert clips.pose is not None
    for path, value in zip(paths, (0.0, 9.0), strict=True):
        clips.pose[:, 30:] = value
        path.fit(clips, 0)
    assert torch.equal(paths[0].moves, paths[1].moves)


def test_clips_of_any_length_say_how_well_it_went() -> None:
    clips = played(8, 64)
    clips.mask[:, 40:] = False
    assert "after 39 frames half are within 0.00 of where they are" in reckoning().fit(clips, 0)


def test_what_was_done_before_a_clip_hardly_counts() -> None:
    path, unseen = reckoning(dead_reckoning=3), played(8, 100, seed=1)
    path.fit(played(64, 60).span(slice(20, 60)), 0)
    assert unseen.pose is not None
    found = path(unseen.actions, torch.zeros(8, path.size, dtype=torch.float64)).pose[..., :3]
    torch.testing.assert_close(found, relative(placed(unseen.pose)), atol=0.15, rtol=0)


def test_a_number_whose_middle_is_not_rest() -> None:
    """A throttle from 0 to 1 and a wheel from -1 to 1, and a choice that does nothing."""
    parts = (
        ActionPart("box", (2,), low=(0.0, -1.0), high=(1.0, 1.0), dtype="float32", key="drive"),
        ActionPart("discrete", choices=(2,), key="horn"),
    )
    path = reckoning(num_actions=0, action_size=3, action_parts=parts, dead_reckoning=1)
    random = np.random.default_rng(0)
    drive = random.uniform((0, -1), (1, 1), (16, 64, 2))
    heading = np.cumsum(np.where(np.arange(64) > 0, 0.2 * drive[..., 1], 0), 1)
    before = np.concatenate([heading[:, :1], heading[:, :-1]], 1)
    ahead = np.where(np.arange(64) > 0, 0.3 * drive[..., 0], 0)
    position = np.cumsum(np.stack([ahead * np.cos(before), ahead * np.sin(before)], -1), 1)
    pose = torch.from_numpy(np.concatenate([position, np.stack([np.cos(heading), np.sin(heading)], -1)], -1))
    actions = torch.from_numpy(np.concatenate([drive, random.integers(0, 2, (16, 64, 1))], -1)).float()
    actions[:, 0] = math.nan
    assert "within 0.00 of where they are" in path.fit(replace(played(16, 64), actions=actions, pose=pose), 0)


@pytest.mark.gpu
def test_actions_that_are_vectors_on_a_gpu() -> None:
    """Some of their numbers are told apart on the device of the model, and least squares are solved on the CPU."""
    parts = (ActionPart("box", (1,), low=(0.0,), high=(1.0,), dtype="float32", key="drive"),)
    path, clips = reckoning(num_actions=0, action_size=1, action_parts=parts, dead_reckoning=1).cuda(), played(8, 32)
    actions = torch.rand(8, 32, 1, generator=torch.Generator().manual_seed(0))
    actions[:, 0] = math.nan
    pose = torch.zeros(8, 32, 4, dtype=torch.float64)
    pose[..., 0], pose[..., 2] = actions[..., 0].nan_to_num().double().cumsum(1), 1
    assert "within 0.00 of where they are" in path.fit(replace(clips, actions=actions, pose=pose).to("cuda"), 0)


def test_poses_that_are_none_are_refused() -> None:
    clips = played(2, 8)
    assert clips.pose is not None
    for pose, size in ((None, 0), (clips.pose[..., :2], 2)):
        with pytest.raises(
            InputError, match=rf"has {size}: record with --extra-obs and add --pose agent_pos agent_dir"
        ):
            reckoning().fit(replace(clips, pose=pose), 0)
    with pytest.raises(InputError, match="name the position first"):
        reckoning().fit(replace(clips, pose=clips.pose[..., [2, 3, 0, 1]]), 0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_actions": 0}, "dead_reckoning=2: a model that is told no actions"),
        ({"action_dropout": 0.1}, "actions that are withheld"),
        ({"pose_size": 4}, "a pose is told or worked out"),
        ({"path_integration": 4}, "a pose is told or worked out"),
        ({"dead_reckoning": -1}, "dead_reckoning"),
    ],
)
def test_configs_that_make_no_sense_are_refused(changes: dict[str, int], said: str) -> None:
    with pytest.raises(InputError, match=said):
        WorldModelConfig(**{"num_actions": 3, "dead_reckoning": 2, **changes})


@pytest.mark.slow
@pytest.mark.parametrize(("path", "least", "most"), [("dead reckoning", 0.5, 1.0), ("16 angles", 0.0, 0.35)])
def test_places_are_found_again_in_a_room(tmp_path: Path, path: str, least: float, most: float) -> None:
    """A guess is right in one of eight. Angles of actions cannot tell where a step leads."""
    world = WORLDS["grid"]
    found = found_again(trained(tmp_path, replace(RING, **world.paths[path]), 300, world=world), world)
    assert least < found < most


RECKONING = ("--extra-obs", "--pose", "agent_pos", "agent_dir", "--model.dead-reckoning", "1")


def test_a_world_that_is_learned_with_poses_is_dreamt_without(tmp_path: Path) -> None:
    """A step in MiniGrid is one cell ahead, unless there is a wall, and a turn is a quarter."""
    out = tmp_path / "run"
    size = ("--collect-episodes", "6", "--world-steps", "2", "--training.fit-frames", "2048", "--model.patch", "14")
    train_wm.main([*TINY_WORLD, *size, *RECKONING, "--training.length", "32", "--out", str(out), "--no-progress"])
    settings = json.loads((out / "world_model" / "config.json").read_text())["model"]
    assert (settings["pose_size"], settings["dead_reckoning"]) == (0, 1)
    dream = gym.make("lssvwm:lssvwm/Dream-v0", checkpoint=str(out / "world_model"))
    dream.reset(seed=0)
    assert np.isfinite(dream.step(2)[1])
    dream.close()
    path = load_checkpoint(out / "world_model").model.backbone.path
    assert isinstance(path, DeadReckoning)
    quarter = math.pi / 2
    expected = torch.tensor([[0.0, -quarter], [0.0, quarter], [1.0, 0.0]])
    torch.testing.assert_close(path.moves[:, [0, 3]], expected, atol=0.15, rtol=0)
