"""One episode as one file: written whole or not at all, checked by its headers before its frames are read.

A single file can hold several (`episodes.packed`): `PACK.npz/NAME` is then the path of one of them.
"""

from __future__ import annotations

import lzma
import math
import os
import re
import stat
import time
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lssvwm.worldmodel.common.atomic import replace
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes.chunked import ChunkedFile, Stored, write_chunked
from lssvwm.worldmodel.episodes.data import KEYS, NO_ACTION, Episode, check_episode
from lssvwm.worldmodel.episodes.npz import NpzFile, packed_archive

SUFFIX = ".episode"
"""Of the files that are written."""
NPZ = ".npz"
"""Of those that are read as well."""
_PARTIAL = re.compile(r"\..+(\.[0-9a-f]{32}|\.partial)")
_LEFT = 3600.0  # seconds after which a file that is not whole has been left by a writer that died
_RESERVED = {"file", "allow_pickle"}  # names that np.savez_compressed takes for its own parameters
_SPARE = 1 << 26  # bytes
_SPARE_FRAMES = 1 << 30  # bytes
_TEXT = 0x10FFFF  # the last character there is
_DAMAGED = "is damaged ({}): delete it, or copy it again from where it came"


@dataclass(frozen=True, slots=True)
class Header:
    """What the index keeps of a file."""

    frames: int
    image_shape: tuple[int, int]  # (h, w)
    max_action: int
    """The largest discrete action; NO_ACTION where actions are continuous, or none is known."""
    action_size: int
    """Numbers of a continuous action; 0 where actions are discrete."""


def header_of(episode: Episode) -> Header:
    """Return the index entry of an episode in memory."""
    height, width = episode.image.shape[1:3]
    return Header(len(episode.image), (height, width), *_action_space(episode.action))


def is_episode(name: str) -> bool:
    """Whether a file of that name is an episode, rather than one that is being written or something else."""
    return name.endswith((SUFFIX, NPZ)) and not name.startswith(".")


def chunked(path: Path | str) -> bool:
    """Whether a part of the frames of that file can be read without the others."""
    return str(path).endswith(SUFFIX)


def write_episode(root: Path, episode: Episode, *, name: str | None = None) -> Path:
    """Write `episode` into `root` under `name`, or one of its own, and return the path.

    Its own name sorts by time and is unique across machines, so that nothing is ever overwritten; the file appears
    under it only once all its bytes are on disk. A `name` that ends in .npz is written as the published files are.
    """
    _check_extras(episode.extras)
    arrays = episode.arrays()
    name = name or f"{time.time_ns():020d}-{uuid.uuid4().hex}-{len(episode.image)}{SUFFIX}"

    def write(partial: Path) -> None:
        with partial.open("xb") as file:  # an open file, or numpy appends .npz to the name
            if chunked(name):
                write_chunked(file, arrays, len(episode.image))
            else:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    replace(root / name, write)
    return root / name


def sweep(root: Path) -> None:
    """Delete what writers that died have left in `root` more than an hour ago."""
    for entry in os.scandir(root):
        if _PARTIAL.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
            try:
                if time.time() - entry.stat().st_mtime > _LEFT:
                    os.unlink(entry.path)
            except FileNotFoundError:
                pass  # another writer was faster


def read_header(path: Path) -> Header:
    """Check what `path` tells of its arrays, without decompressing its frames.

    Raises InputError naming the file for a cut or damaged file, missing keys, wrong dtypes or shapes.
    """
    with opened(path) as file:
        shape = _checked(file)
        actions = _actions(_array(file, "action"), path)
    return Header(shape[0], (shape[1], shape[2]), *_action_space(actions))


def read_episode(path: Path) -> Episode:
    """Read and check the episode in `path`; raises InputError naming the file. The arrays are read-only.

    Large arrays of .npz files that are stored without compression are mapped: only what is used of them is read, when
    it is used. Damage to their bytes, unlike to those of all others, is then not noticed.
    """
    with opened(path) as file:
        _checked(file)
        return _episode({key: _array(file, key) for key in file.arrays}, path)


@dataclass(frozen=True)
class Outline:
    """A chunked file of which all is read but the frames, and of the extras only those that were asked for."""

    episode: Episode
    """Its image is zeros that take no memory."""
    arrays: Mapping[str, Stored]
    """Where the arrays lie in the file."""


