"""The MineRL data sets of human play, as `minerl.data` 0.4 downloads them.

Layout, from `minerl/data/data_pipeline.py` and `minerl/data/pipeline/publish.py` of https://github.com/minerllabs/minerl
(0.4.4, MIT): `ENVIRONMENT/STREAM/{recording.mp4, rendered.npz, metadata.json}`. The arrays are `reward` (T,),
`action$NAME` (T, ...) and `observation$NAME` (T + 1, ...); a `$` in NAME separates levels.

Time-line: entry k of an action led from state k to state k + 1 and brought reward k (the publisher shifts them so), so
it belongs to frame k + 1 here. The video may begin before the first state: video and states end together, and
`true_video_frame_count` in the metadata says how many frames are ahead of them. The reference loader shows the last
frame but one in place of the last; here the last is shown as it was recorded. A stream with `success` in its metadata
ended of itself, all others are cut off: their players stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lssvwm.envs.minecraft.actions import BUTTONS
from lssvwm.envs.recorded.arrays import Arrays, per_step, read_npz
from lssvwm.envs.recorded.formats.minerl_actions import FPS, Played
from lssvwm.envs.recorded.frames import decoded
from lssvwm.envs.recorded.interface import NONE, RECORDED, ReadOptions, Source, sources_of
from lssvwm.envs.recorded.segments import Actions, Track, came_with, cut, ended, led_here
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import Episode

VIDEO, ARRAYS, METADATA = "recording.mp4", "rendered.npz", "metadata.json"
_ACTION, _OBSERVATION, _CAMERA, _OBFUSCATED = "action$", "observation$", "action$camera", "action$vector"


class MineRL:
    """Streams of people who play Treechop, Navigate, ObtainDiamond and the others."""

    name = "minerl"
    files = f"folders with {VIDEO}, {ARRAYS} and {METADATA}"
    minecraft = True

    def find(self, folder: Path) -> list[Source]:
        """Every folder with a recording or its arrays."""
        return sources_of(folder, (path.parent for name in (VIDEO, ARRAYS) for path in folder.rglob(name)))

    def read(self, source: Source, options: ReadOptions) -> Iterator[Episode]:
        """The stream. Observations besides the frames, and actions that are no buttons, become extras."""
        arrays = read_npz(source.path / ARRAYS, ("reward",))
        steps, name = len(arrays["reward"]), str(source.path / ARRAYS)
        count, success = _metadata(source.path / METADATA)
        ahead = count - (steps + 1)
        if ahead < 0:
            raise InputError(f"{source.path / METADATA} counts {count} frames, but {ARRAYS} has {steps} steps and so "
                             f"{steps + 1} states: the files do not belong together")  # fmt: skip
        for key, array in arrays.items():
            if key.startswith(_ACTION):
                per_step(array, steps, key, name)
            elif key.startswith(_OBSERVATION):
                per_step(array, steps + 1, key, name)
        track = Track(
            led_here(_taken(arrays, options, name)),
            came_with(arrays["reward"]),
            ended(steps + 1, success),
            _extras(arrays),
        )
        frames = islice(decoded(source.path / VIDEO), ahead, None)
        yield from cut(frames, track, source.name, options, FPS)


def _taken(arrays: Arrays, options: ReadOptions, source: str) -> Actions:
    kind = options.actions
    if _OBFUSCATED in arrays:
        if kind not in (RECORDED, NONE):
            raise InputError(f"{source} has obfuscated actions, which no action set has: leave out --actions {kind}")
        return arrays[_OBFUSCATED].astype(np.float32)
    if _CAMERA not in arrays or arrays[_CAMERA].shape[1:] != (2,):
        raise InputError(f"{source} has no {_CAMERA} (T, 2): these are no actions of MineRL 0.4")
    steps = len(arrays[_CAMERA])
    pressed = [arrays.get(_ACTION + button, np.zeros(steps)) for button in BUTTONS]
    for button, column in zip(BUTTONS, pressed, strict=True):
        if column.ndim != 1 or column.dtype.kind not in "biuf" or not np.isin(column, (0, 1)).all():
            raise InputError(f"{source}: {_ACTION}{button} must be 0 or 1 at every step, got {column.dtype}")
    played = Played(np.stack(pressed, axis=1).astype(np.float32), arrays[_CAMERA].astype(np.float32))
    return played.merged(options.every).actions(kind)


def _extras(arrays: Arrays) -> dict[str, NDArray[Any]]:
    """Observations under their names, `compass.angle`; choices such as `action.craft` with nothing at frame 0."""
    extras = {}
    for key, array in arrays.items():
        if key.startswith(_OBSERVATION):
            extras[key.removeprefix(_OBSERVATION).replace("$", ".")] = array
        elif key.startswith(_ACTION) and key.removeprefix(_ACTION) not in (*BUTTONS, "camera", "vector"):
            extras[key.replace("$", ".")] = np.concatenate((np.zeros_like(array[:1]), array))
    return extras


def _metadata(path: Path) -> tuple[int, bool]:
    """Frames of the video, and whether the task was done."""
    try:
        metadata = json.loads(path.read_text())
        return int(metadata["true_video_frame_count"]), bool(metadata["success"])
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: it says where in the video the stream begins") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no JSON ({error}): copy it again from where it came") from error
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} has no {error}: want true_video_frame_count and success") from error
