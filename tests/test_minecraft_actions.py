"""Actions in MineRL's shape: the sets, what they press, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lssvwm.envs.minecraft.actions import (
    ACTION_SETS,
    BUTTONS,
    ActionSet,
    action_set,
    dict_action_space,
    full_action,
    mu_law_bins,
)
from lssvwm.worldmodel.common.errors import InputError


@pytest.mark.parametrize("name", [name for name in ACTION_SETS if name != "craft"])
def test_every_action_of_a_set_is_one_of_the_dictionary_space(name: str) -> None:
    space = dict_action_space()
    for action in action_set(name).actions:
        full = full_action(action)
        full["camera"] = full["camera"].astype(np.float32)
        assert space.contains({key: np.int64(value) if key in BUTTONS else value for key, value in full.items()})


@pytest.mark.parametrize("name", ACTION_SETS)
def test_no_two_actions_of_a_set_do_the_same(name: str) -> None:
    pressed = [repr(sorted(action.items())) for action in action_set(name).actions]
    assert len(set(pressed)) == len(pressed)


def test_teco_has_its_four_actions_in_order() -> None:
    teco = action_set("teco")
    assert teco.names == ("forward", "left", "right", "jump")
    assert [full_action(action)["camera"].tolist() for action in teco.actions] == [[0, 0], [0, -15], [0, 15], [0, 0]]


def test_vpt_bins_are_those_of_its_quantiser() -> None:
    assert np.allclose(
        mu_law_bins(), [-10, -5.809, -3.215, -1.609, -0.615, 0, 0.615, 1.609, 3.215, 5.809, 10], atol=1e-3
    )
    vpt = action_set("vpt")
    assert len(vpt) == 148
    assert sum("camera" in action for action in vpt.actions) == 11 * 11 - 1
    assert all(len(action) == 1 for action in vpt.actions if "camera" in action)


def test_missing_keys_are_zero() -> None:
    full = full_action({"attack": True, "camera": [1, -2.5]})
    assert full["attack"] == 1
    assert full["camera"].tolist() == [1.0, -2.5]
    assert not any(full[button] for button in BUTTONS if button != "attack")


@pytest.mark.parametrize(
    ("action", "named"),
    [
        ({"fly": 1}, "fly"),
        ({"jump": 2}, "jump"),
        ({"jump": [0, 1]}, "jump"),
        ({"camera": 3.0}, "camera"),
        ({"camera": [0.0, np.nan]}, "camera"),
        ({"camera": ["up", "left"]}, "camera"),
    ],
)
def test_wrong_actions_are_named(action: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        full_action(action)


def test_wrong_names_and_numbers_are_named() -> None:
    with pytest.raises(InputError, match="teco"):
        action_set("tecco")
    with pytest.raises(InputError, match=r"0\.\.3"):
        action_set("teco")[4]
    with pytest.raises(InputError, match="no 'attack'"):
        action_set("teco").index("attack")
    with pytest.raises(InputError, match="name each"):
        ActionSet("mine", ("a", "a"), ({}, {}))
