"""MineRL-shaped play as the actions of episodes: vectors of buttons and camera, or the nearest of an action set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lssvwm.envs.minecraft.actions import BUTTONS, ActionSet, action_set, full_action
from lssvwm.envs.recorded.interface import NONE, RECORDED
from lssvwm.envs.recorded.segments import Actions
from lssvwm.worldmodel.common.errors import InputError

TURN_UNIT = 5.0
"""Degrees that count as much as one button when the nearest action is looked for."""

VECTOR = (*BUTTONS, "pitch", "yaw")
"""What the numbers of an action vector are: buttons 0 or 1, then the turn of the step in degrees."""


FPS = 20.0
"""Frames per second of the game, and steps of MineRL's and VPT's recordings."""


@dataclass(frozen=True)
class Played:
    """What was pressed and moved in each of T steps, in the order in which it was done."""

    buttons: NDArray[np.float32]  # (T, len(BUTTONS)) 0 or 1
    camera: NDArray[np.float32]  # (T, 2) pitch and yaw in degrees; down and right are positive

    def merged(self, every: int) -> Played:
        """As if each `every` steps had been one: its buttons are those pressed in any of them, its turn is all theirs.

        The number of steps stays; all steps of such a one are the same.
        """
        if every == 1:
            return self
        begins = np.arange(0, len(self.buttons), every)
        counts = np.diff(np.append(begins, len(self.buttons)))
        pressed, turned = np.maximum.reduceat(self.buttons, begins), np.add.reduceat(self.camera, begins)
        return Played(pressed.repeat(counts, 0), turned.repeat(counts, 0))

    def actions(self, kind: str) -> Actions:
        """The actions of `ReadOptions.actions`: (T,) int64 for an action set, (T, len(VECTOR)) float32 otherwise."""
        if not np.isfinite(self.camera).all():
            raise InputError("the camera moves by something that is not a finite number")
        if kind in (RECORDED, NONE):
            return np.concatenate((self.buttons, self.camera), axis=1).astype(np.float32)
        return nearest(self, action_set(kind))


def nearest(played: Played, choices: ActionSet) -> NDArray[np.int64]:
    """For each of T steps the number of the nearest action, (T,): the first of them, where several are as near.

    The distance is the number of buttons that differ plus the squared difference of the turns in units of 5 degrees.
    So small turns are lost on sets without small turns, and a turn of more than about 5 degrees outweighs a button
    where a set has no action for both.
    """
    actions = [full_action(action) for action in choices.actions]
    buttons = np.array([[action[button] for button in BUTTONS] for action in actions], np.float64)
    turns = np.array([action["camera"] for action in actions], np.float64) / TURN_UNIT
    chosen = np.concatenate((buttons, turns), axis=1)
    done = np.concatenate((played.buttons, played.camera / TURN_UNIT), axis=1).astype(np.float64)
    # |done - chosen|^2 without |done|^2, which is the same for all choices; rounded, so that ties stay ties.
    distance = np.round((chosen**2).sum(axis=1) - 2 * done @ chosen.T, 9)
    return np.asarray(distance.argmin(axis=1), np.int64)
