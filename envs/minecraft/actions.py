"""Actions in the shape of MineRL, and the numbered lists of them that a discrete agent chooses from.

An action is a mapping. Buttons are 0 or 1. `camera` is (pitch, yaw), the turn of this step in degrees: down and right
are positive. What is not named is 0.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from lssvwm.worldmodel.common.errors import InputError, one_line

BUTTONS = (
    "attack",
    "back",
    "forward",
    "jump",
    "left",
    "right",
    "sneak",
    "sprint",
    "use",
    "inventory",
    "drop",
    "pickItem",
    "swapHands",
    "ESC",
    *(f"hotbar.{slot}" for slot in range(1, 10)),
)
"""The buttons of MineRL 1.0; 0.4 has the first eight and more by task. An environment ignores those it has no use for,
and says which."""

TURN = 15.0
"""Degrees by which one step of the small action sets turns."""

CRAFTS = ("planks", "sticks", "wooden_pickaxe", "stone_pickaxe")
"""What the key `craft` of an action may name, in worlds that know it."""

Action = Mapping[str, Any]
"""Buttons 0 or 1, `camera` (2,) degrees; missing keys are 0."""


@dataclass(frozen=True)
class ActionSet:
    """What the actions 0..n-1 of a discrete agent do.

    names: one for each action, each once. actions: what each presses; may hold keys besides buttons and camera that
    only some environments know, such as `craft`.

    Raises InputError where the two do not match.
    """

    name: str
    names: tuple[str, ...]
    actions: tuple[Action, ...]

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.actions) or len(set(self.names)) < len(self.names):
            raise InputError(
                f"action set '{self.name}' has {len(self.actions)} actions and the names {self.names}: name each "
                "action, with a name of its own"
            )

    def __len__(self) -> int:
        return len(self.actions)

    def __getitem__(self, number: int) -> Action:
        """What the action `number` (0..n-1) presses. Raises InputError for others."""
        if not 0 <= number < len(self.actions):
            raise InputError(f"action {number} is not one of the actions 0..{len(self) - 1} of the set '{self.name}'")
        return self.actions[number]

    def index(self, name: str) -> int:
        """The number of the action `name`. Raises InputError when the set has none of that name."""
        if name not in self.names:
            raise InputError(f"the action set '{self.name}' has no '{name}': it has {', '.join(self.names)}")
        return self.names.index(name)


def action_set(name: str) -> ActionSet:
    """The action set `name`; `ACTION_SETS` lists the names.

    teco (4): forward, left, right, jump, the actions of the TECO Minecraft recordings; left and right turn by 15
        degrees.
    turns (5): noop, left, right, up, down: turns by 15 degrees on the spot.
    walk (5): noop, forward, back, left, right; the last two turn by 15 degrees.
    treechop (10): noop, forward, back, left, right, up, down, attack, jump (with forward), chop (forward and attack).
    craft (14): those of treechop, then planks, sticks, wooden_pickaxe, stone_pickaxe, which craft one (key `craft`).
    vpt (148): 28 combinations of buttons, then 120 turns without a button: each pair of pitch and yaw, other than
        (0, 0), of the 11 values that VPT's mu-law quantiser has (`mu_law_bins`).

    Raises InputError for another name.
    """
    if name not in _SETS:
        raise InputError(f"there is no action set '{name}': choose one of {', '.join(_SETS)}")
    return _SETS[name]()


def full_action(action: Action) -> dict[str, Any]:
    """`action` with every button (int, 0 or 1) and `camera` ((2,) float64).

    Raises InputError for other keys, values of buttons other than 0 and 1, and a camera that is not two finite numbers.
    """
    unknown = sorted(map(str, set(action) - {*BUTTONS, "camera"}))
    if unknown:
        raise InputError(f"unknown keys {unknown} in an action: it may have 'camera' and the buttons {BUTTONS}")
    result: dict[str, Any] = {}
    for button in BUTTONS:
        value = _array(action.get(button, 0))
        if value.size != 1 or value.item() not in (0, 1):
            raise InputError(f"'{button}' of an action is {one_line(repr(action[button]))}: a button is 0 or 1")
        result[button] = int(value.item())
    camera = _array(action.get("camera", (0.0, 0.0)))
    if camera.shape != (2,) or camera.dtype.kind not in "iuf" or not np.isfinite(camera).all():
        raise InputError(
            f"'camera' of an action is {one_line(repr(action['camera']))}: give pitch and yaw, two numbers of degrees"
        )
    result["camera"] = camera.astype(np.float64)
    return result


def _array(value: Any) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except ValueError:  # lists of different lengths
        return np.asarray(None)


def dict_action_space() -> spaces.Dict:
    """Every button as Discrete(2), `camera` as Box(-180, 180, (2,)) of float32; in the order of recorded vectors."""
    buttons = [(button, spaces.Discrete(2)) for button in BUTTONS]
    camera = spaces.Box(-180.0, 180.0, (2,), np.float32)
    return spaces.Dict(OrderedDict([*buttons, ("camera", camera)]))  # a plain dictionary would be sorted


def mu_law_bins(largest: float = 10.0, step: float = 2.0, mu: float = 10.0) -> NDArray[np.float64]:
    """The angles in degrees that VPT's mu-law quantiser has, ascending: fine near 0, coarse towards `largest`.

    (11,) with VPT's values, which are the defaults: 0, ±0.62, ±1.61, ±3.22, ±5.81, ±10.
    Source: Baker et al. 2022, https://arxiv.org/abs/2206.11795, and the authors' code.
    """
    even = np.arange(-largest, largest + step / 2, step) / largest
    angles: NDArray[np.float64] = np.sign(even) * ((1.0 + mu) ** np.abs(even) - 1.0) / mu * largest
    return angles


def _press(*buttons: str, pitch: float = 0.0, yaw: float = 0.0) -> Action:
    pressed: dict[str, Any] = dict.fromkeys(buttons, 1)
    if pitch or yaw:
        pressed["camera"] = (pitch, yaw)
    return pressed


_SMALL = {
    "noop": _press(),
    "forward": _press("forward"),
    "back": _press("back"),
    "left": _press(yaw=-TURN),
    "right": _press(yaw=TURN),
    "up": _press(pitch=-TURN),
    "down": _press(pitch=TURN),
    "attack": _press("attack"),
    "jump": _press("forward", "jump"),
    "chop": _press("forward", "attack"),
}


def _choose(name: str, *names: str, **others: Action) -> ActionSet:
    return ActionSet(name, (*names, *others), (*(_SMALL[chosen] for chosen in names), *others.values()))


def _craft() -> ActionSet:
    return _choose("craft", *_SMALL, **{item: {"craft": item} for item in CRAFTS})


def _teco() -> ActionSet:
    return _choose("teco", "forward", "left", "right", jump=_press("jump"))


def _vpt() -> ActionSet:
    combinations: list[tuple[str, ...]] = [()]
    for walk, jump, hit in itertools.product(("", "forward", "sprint"), ("", "jump"), ("", "attack")):
        pressed = ("forward", "sprint") if walk == "sprint" else (walk,)
        combinations.append(tuple(button for button in (*pressed, jump, hit) if button))
    singles = ("back", "left", "right", "sneak", "use", "inventory", "drop")
    combinations += [(button,) for button in (*singles, *(f"hotbar.{slot}" for slot in range(1, 10)))]
    buttons = {"+".join(pressed) or "noop": _press(*pressed) for pressed in combinations}
    angles = [float(angle) for angle in mu_law_bins()]
    turns = {
        f"camera {pitch:+.2f} {yaw:+.2f}": _press(pitch=pitch, yaw=yaw)
        for pitch, yaw in itertools.product(angles, angles)
        if pitch or yaw
    }
    return ActionSet("vpt", (*buttons, *turns), (*buttons.values(), *turns.values()))


_SETS: dict[str, Callable[[], ActionSet]] = {
    "teco": _teco,
    "turns": lambda: _choose("turns", "noop", "left", "right", "up", "down"),
    "walk": lambda: _choose("walk", "noop", "forward", "back", "left", "right"),
    "treechop": lambda: _choose("treechop", *_SMALL),
    "craft": _craft,
    "vpt": _vpt,
}

ACTION_SETS = tuple(_SETS)
"""The names that `action_set` knows."""
