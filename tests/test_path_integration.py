"""Path integration: that left undoes right is read off frames, and places are found again by it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.path_integration import LEFT, RIGHT, RING, SECTIONS, found_again, trained, walk
from lssvwm.worldmodel.actions import ActionPart
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.episodes import Clips
from lssvwm.worldmodel.layers.path_integration import PathIntegration


def clips(count: int) -> Clips:
    walks = [walk(seed) for seed in range(count)]
    frames, actions = (torch.from_numpy(np.stack([getattr(w, part) for w in walks])) for part in ("frames", "actions"))
    blank = torch.zeros(actions.shape)
    return Clips(frames, actions, blank, blank.bool(), torch.ones(actions.shape, dtype=torch.bool))


def integration(count: int = 8, **actions: object) -> PathIntegration:
    return PathIntegration(WorldModelConfig(**{"num_actions": 3, "path_integration": count, **actions}))  # type: ignore[arg-type]


def degrees(path: PathIntegration) -> np.ndarray:
    return np.degrees(path.turn.detach().numpy())


def test_it_finds_that_left_undoes_right_and_how_many_go_round() -> None:
    path = integration()
    assert path.fit(clips(80), 0).startswith("path integration: 1 angle")
    stay, right, left = degrees(path)
    np.testing.assert_allclose(stay, 0, atol=2)
    np.testing.assert_allclose(np.abs(right[0]), 360 / SECTIONS, atol=2)
    np.testing.assert_allclose(left, -right, atol=2)
    np.testing.assert_allclose(right[:4], right[0] / 2 ** np.arange(4), rtol=1e-5)


def test_the_same_seed_finds_the_same() -> None:
    one, other = integration(), integration()
    for path in (one, other):
        path.fit(clips(20), 3)
    assert torch.equal(one.turn, other.turn)


def test_it_finds_nothing_where_actions_do_nothing() -> None:
    path = integration()
    found = clips(40)
    noise = torch.randint(0, 256, found.frames.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert path.fit(replace(found, frames=noise), 0).startswith("path integration: 0 angles")
    assert not bool(path.turn.any())


def test_what_lies_behind_the_mask_does_not_count() -> None:
    path, other = integration(), integration()
    found = clips(40)
    found.mask[:, 30:] = False
    path.fit(found, 0)
    found.frames[:, 30:] = 0
    other.fit(found, 0)
    assert torch.equal(path.turn, other.turn)


def test_it_finds_the_axis_of_actions_that_are_vectors() -> None:
    """A number that turns by up to one section, one that does nothing, and a choice that turns by one."""
    parts = (
        ActionPart("box", (2,), low=(-2.0, -1.0), high=(2.0, 1.0), dtype="float32", key="turn"),
        ActionPart("discrete", choices=(2,), key="jump"),
    )
    found = clips(80)
    turned = torch.tensor([0.0, 1.0, -1.0, 0.0])[found.actions]
    jump = (turned > 0) & (torch.rand(turned.shape, generator=torch.Generator().manual_seed(0)) < 0.5)
    idle = torch.rand(turned.shape, generator=torch.Generator().manual_seed(1))
    vectors = torch.stack([torch.where(jump, 0, 2 * turned), idle, jump.float()], -1)
    vectors[:, 0] = math.nan
    path = integration(4, num_actions=0, action_size=3, action_parts=parts)
    assert "0 angles" not in path.fit(replace(found, actions=vectors), 0)
    turn, nothing, still, jumped = degrees(path)[:, 0]
    np.testing.assert_allclose(abs(turn), 360 / SECTIONS, atol=3)
    np.testing.assert_allclose(jumped - still, turn, atol=5)
    assert abs(nothing) < 10


def test_none_turns_nothing_and_angles_stay_within_a_circle() -> None:
    path = integration(2)
    with torch.no_grad():
        path.turn.copy_(torch.tensor([[0.0, 0.0], [3.0, 1.0], [-3.0, -1.0]]))
    walked, begin = [-1, RIGHT, RIGHT, RIGHT, -1, LEFT], torch.tensor([[0.5, 0.0]])
    expected = [0.5, 3.5, 6.5 - 2 * math.pi, 9.5 - 2 * math.pi, 9.5 - 2 * math.pi, 6.5 - 2 * math.pi]
    for end, angle in enumerate(expected, 1):
        torch.testing.assert_close(path(torch.tensor([walked[:end]]), begin).angles[0, 0], torch.tensor(angle))


def test_a_model_without_actions_has_no_path() -> None:
    with pytest.raises(InputError, match="path_integration=4: a model that is told no actions"):
        WorldModelConfig(num_actions=0, path_integration=4)


def test_places_are_found_again(tmp_path: Path) -> None:
    """A guess is right in one of eight; without path integration 0.2 after as many steps, and after twice as many."""
    assert found_again(trained(tmp_path, replace(RING, path_integration=16), 150)) > 0.6


@pytest.mark.slow
def test_without_it_they_are_not(tmp_path: Path) -> None:
    assert found_again(trained(tmp_path, RING, 150)) < 0.4