def read_outline(path: Path, extras: Sequence[str]) -> Outline:
    """Read and check all of a chunked file but its frames; raises InputError naming the file."""
    with opened(path) as file:
        assert isinstance(file, ChunkedFile)
        keys = [key for key in (*KEYS[1:], *extras) if key in file.arrays]
        image = np.broadcast_to(np.zeros((), np.uint8), _checked(file))
        arrays = {key: _array(file, key) for key in keys}
        return Outline(_episode({**arrays, "image": image}, path), file.arrays)


def read_frames(path: Path, arrays: Mapping[str, Stored], chunks: Sequence[int]) -> list[NDArray[np.uint8]]:
    """Read those chunks of the frames of a chunked file whose outline has told `arrays`, read-only."""
    with opened(path, arrays) as file:
        assert isinstance(file, ChunkedFile)
        return [file.chunk("image", chunk) for chunk in chunks]


def _episode(arrays: Mapping[str, NDArray[Any]], path: Path) -> Episode:
    frames = len(arrays["image"])
    last = np.arange(frames) == frames - 1
    # Published Memory Maze episodes carry no end flags: they end by the time limit.
    terminated = _flags(arrays.get("terminated"), np.zeros(frames, np.bool_), "terminated", path)
    truncated = _flags(arrays.get("truncated"), last & ~terminated, "truncated", path)
    if arrays["reward"].dtype.kind not in "fiu":
        raise InputError(f"{path}: 'reward' must be numbers, got {arrays['reward'].dtype}")
    with np.errstate(over="ignore"):  # said below
        reward = arrays["reward"].astype(np.float32)
    episode = Episode(
        image=arrays["image"],
        action=_actions(arrays["action"], path),
        reward=reward,
        terminated=terminated,
        truncated=truncated,
        extras={key: array for key, array in arrays.items() if key not in KEYS},
    )
    check_episode(episode, str(path))
    for array in episode.arrays().values():
        array.flags.writeable = False  # a cached episode is shared by all its readers
    return episode


def read_array(path: Path, key: str) -> NDArray[Any] | None:
    """Read the array under `key` alone; None where the file has none."""
    return read_arrays(path, (key,)).get(key)


