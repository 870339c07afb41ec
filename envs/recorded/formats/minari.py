"""Minari datasets of episodes with frames (https://minari.farama.org), stored as HDF5, Arrow or Parquet.

Layout: `NAME/data/metadata.json` beside the storage's own files; read through the package `minari`, 0.5. An episode has
T + 1 observations and T actions, rewards and flags.

Time-line: entry k of actions, rewards and flags belongs to frame k + 1 here. Frames are a space Box of uint8 (h, w),
(h, w, c) or (c, h, w), alone or in a Dict: grey, RGB, or RGBA of which the opacity is left out. Actions: Discrete
becomes numbers from 0, Box, MultiDiscrete and MultiBinary become vectors of numbers. Other observations and infos of
numbers with an entry per frame become extras; infos within infos only from HDF5, since `minari` 0.5.4 does not take
those of the other storages apart.

Infos with an entry per step, as they also occur, belong to frame k + 1 too, and are 0 at frame 0; a line in the log
says so.

Minari stores frames as JPEG unless told otherwise: those frames come back with its errors.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from lssvwm.envs.recorded.arrays import Arrays, per_step
from lssvwm.envs.recorded.interface import ReadOptions, Source
from lssvwm.envs.recorded.segments import Actions, Track, came_with, cut, led_here
from lssvwm.worldmodel.common.errors import InputError, require
from lssvwm.worldmodel.episodes import Episode
from lssvwm.worldmodel.episodes.data import KEYS

METADATA = "metadata.json"
CHANNELS = (1, 3, 4)
MOST = 10_000_000
"""Episodes that a dataset is believed to have: each is listed before any is read."""
PACKAGES = {"hdf5": "h5py", "arrow": "pyarrow", "parquet": "pyarrow"}
"""What Minari's storages are written with: extras of its own."""

_log = logging.getLogger(__name__)


class Minari:
    """Episodes of a Gymnasium environment."""

    name = "minari"
    files = f"NAME/data/{METADATA} and what Minari stores beside it"
    minecraft = False

    def find(self, folder: Path) -> list[Source]:
        """Every episode of every dataset."""
        found = []
        for path in sorted((folder / METADATA, *folder.rglob(f"data/{METADATA}"))):
            if not path.is_file():  # `folder` is the data folder itself, or it is not
                continue
            name = path.parent.relative_to(folder).as_posix().removesuffix("data").strip("/.")
            episodes = _metadata(path.parent).get("total_episodes")
            if type(episodes) is not int or not 0 <= episodes <= MOST:
                raise InputError(f"{path} does not say how many episodes there are: it is no Minari dataset")
            found += [Source(f"{name}/{i:06d}".lstrip("/"), path.parent, i) for i in range(episodes)]
        return found

    def read(self, source: Source, options: ReadOptions) -> Iterator[Episode]:
        """The episode, which Minari reads as a whole."""
        storage = _storage(source.path)
        where = f"{source.path} episode {source.index}"
        try:
            (stored,) = storage.get_episodes([source.index])
        except (OSError, KeyError, IndexError, ValueError) as error:  # what h5py, pyarrow and Pillow raise for damage
            raise InputError(f"{where} cannot be read ({error}): copy or download the dataset again") from error
        rewards = np.asarray(stored["rewards"])
        steps = len(rewards)
        flags = {key: per_step(np.asarray(stored[key]), steps, key, where) for key in ("terminations", "truncations")}
        frames, others = _frames(storage.observation_space, stored["observations"], options.image_key, where)
        per_step(frames, steps + 1, "observations", where)
        ends = np.concatenate(([False], flags["terminations"] | flags["truncations"]))
        if ends[:-1].any():
            raise InputError(f"{where} goes on after its end at step {int(ends.argmax())}: split it into episodes")
        infos = {key: _with_first(key, value, steps, source) for key, value in _flat(stored["infos"] or {}).items()}
        extras = {
            key: value
            for key, value in {**others, **infos}.items()
            if value.shape[:1] == (steps + 1,) and value.dtype.kind in "biuf" and key not in KEYS and "/" not in key
        }
        track = Track(
            led_here(_taken(storage.action_space, stored["actions"], steps, where)),
            came_with(rewards),
            np.concatenate(([False], flags["terminations"])).astype(np.bool_),
            extras,
        )
        yield from cut(frames, track, source.name, options)


