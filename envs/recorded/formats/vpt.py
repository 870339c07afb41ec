"""VPT contractor recordings, the BASALT 2022 ones included: `NAME.mp4` with `NAME.jsonl`, one line per frame.

Layout, from the README and `data_loader.py`, `run_inverse_dynamics_model.py` of
https://github.com/openai/Video-Pre-Training (MIT): frames of 640 x 360 at 20 Hz; each line has `mouse` {x, y, dx, dy,
buttons, newButtons}, `keyboard` {keys}, `isGuiOpen`, `hotbar`, and, but for BASALT, xpos, ypos, zpos, yaw, pitch.

Time-line: line t was done while frame t was shown, so it led to frame t + 1. The last line led to a frame that nobody
recorded.

What the reference loader does, and what differs here:
- The camera turns by 360 / 2400 degrees per unit of dx and dy. There it is stored as whole degrees, here as floats.
- Where the game began with attack held down, attack is left out until it is pressed anew.
- A slot that changes without its key (the scroll wheel) presses `hotbar.N`. There the slot before the first line is 0,
  here it is the first line's own.
- While a menu is open, dx and dy of recorders 5.7 to 6.9 have another scale; the version is the name of the folder.
- While a menu is open, a cursor is drawn where the mouse is. Its picture is an own one.
- Frames in which nothing is done stay, unless `drop_null`; a turn of the scroll wheel counts as something here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lssvwm.envs.minecraft.actions import BUTTONS
from lssvwm.envs.recorded.cursor import with_cursor
from lssvwm.envs.recorded.formats.minerl_actions import FPS, Played
from lssvwm.envs.recorded.frames import Frame, decoded
from lssvwm.envs.recorded.interface import ReadOptions, Source, sources_of
from lssvwm.envs.recorded.segments import Track, cut, led_here
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import Episode

DEGREES = 360.0 / 2400.0
"""Degrees of camera per unit of mouse movement."""
GAME_HEIGHT = 720
"""Height of the game's window, which `mouse.x` and `mouse.y` refer to."""
GUI_SCALE = {"5.7": 0.5, "5.8": 0.5, "6.7": 2.0, "6.8": 2.0, "6.9": 2.0}

_LETTERS = {"w": "forward", "s": "back", "a": "left", "d": "right", "q": "drop", "e": "inventory", "f": "swapHands"}
_NAMED = {"space": "jump", "left.shift": "sneak", "left.control": "sprint", "escape": "ESC"}
KEYS = {
    f"key.keyboard.{key}": button
    for key, button in {**_LETTERS, **_NAMED, **{str(slot): f"hotbar.{slot}" for slot in range(1, 10)}}.items()
}
MOUSE = {0: "attack", 1: "use", 2: "pickItem"}
_POSE = ("xpos", "ypos", "zpos", "yaw", "pitch")
_COLUMN = {button: column for column, button in enumerate(BUTTONS)}


@dataclass(frozen=True)
class Lines:
    """The L lines of a recording."""

    played: Played  # (L, ...)
    null: NDArray[np.bool_]  # (L,) nothing was done
    gui: NDArray[np.bool_]  # (L,) a menu was open
    mouse: NDArray[np.float32]  # (L, 2) x and y in the game's window
    pose: NDArray[np.float64] | None  # (L, 5) x, y, z; yaw and pitch in degrees


class VPT:
    """Contractors who play Minecraft."""

    name = "vpt"
    files = "*.mp4, each with a .jsonl of keys and mouse"
    minecraft = True

    def find(self, folder: Path) -> list[Source]:
        """Every .mp4 and every .jsonl file: one that lacks the other is a broken recording."""
        paths = (path.with_suffix(".mp4") for suffix in ("mp4", "jsonl") for path in folder.rglob(f"*.{suffix}"))
        return sources_of(folder, paths)

    def read(self, source: Source, options: ReadOptions) -> Iterator[Episode]:
        """The segment. Extras: `gui` (T + 1,) bool and, where recorded, `agent_pos` (T + 1, 3) in blocks and
        `agent_dir` (T + 1, 3), the unit vector of the view in the same axes."""
        lines = read_lines(source.path.with_suffix(".jsonl"), GUI_SCALE.get(source.path.parent.name, 1.0))
        kept = ~lines.null if options.drop_null else np.ones(len(lines.null), np.bool_)
        played = Played(lines.played.buttons[kept], lines.played.camera[kept]).merged(options.every)
        actions = played.actions(options.actions)
        if len(actions) < 2:
            raise InputError(f"{source.path.with_suffix('.jsonl')}: something is done in less than 2 of its lines")
        extras: dict[str, NDArray[Any]] = {"gui": lines.gui[kept]}
        if lines.pose is not None:
            extras |= {"agent_pos": lines.pose[kept, :3], "agent_dir": view(lines.pose[kept, 3], lines.pose[kept, 4])}
        frames = len(actions)
        track = Track(led_here(actions[:-1]), np.zeros(frames, np.float32), np.zeros(frames, np.bool_), extras)
        shown = compress(_shown(source, lines, cursor=options.cursor), kept)
        yield from cut(shown, track, source.name, options, FPS)