def read_arrays(path: Path, keys: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Read those of the arrays under `keys` that the file has, opening it once."""
    with opened(path) as file:
        return {key: _array(file, key) for key in keys if key in file.arrays}


def _check_extras(extras: Mapping[str, NDArray[np.generic]]) -> None:
    """Every extra must be storable under its key, and readable without pickle."""
    for key, array in extras.items():
        if key in KEYS or key in _RESERVED or "/" in key or not key:
            raise InputError(f"extra {key!r} of an episode: this name is taken or not allowed, choose another one")
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biufcSUmM":
            raise InputError(f"extra {key!r} of an episode must be a NumPy array of numbers or text, got {type(array)}")


def names_in(path: Path) -> set[str]:
    """The names of the episodes that the file `path` holds. Raises InputError where it is no such file."""
    with opened(path) as file:
        names = file.packed() if isinstance(file, NpzFile) else set()
    if not names:
        raise InputError(f"{path} holds no episodes of names: name the folder of an episode file, not the file")
    return names


@contextmanager
def opened(path: Path, arrays: Mapping[str, Stored] | None = None) -> Iterator[ChunkedFile | NpzFile]:
    """The open file, whatever its format. Raises InputError naming it, also for what is read of it later.

    `arrays`: what an earlier opening of a chunked file has told, which then is not read again.
    """
    descriptor = -1
    whole = path.parent if path.parent.suffix == NPZ and path.parent.is_file() else None
    try:
        if whole:
            found = whole.stat()
            archive = packed_archive(whole, found.st_size, found.st_mtime_ns, os.getpid())
            yield NpzFile(path, archive, whole)
            return
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would be waited for
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InputError(f"{path} is not a file: move it out of this folder")
        if chunked(path):
            yield ChunkedFile(path, descriptor, arrays)
        else:
            with os.fdopen(os.dup(descriptor), "rb") as file, zipfile.ZipFile(file) as archive:
                yield NpzFile(path, archive)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise InputError(f"{path} {_DAMAGED.format(error)}") from error
    except FileNotFoundError as error:
        raise InputError(f"{path} is not there (any more): refresh the store, or copy the file again") from error
    except (OSError, RuntimeError, NotImplementedError, MemoryError, LookupError, OverflowError) as error:
        # A link to itself; encrypted; compressed by an unknown method; sizes that no memory holds.
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}: {error}): move it out of this folder"
        ) from error
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _checked(file: ChunkedFile | NpzFile) -> tuple[int, ...]:
    """Shape of the frames, all arrays being there in shapes that fit."""
    path = file.path
    missing = [key for key in KEYS[:3] if key not in file.arrays]
    if missing:
        raise InputError(
            f"{path} has no {missing}, only {sorted(file.arrays)}: an episode file needs image, action and reward; "
            "move other files out of this folder"
        )
    shapes = {key: file.describe(key) for key in KEYS if key in file.arrays}
    shape, dtype = shapes["image"]
    if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or shape[0] < 2 or not shape[1] * shape[2]:
        raise InputError(f"{path}: 'image' must be uint8 (T + 1, h, w, 3) with T >= 1, got {dtype} {shape}")
    for key, (other, _) in shapes.items():
        if other[:1] != shape[:1] or (len(other) != 1 and key not in ("image", "action")):
            raise InputError(f"{path}: '{key}' needs one entry for each of the {shape[0]} frames, got shape {other}")
    return shape


def _array(file: ChunkedFile | NpzFile, key: str) -> NDArray[Any]:
    """An array that takes no more memory than one of an episode may: a few megabytes of zeros could fill it all."""
    shape, dtype = file.describe(key)
    size = math.prod(shape) * dtype.itemsize
    image, image_dtype = file.describe("image") if "image" in file.arrays else ((0,), np.dtype(np.uint8))
    frames = math.prod(image) * image_dtype.itemsize
    if key == "image":
        most, beside = max(_SPARE_FRAMES, 64 * file.file.stat().st_size), f"a file of this size no {key}"
    else:  # depths of the frames' size, in 8 bytes each, are not too much
        most, beside = 8 * frames + _SPARE, "beside these frames no array"
    if size > most:
        raise InputError(
            f"{file.path}: '{key}' would take {size} bytes, and {beside} may take more than {most} bytes: write the "
            "file again without"
        )
    array = file.array(key)
    if dtype.kind == "U" and array.size and dtype.itemsize:
        characters = np.ascontiguousarray(array).reshape(-1).view(np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        if characters.max() > _TEXT:
            raise InputError(f"{file.path} {_DAMAGED.format(f'{key} is no text')}")
    return array


def _flags(array: NDArray[Any] | None, default: NDArray[np.bool_], key: str, path: Path) -> NDArray[np.bool_]:
    if array is None:
        return default
    if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        raise InputError(f"{path}: '{key}' must be false or true (0 or 1) at every frame, got {array.dtype}")
    return array.astype(np.bool_)


def _actions(array: NDArray[Any], path: Path) -> NDArray[np.int64] | NDArray[np.float32]:
    """Stored actions as an Episode has them: integers (T + 1,), one-hot rows (T + 1, A), or continuous ones."""
    if array.ndim == 2 and array.dtype.kind in "biuf" and array.shape[1] > 0:
        rows = array[1:]
        # Row 0 is zero or a filler in published files: nothing led to frame 0. Where actions are continuous it is NaN.
        told = array.dtype.kind != "f" or not np.isnan(array[0]).any()
        if told and array.shape[1] > 1 and np.isin(rows, (0, 1)).all() and ((ones := rows.sum(axis=1)) <= 1).all():
            chosen = ones == 1
            if chosen.all():
                return np.concatenate(([NO_ACTION], rows.argmax(axis=1))).astype(np.int64)
            if chosen.any():
                raise InputError(
                    f"{path}: row {int(chosen.argmin()) + 1} of the one-hot 'action' names none: give every frame "
                    "one, or write floats with NaN in row 0 if these are several numbers"
                )
        return np.concatenate((np.full_like(array[:1], np.nan, np.float32), rows)).astype(np.float32)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(
            f"{path}: 'action' must be integers (T + 1,), one-hot (T + 1, A) or continuous (T + 1, A), "
            f"got {array.dtype} {array.shape}"
        )
    return array.astype(np.int64)


def _action_space(actions: NDArray[np.int64] | NDArray[np.float32]) -> tuple[int, int]:
    """Largest discrete action and numbers of a continuous one."""
    return (NO_ACTION, actions.shape[1]) if actions.ndim == 2 else (int(actions.max()), 0)
