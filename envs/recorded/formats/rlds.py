"""RLDS data sets as TensorFlow Datasets writes them: a TFRecord per episode, all of its steps in one Example.

Layout, from the documentation of RLDS (https://github.com/google-research/rlds) and of TensorFlow Datasets:

    features.json                          what `steps` have: a tree of dictionaries, images, tensors and text
    NAME-SPLIT.tfrecord-00000-of-00001     one record per episode: its feature `steps/KEY/KEY` holds that of all steps,
                                           flat: numbers as float32 or int64, images as the bytes of a PNG or JPEG
    dataset_info.json                      how many records each file has; not needed

Time-line: step t holds what was seen at t, the action that was then taken, and the reward that came of it. So both
belong to frame t + 1 here. What the last step says of them has no meaning in RLDS. `is_terminal` of the last step: the
episode ended of itself. An action that is one whole number becomes a numbered one, others vectors, a dictionary's parts
by name; other numbers of steps become extras with dots in their names, the words of a text `task`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lssvwm.envs.recorded.arrays import taken
from lssvwm.envs.recorded.formats.tfrecord import Features, read_record, records
from lssvwm.envs.recorded.frames import Frame, picture
from lssvwm.envs.recorded.interface import ReadOptions, Source
from lssvwm.envs.recorded.segments import Track, came_with, cut, led_here
from lssvwm.worldmodel.common.errors import InputError, one_line
from lssvwm.worldmodel.episodes import Episode
from lssvwm.worldmodel.episodes.data import KEYS

FEATURES, INFO = "features.json", "dataset_info.json"
CHANNELS = (1, 3, 4)
_FILE = re.compile(r".+-(?P<split>[^-]+)\.tfrecord-(?P<shard>\d{5,})-of-\d{5,}")
_AGAIN = "copy or download the data set again"
_INTEGERS = (f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
_NUMBERS = ("bool", "float16", "float32", "float64", *_INTEGERS)
_ENDS = ("is_first", "is_last", "is_terminal")


@dataclass(frozen=True)
class Told:
    """What a feature of a step is; text has no shape."""

    kind: str
    """image, tensor, text, or another word for what is not read."""
    dtype: str
    shape: tuple[int, ...]
    """-1 where it differs."""


class RLDS:
    """Play of robots and simulators."""

    name = "rlds"
    files = f"{FEATURES} with *.tfrecord-* beside it"
    minecraft = False

    def find(self, folder: Path) -> list[Source]:
        """Every record of every file, also those that `dataset_info.json` tells of and that are not there."""
        found = []
        for path in sorted(path for path in folder.rglob("*.tfrecord-*") if (path.parent / FEATURES).is_file()):
            name = path.relative_to(folder).as_posix()
            count = max(records(path), _expected(path))
            found += [Source(f"{name}/{index:06d}", path, index) for index in range(count)]
        return found

    def read(self, source: Source, options: ReadOptions) -> Iterator[Episode]:
        """The episode, which lies in memory as a whole, its frames as they are stored."""
        where = f"{source.path} record {source.index}"
        told = steps_of(source.path.parent / FEATURES)
        example = read_record(source.path, source.index)
        actions = sorted(key for key in told if key == "action" or key.startswith("action/"))
        if not actions:
            raise InputError(f"{where} has no action, only {', '.join(sorted(told))}: its frames alone are no play")
        steps = _steps(told, example, where)
        arrays = {
            key: _numbers(feature, key, example, steps, where)
            for key, feature in told.items()
            if feature.kind == "tensor" and min(feature.shape, default=1) > 0
        }
        if missing := sorted(set(actions) - arrays.keys()):
            raise InputError(f"{where}: '{missing[0]}' is not of numbers in a fixed shape, and cannot be an action")
        flags = {key: arrays.pop(key, None) for key in _ENDS}
        _check_ends(flags, steps, where)
        parts = [arrays.pop(key) for key in actions]
        chosen = parts[0] if len(parts) == 1 else np.concatenate([part.reshape(steps, -1) for part in parts], 1)
        reward = arrays.pop("reward", np.zeros(steps)).reshape(steps, -1)
        frames = _frames(told, example, arrays, options.image_key, steps, where)
        terminal = flags["is_terminal"]
        extras = {
            name: array for key, array in arrays.items() if (name := key.replace("/", ".")) not in KEYS and array.size
        }
        track = Track(
            led_here(taken(chosen, where)[:-1]),
            came_with(reward[:-1, 0]),
            (np.arange(steps) == steps - 1) & bool(terminal is not None and terminal[-1]),
            {**extras, **_task(told, example, where)},
        )
        yield from cut(frames, track, source.name, options)


def _expected(path: Path) -> int:
    """How many records `dataset_info.json` tells of; 0 where it does not."""
    named = _FILE.fullmatch(path.name)
    try:
        splits = json.loads((path.parent / INFO).read_text())["splits"]
        lengths = {one["name"]: one["shardLengths"] for one in splits}
        return min(int(lengths[named["split"]][int(named["shard"])]), 10**6) if named else 0
    except (OSError, ValueError, KeyError, IndexError, TypeError, RecursionError, OverflowError):
        return 0


def steps_of(path: Path) -> dict[str, Told]:
    """What `features.json` says of steps, by key, parts of dictionaries after a slash. Raises InputError."""
    try:
        return dict(_steps_of(path, path.stat().st_mtime_ns))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        said = one_line(repr(error))
        raise InputError(f"{path} does not describe steps of RLDS ({said}): {_AGAIN}") from error


@lru_cache(maxsize=4)
def _steps_of(path: Path, changed: int) -> Mapping[str, Told]:
    whole = json.loads(path.read_text())
    return _leaves(whole["featuresDict"]["features"]["steps"]["sequence"]["feature"], "")


def _leaves(feature: Mapping[str, Any], key: str) -> dict[str, Told]:
    if "featuresDict" in feature:
        parts = feature["featuresDict"]["features"]
        found: dict[str, Told] = {}
        for name, part in parts.items():
            found |= _leaves(part, f"{key}/{name}".lstrip("/"))
        return found
    kind = next((kind for kind in ("image", "tensor", "text", "classLabel") if kind in feature), "other")
    told = feature.get(kind, {})
    shape = tuple(int(side) for side in told.get("shape", {}).get("dimensions", ()))
    encoded = told.get("encoding", "none").lower() != "none"
    dtype = "int64" if kind == "classLabel" else str(told.get("dtype", "uint8" if kind == "image" else "string"))
    if kind in ("tensor", "classLabel"):
        kind = "text" if dtype == "string" else "other" if encoded or dtype not in _NUMBERS else "tensor"
    return {key: Told(kind, dtype, shape)}


def _steps(told: Mapping[str, Told], example: Features, where: str) -> int:
    """How many there are: as many as a flag, or else another number, or else a picture of each step has."""
    for key in sorted(told, key=lambda key: (key not in _ENDS, told[key].kind == "image")):
        values = example.get(f"steps/{key}")
        if values is not None and (not told[key].shape or told[key].kind == "image"):
            return len(values)
    raise InputError(f"{where} has none of the features of steps that {FEATURES} tells of: {_AGAIN}")


def _numbers(told: Told, key: str, example: Features, steps: int, where: str) -> NDArray[Any]:
    """A feature of all steps, an entry per step."""
    values, shape = example.get(f"steps/{key}"), (steps, *told.shape)
    if not isinstance(values, np.ndarray) or values.size != math.prod(shape):
        found = "missing" if values is None else f"{len(values)} values"
        raise InputError(f"{where}: '{key}' is {found}, and should be numbers of shape {shape}: {_AGAIN}")
    dtype = np.dtype(told.dtype)
    if (dtype.kind == "f") != (values.dtype.kind == "f"):
        raise InputError(f"{where}: '{key}' is stored as {values.dtype} and should be {dtype}: {_AGAIN}")
    with np.errstate(over="ignore"):
        cast = values.astype(dtype)
    if dtype.kind != "f" and not np.array_equal(cast.astype(np.int64), values):
        raise InputError(f"{where}: '{key}' has values that are no {dtype}: {_AGAIN}")
    return cast.reshape(shape)


def _check_ends(flags: Mapping[str, NDArray[Any] | None], steps: int, where: str) -> None:
    """The first step is the only first one, and so on."""
    for key, only in {"is_first": 0, "is_last": steps - 1, "is_terminal": steps - 1}.items():
        flag = flags[key]
        at = [] if flag is None else np.flatnonzero(flag).tolist()
        if at not in ([], [only]):
            raise InputError(f"{where}: '{key}' is true at steps {at[:4]} of {steps}: a record is one whole episode")


def _frames(
    told: Mapping[str, Told],
    example: Features,
    arrays: dict[str, NDArray[Any]],
    image_key: str | None,
    steps: int,
    where: str,
) -> Iterator[Frame]:
    """The frames; those of all cameras that are stored as numbers are taken out of `arrays`."""
    cameras = [
        key
        for key, feature in told.items()
        if feature.dtype == "uint8" and feature.kind in ("image", "tensor") and len(feature.shape) == 3
    ]
    if image_key is None and len(cameras) == 1:
        image_key = cameras[0]
    if image_key not in cameras:
        raise InputError(f"{where} has frames under {cameras or 'no key'}: choose with --image-key")
    shape = told[image_key].shape
    pixels = {key: arrays.pop(key, None) for key in cameras}
    stored = pixels[image_key]
    if stored is not None:
        if shape[2] not in CHANNELS:
            raise InputError(f"{where}: '{image_key}' has {shape[2]} channels: want 1, 3 or 4")
        return iter(np.broadcast_to(stored[..., :3], (steps, *shape[:2], 3)))
    encoded = example.get(f"steps/{image_key}")
    if not isinstance(encoded, list) or len(encoded) != steps:
        raise InputError(f"{where}: '{image_key}' is not one picture for each of {steps} steps: {_AGAIN}")
    return _decoded(encoded, shape[:2], f"{where}: '{image_key}'")


def _decoded(encoded: list[bytes], size: tuple[int, ...], where: str) -> Iterator[Frame]:
    for number, data in enumerate(encoded):
        frame = picture(data, f"{where} of step {number}")
        if any(wanted not in (-1, found) for wanted, found in zip(size, frame.shape[:2], strict=True)):
            raise InputError(f"{where} of step {number} is {frame.shape[:2]}, {FEATURES} tells of {size}: {_AGAIN}")
        yield frame


def _task(told: Mapping[str, Told], example: Features, where: str) -> dict[str, NDArray[Any]]:
    """The words of the episode, where its steps have one text, and the same throughout."""
    texts = [key for key, feature in told.items() if feature.kind == "text"]
    said = {key: example.get(f"steps/{key}") for key in texts}
    alike = [words[0] for words in said.values() if isinstance(words, list) and words and len(set(words)) == 1]
    if len(texts) != 1 or not alike:
        return {}
    try:
        return {"task": np.array(alike[0].decode())}
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: '{texts[0]}' is no UTF-8: {_AGAIN}") from error