def view(yaw: NDArray[np.float64], pitch: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit vectors (..., 3) of Minecraft's angles in degrees: yaw 0 looks along z, 90 against x; pitch 90 down."""
    yaw, pitch = np.radians(yaw), np.radians(pitch)
    return np.stack((-np.sin(yaw) * np.cos(pitch), -np.sin(pitch), np.cos(yaw) * np.cos(pitch)), axis=-1)


def read_lines(path: Path, gui_scale: float) -> Lines:
    """Parse a `.jsonl`. Raises InputError naming the line and the field for one that is missing or no JSON."""
    try:
        texts = path.read_text().splitlines()
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: a video alone says nothing of actions (read it as 'videos')") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text ({error}): copy it again from where it came") from error
    count = len(texts)
    buttons, camera = np.zeros((count, len(BUTTONS)), np.float32), np.zeros((count, 2), np.float32)
    gui, mouse = np.zeros(count, np.bool_), np.zeros((count, 2), np.float32)
    pose: NDArray[np.float64] | None = None
    stuck, slot = False, None
    for i, text in enumerate(texts):
        try:
            line = json.loads(text)
            device = line["mouse"]
            fresh, pressed = device["newButtons"], device["buttons"]
            stuck = fresh == [0] if i == 0 else stuck and 0 not in fresh
            names = {KEYS[key] for key in line["keyboard"]["keys"] if key in KEYS}
            names |= {MOUSE[number] for number in pressed if number in MOUSE and not (stuck and number == 0)}
            if slot is not None and line["hotbar"] != slot:
                names.add(f"hotbar.{line['hotbar'] + 1}")
            slot, gui[i] = line["hotbar"], line["isGuiOpen"]
            buttons[i, [_COLUMN[name] for name in names]] = 1
            scale = DEGREES * (gui_scale if gui[i] else 1.0)
            camera[i] = device["dy"] * scale, device["dx"] * scale
            mouse[i] = device["x"], device["y"]
            if i == 0 and all(key in line for key in _POSE):
                pose = np.zeros((count, len(_POSE)))
            if pose is not None:
                pose[i] = [line[key] for key in _POSE]
        except json.JSONDecodeError as error:
            raise InputError(f"{path} line {i + 1} is no JSON ({error}): copy the file again") from error
        except KeyError as error:
            raise InputError(f"{path} line {i + 1} has no {error}") from error
        except (TypeError, ValueError) as error:  # the recorder wrote null for mouse or keyboard when it lost them
            raise InputError(f"{path} line {i + 1} has a field of another kind ({error})") from error
    played = Played(buttons, camera)
    null = np.asarray((np.concatenate((buttons, camera), axis=1) == 0).all(axis=1))
    return Lines(played, null, gui, mouse, pose)


def _shown(source: Source, lines: Lines, *, cursor: bool) -> Iterator[Frame]:
    count = 0
    for count, frame in enumerate(decoded(source.path), 1):
        if count > len(lines.gui):
            raise InputError(f"{source.path} has more frames than the {len(lines.gui)} lines of its .jsonl")
        scale = len(frame) / GAME_HEIGHT
        x, y = lines.mouse[count - 1] * scale
        yield with_cursor(frame, int(x), int(y)) if cursor and lines.gui[count - 1] else frame
    if count < len(lines.gui):
        raise InputError(f"{source.path} has {count} frames, but its .jsonl {len(lines.gui)} lines")