@lru_cache(maxsize=4)  # sources of one dataset follow each other
def _storage(path: Path) -> Any:
    require("minari", "minari", "Minari datasets")
    metadata = _metadata(path)
    if missing := [key for key in ("observation_space", "action_space", "data_format") if key not in metadata]:
        raise InputError(f"{path / METADATA} has no {missing[0]}: it was written by a version before 0.5, convert it")
    if metadata["data_format"] not in PACKAGES:
        raise InputError(f"{path} is stored as '{metadata['data_format']}': known are {', '.join(PACKAGES)}")
    package = PACKAGES[metadata["data_format"]]
    require(package, "minari", f"Minari datasets stored as {metadata['data_format']}")
    storages = require("minari.dataset.minari_storage", "minari", "Minari datasets")
    try:
        return storages.MinariStorage.read(path)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise InputError(f"{path} cannot be opened ({error}): copy or download the dataset again") from error


def _metadata(path: Path) -> dict[str, Any]:
    try:
        metadata: dict[str, Any] = json.loads((path / METADATA).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path / METADATA} is no JSON ({error}): copy or download the dataset again") from error
    if not isinstance(metadata, dict):
        raise InputError(f"{path / METADATA} is no JSON object: copy or download the dataset again")
    return metadata


def _frames(
    space: spaces.Space[Any], observations: Any, image_key: str | None, where: str
) -> tuple[NDArray[np.uint8], Arrays]:
    """The frames, and all other observations."""
    if not isinstance(space, spaces.Dict):
        if image_key is not None:
            raise InputError(f"{where} has one observation only: leave out --image-key {image_key}")
        return _rgb(observations, where), {}
    arrays = _flat(observations)
    images = [key for key, part in _leaves(space).items() if _is_image(part)]
    if image_key is None and len(images) == 1:
        image_key = images[0]
    if image_key not in images:
        raise InputError(f"{where} has frames under {images or 'no key'}: choose with --image-key")
    return _rgb(arrays.pop(image_key), where), arrays


def _rgb(observations: Any, where: str) -> NDArray[np.uint8]:
    frames = np.asarray(observations)
    if frames.ndim == 3:
        frames = frames[..., None]
    if frames.ndim == 4 and frames.shape[3] not in CHANNELS and frames.shape[1] in CHANNELS:
        frames = frames.transpose(0, 2, 3, 1)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] not in CHANNELS:
        raise InputError(
            f"{where} has observations {frames.dtype} {frames.shape[1:]}, want frames uint8 (h, w), (h, w, c) or "
            "(c, h, w) of 1, 3 or 4 channels"
        )
    return np.broadcast_to(frames[..., :3], (*frames.shape[:3], 3))


def _with_first(key: str, values: NDArray[Any], steps: int, source: Source) -> NDArray[Any]:
    """An info with an entry per frame: where it has one per step, frame 0 gets 0."""
    if values.shape[:1] != (steps,) or values.dtype.kind not in "biuf":
        return values
    _say_once(source.path, key)
    return np.concatenate((np.zeros_like(values[:1]), values))


@lru_cache(maxsize=1000)
def _say_once(path: Path, key: str) -> None:
    _log.warning("%s: info '%s' has an entry per step, not per frame: it is kept as 0 at the first frame", path, key)


def _is_image(space: spaces.Space[Any]) -> bool:
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) in (2, 3)


def _taken(space: spaces.Space[Any], actions: Any, steps: int, where: str) -> Actions:
    if isinstance(space, spaces.Discrete):
        return per_step(np.asarray(actions), steps, "actions", where).astype(np.int64) - int(space.start)
    if isinstance(space, spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary):
        return per_step(np.asarray(actions, np.float32), steps, "actions", where).reshape(steps, -1)
    raise InputError(f"{where} has actions in {space}: only Discrete, Box, MultiDiscrete and MultiBinary are known")


def _flat(tree: Mapping[str, Any], above: str = "") -> Arrays:
    """Arrays of nested dictionaries under dotted names."""
    flat: Arrays = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {above + key: np.asarray(value)}
    return flat


def _leaves(space: spaces.Dict, above: str = "") -> dict[str, spaces.Space[Any]]:
    leaves: dict[str, spaces.Space[Any]] = {}
    for key, part in space.spaces.items():
        leaves |= _leaves(part, f"{above}{key}.") if isinstance(part, spaces.Dict) else {above + key: part}
    return leaves
