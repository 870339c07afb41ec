"""What the page may say, and how often, checked; and how pictures travel to it.

The page sends one JSON object per message: `{"do": ORDER, "value": VALUE}`, and `"id"`, a number that comes back with
the picture that the order led to. The server sends JSON as text; a picture is binary, one byte for its side and a PNG.
"""

from __future__ import annotations

import io
import json
import time
from dataclasses import dataclass
from typing import Any

from PIL import Image

from lssvwm.envs.policy import FrameArray
from lssvwm.worldmodel.common.errors import InputError

MAX_BYTES = 1 << 12
"""Of a message of the page; a longer one ends the connection."""
SPEEDS = (0.5, 60.0)
REAL, DREAM = b"\0", b"\1"

_VALUES = {
    "hold": "the action whose keys are held, or null",
    "step": "an action, or null for the one that is held",
    "idle": "the action that is taken while no key is held, or null",
    "begin": "the number of a context, 0 or more",
    "steps": "a number of denoising steps",
    "speed": f"frames per second from {SPEEDS[0]} to {SPEEDS[1]:.0f}",
    "uncertainty": "none, heads or draws",
    "pause": "true or false",
    "policy": "true or false",
    "save": "episode or video",
    "keep": "null",
    "back": "null",
    "take": "null",
}
_WORDS = {"uncertainty": ("none", "heads", "draws"), "save": ("episode", "video")}


@dataclass(frozen=True)
class Order:
    """What the page wants."""

    do: str
    value: Any
    id: int | None = None


def parse(text: str, actions: int) -> Order:
    """The order in `text` for a world of so many actions. Raises InputError for everything else."""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"that is no JSON ({error!s:.60}): send {{'do': ..., 'value': ...}}") from error
    do = told.get("do") if isinstance(told, dict) else None
    if not isinstance(do, str) or do not in _VALUES:
        raise InputError(f"that is no order: 'do' is one of {', '.join(_VALUES)}")
    value, number = told.get("value"), told.get("id")
    if not _fits(do, value, actions):
        known = f" of 0 to {actions - 1}" if do in ("hold", "step", "idle") else ""
        raise InputError(f"'{do}' cannot be {json.dumps(value):.40}: its value is {_VALUES[do]}{known}")
    return Order(do, value, number if type(number) is int and abs(number) < 2**53 else None)


def _fits(do: str, value: Any, actions: int) -> bool:
    whole = type(value) is int
    match do:
        case "hold" | "step" | "idle":
            return value is None or (whole and 0 <= value < actions)
        case "begin":
            return whole and 0 <= value < 2**31
        case "steps":
            return whole and 1 <= value <= 64
        case "speed":
            return type(value) in (int, float) and SPEEDS[0] <= value <= SPEEDS[1]
        case "pause" | "policy":
            return type(value) is bool
        case "uncertainty" | "save":
            return isinstance(value, str) and value in _WORDS[do]
        case _:
            return value is None


class RateLimit:
    """`rate` events a second on average, `burst` at once."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate, self._burst = rate, float(burst)
        self._left, self._at = self._burst, time.monotonic()

    def allows(self) -> bool:
        """Whether one more event is within it; it counts."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        self._left -= 1
        return self._left >= 0


def picture(side: bytes, frame: FrameArray) -> bytes:
    """A frame (h, w, 3) as it travels; PNG, since few pixels compress fast and should not blur."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="PNG", compress_level=1)
    return side + buffer.getvalue()
