"""The mouse cursor that a recorder of the game's own frames did not see."""

from __future__ import annotations

import numpy as np

from lssvwm.envs.recorded.frames import Frame

_ARROW = """
#
##
#o#
#oo#
#ooo#
#oooo#
#ooooo#
#oooooo#
#ooooooo#
#oooooooo#
#ooooo####
#oo#oo#
#o# #oo#
##  #oo#
     #oo#
     ###
""".strip("\n").splitlines()
_WIDTH = max(map(len, _ARROW))
_SHAPE = np.array([[0 if c == " " else 1 + (c == "o") for c in line.ljust(_WIDTH)] for line in _ARROW], np.uint8)
"""(16, 10): 0 nothing, 1 black outline, 2 white."""


def with_cursor(frame: Frame, x: int, y: int) -> Frame:
    """A copy of `frame` (h, w, 3) with an arrow of 16 pixels whose tip is at column `x`, row `y`, as far as it fits."""
    drawn = frame.copy()
    height, width = frame.shape[:2]
    if not (0 <= x < width and 0 <= y < height):
        return drawn
    shape = _SHAPE[: height - y, : width - x]
    area = drawn[y : y + shape.shape[0], x : x + shape.shape[1]]
    area[shape == 1] = 0
    area[shape == 2] = 255
    return drawn
