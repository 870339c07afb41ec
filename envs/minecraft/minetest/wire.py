"""What goes to the shim and comes back: inputs and the passing of time, then a frame."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lssvwm.envs.minecraft.actions import BUTTONS
from lssvwm.envs.minecraft.minetest.config import DEGREES_PER_PIXEL
from lssvwm.envs.policy import FrameArray
from lssvwm.worldmodel.common.errors import InputError

_KEY, _BUTTON = 0, 1
# X keysyms (X11/keysymdef.h) of minetest's default keys, and buttons of the mouse.
_INPUTS = {
    "forward": (_KEY, ord("w")),
    "back": (_KEY, ord("s")),
    "left": (_KEY, ord("a")),
    "right": (_KEY, ord("d")),
    "jump": (_KEY, ord(" ")),
    "sneak": (_KEY, 0xFFE1),  # left shift
    "sprint": (_KEY, ord("e")),  # minetest's "aux1", which its game leaves to mods
    "drop": (_KEY, ord("q")),
    "attack": (_BUTTON, 1),
    "use": (_BUTTON, 3),
    **{f"hotbar.{slot}": (_KEY, ord(str(slot))) for slot in range(1, 10)},
}
IGNORED = frozenset(BUTTONS) - frozenset(_INPUTS)
"""Buttons that do nothing here. The inventory is one of them: an open dialog would take all other inputs."""


class Inputs(NamedTuple):
    """What one step changes: movement of the mouse in pixels, and keys and buttons in the bytes of the shim."""

    right: int
    down: int
    changes: bytes


NOTHING = Inputs(0, 0, b"")
_CHANGE = struct.Struct("=3i")


class Controls:
    """Turns actions into the inputs that change something: what is pressed stays pressed until it is let go."""

    def __init__(self) -> None:
        self._pressed: set[str] = set()
        self._rest = np.zeros(2)  # degrees that were not whole pixels

    def take(self, action: Mapping[str, Any]) -> Inputs:
        """The inputs for `action`. What is rounded off its camera is made up for by the next one.

        Raises InputError for a key that is neither in `BUTTONS` nor "camera", and for a camera that is not two finite
        numbers of at most 360 degrees. Such an action changes nothing.
        """
        unknown = action.keys() - _INPUTS.keys() - IGNORED - {"camera"}
        if unknown:
            raise InputError(f"unknown keys in the action: {sorted(unknown)}; known are {', '.join(BUTTONS)}, camera")
        camera = np.asarray(action.get("camera", (0.0, 0.0)), np.float64)
        if camera.shape != (2,) or not (np.abs(camera) <= 360).all():
            raise InputError(f"camera is {camera.tolist()}: give (pitch, yaw), degrees of at most 360")
        degrees = camera + self._rest
        pixels = np.rint(degrees / DEGREES_PER_PIXEL)
        self._rest = degrees - pixels * DEGREES_PER_PIXEL
        wanted = {name for name in _INPUTS if action.get(name)}
        changes = [(name, 0) for name in sorted(self._pressed - wanted)]
        changes += [(name, 1) for name in sorted(wanted - self._pressed)]
        self._pressed = wanted
        packed = b"".join(_CHANGE.pack(*_INPUTS[name], down) for name, down in changes)
        return Inputs(right=int(pixels[1]), down=int(pixels[0]), changes=packed)


def send_request(link: socket.socket, dt: float, inputs: Inputs) -> None:
    """Let `dt` virtual seconds pass, with these inputs. Raises OSError when the other side is gone."""
    count = len(inputs.changes) // _CHANGE.size
    link.sendall(struct.pack("=4i", round(dt * 1e6), inputs.right, inputs.down, count) + inputs.changes)


def receive_frame(link: socket.socket, timeout: float) -> FrameArray:
    """The frame (h, w, 3) uint8, top row first.

    Raises TimeoutError when it has not come within `timeout` seconds, ConnectionError when the other side is gone.
    """
    end = time.monotonic() + timeout
    width, height = struct.unpack("=2i", _receive(link, struct.calcsize("=2i"), end))
    pixels = np.frombuffer(_receive(link, width * height * 3, end), np.uint8)
    return np.ascontiguousarray(pixels.reshape(height, width, 3)[::-1])


def _receive(link: socket.socket, size: int, end: float) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError("the frame did not come in time")
        link.settimeout(left)
        count = link.recv_into(view)
        if not count:
            raise ConnectionError("the engine closed its end")
        view = view[count:]
    return data
