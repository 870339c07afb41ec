"""One episode as one `.npz` file: written whole or not at all, checked by its headers before its frames are read.

A single file can hold several (`episodes.packed`): `PACK.npz/NAME` is then the path of one of them.
"""

from __future__ import annotations

import lzma
import math
import struct
import time
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldmodel.atomic import replace
from worldmodel.episodes.data import KEYS, NO_ACTION, Episode, check_episode
from worldmodel.errors import InputError

SUFFIX = ".npz"
_RESERVED = {"file", "allow_pickle"}  # names that np.savez_compressed takes for its own parameters
_MAPPED = 1 << 16  # bytes from which on reading a part of an array is cheaper than reading it all
_SPARE = 1 << 26  # bytes
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


def write_episode(root: Path, episode: Episode, *, compress: bool = True, name: str | None = None) -> Path:
    """Write `episode` into `root` under `name`, or one of its own, and return the path.

    Its own name sorts by time and is unique across machines, so that nothing is ever overwritten; the file appears
    under it only once all its bytes are on disk. Without `compress` it is larger, and a part of it can be read.
    """
    _check_extras(episode.extras)
    arrays: dict[str, Any] = {**episode.arrays()}
    name = name or f"{time.time_ns():020d}-{uuid.uuid4().hex}-{len(episode.image)}{SUFFIX}"
    save = np.savez_compressed if compress else np.savez

    def write(partial: Path) -> None:
        with partial.open("xb") as file:  # an open file, or numpy appends .npz to the name
            save(file, **arrays)

    replace(root / name, write)
    return root / name


def read_header(path: Path) -> Header:
    """Check the zip directory and the array headers of `path`, without decompressing its frames.

    Raises InputError naming the file for a cut or damaged file, missing keys, wrong dtypes or shapes.
    """
    with _opened(path) as archive:
        keys = archive.names()
        missing = [key for key in KEYS[:3] if key not in keys]
        if missing:
            raise InputError(
                f"{path} has no {missing}, only {sorted(keys)}: an episode file needs image, action and reward; "
                "move other .npz files out of this folder"
            )
        shapes = {key: _shape_and_dtype(archive, path, key) for key in KEYS if key in keys}
        shape, dtype = shapes["image"]
        if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or shape[0] < 2:
            raise InputError(f"{path}: 'image' must be uint8 (T + 1, h, w, 3) with T >= 1, got {dtype} {shape}")
        for key, (other, _) in shapes.items():
            if other[:1] != shape[:1] or (len(other) != 1 and key not in ("image", "action")):
                raise InputError(
                    f"{path}: '{key}' needs one entry for each of the {shape[0]} frames, got shape {other}"
                )
        actions = _actions(_array(archive, path, "action"), path)
    return Header(shape[0], (shape[1], shape[2]), *_action_space(actions))


def read_episode(path: Path) -> Episode:
    """Read and check the episode in `path`; raises InputError naming the file. The arrays are read-only.

    Large arrays that are stored without compression are mapped: only what is used of them is read, when it is used.
    Damage to their bytes, unlike to those of all others, is then not noticed.
    """
    with _opened(path) as archive:
        arrays = {key: _array(archive, path, key) for key in archive.names()}
    frames = len(arrays["image"])
    last = np.arange(frames) == frames - 1
    # Published Memory Maze episodes carry no end flags: they end by the time limit.
    terminated = _flags(arrays.get("terminated"), np.zeros(frames, np.bool_), "terminated", path)
    truncated = _flags(arrays.get("truncated"), last & ~terminated, "truncated", path)
    if arrays["reward"].dtype.kind not in "fiu":
        raise InputError(f"{path}: 'reward' must be numbers, got {arrays['reward'].dtype}")
    episode = Episode(
        image=arrays["image"],
        action=_actions(arrays["action"], path),
        reward=arrays["reward"].astype(np.float32),
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
    with _opened(path) as archive:
        found = archive.names()
        return {key: _array(archive, path, key) for key in keys if key in found}


def _check_extras(extras: Mapping[str, NDArray[np.generic]]) -> None:
    """Every extra must be storable under its key, and readable without pickle."""
    for key, array in extras.items():
        if key in KEYS or key in _RESERVED or "/" in key or not key:
            raise InputError(f"extra '{key}' of an episode: this name is taken or not allowed, choose another one")
        if not isinstance(array, np.ndarray) or array.dtype.hasobject:
            raise InputError(f"extra '{key}' of an episode must be a NumPy array of numbers or text, got {type(array)}")


def names_in(path: Path) -> set[str]:
    """The names of the episodes that the file `path` holds. Raises InputError where it is no such file."""
    with _opened(path) as archive:
        names = {name.partition("/")[0] for name in archive.file.namelist() if "/" in name}
    if not names:
        raise InputError(f"{path} holds no episodes of names: name the folder of an episode file, not the file")
    return names


class _Archive(NamedTuple):
    """The arrays of one episode, in a file that may hold others."""

    file: zipfile.ZipFile
    path: Path
    prefix: str

    def names(self) -> list[str]:
        """Names of the arrays."""
        names = (name.removeprefix(self.prefix) for name in self.file.namelist() if name.startswith(self.prefix))
        return [name.removesuffix(".npy") for name in names if name.endswith(".npy") and "/" not in name]

    def info(self, key: str) -> zipfile.ZipInfo:
        """What the zip directory says of an array that is there."""
        return self.file.getinfo(f"{self.prefix}{key}.npy")


@contextmanager
def _opened(path: Path) -> Iterator[_Archive]:
    packed = path.parent.suffix == SUFFIX and path.parent.is_file()
    whole, prefix = (path.parent, f"{path.name}/") if packed else (path, "")
    try:
        with zipfile.ZipFile(whole) as file:
            yield _Archive(file, whole, prefix)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise InputError(f"{path} {_DAMAGED.format(error)}") from error
    except FileNotFoundError as error:
        raise InputError(f"{path} is not there (any more): refresh the store, or copy the file again") from error
    except (OSError, RuntimeError, NotImplementedError, MemoryError) as error:  # a folder; encrypted; odd compression
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}: {error}): move it out of this folder"
        ) from error


def _shape_and_dtype(archive: _Archive, path: Path, key: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    info = archive.info(key)
    with archive.file.open(info) as member:
        shape, _, dtype = _array_header(member, path, key)
        if info.file_size != member.tell() + math.prod(shape) * dtype.itemsize:
            raise InputError(f"{path} {_DAMAGED.format(f'{key}: its size is not that of {dtype} {shape}')}")
    return shape, dtype


def _array_header(member: IO[bytes], path: Path, key: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and dtype; `member` stands at the array's bytes afterwards."""
    try:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return read(member)
    except ValueError as error:
        raise InputError(f"{path} {_DAMAGED.format(f'{key}: {error}')}") from error


def _array(archive: _Archive, path: Path, key: str) -> NDArray[Any]:
    info = archive.info(key)
    if key != "image" and info.file_size > (most := _most(archive)):
        raise InputError(
            f"{path}: '{key}' would take {info.file_size} bytes, and beside these frames no array may take more than "
            f"{most} bytes: write the file again without"
        )
    with archive.file.open(info) as member:
        if info.compress_type == zipfile.ZIP_STORED and info.file_size >= _MAPPED:
            shape, fortran, dtype = _array_header(member, path, key)
            if not dtype.hasobject:
                offset = _data_offset(archive.path, info) + member.tell()
                return np.memmap(archive.path, dtype, "r", offset, shape, "F" if fortran else "C")
            member.seek(0)
        try:
            return np.asarray(np.lib.format.read_array(member, allow_pickle=False))
        except ValueError as error:
            raise InputError(f"{path}: '{key}' cannot be read ({error}): write the file again") from error


def _most(archive: _Archive) -> int:
    """Bytes that an array besides the frames may take: depths of their size, in 8 bytes each, are not too much.

    A few megabytes of zeros compressed would fill the memory.
    """
    frames = archive.info("image").file_size if "image" in archive.names() else 0
    return 8 * frames + _SPARE


def _data_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Where the bytes of a member begin: after its own header, whose length the zip directory does not tell."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        name, extra = struct.unpack("<26xHH", file.read(30))
    return info.header_offset + 30 + int(name) + int(extra)


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
        if told and array.shape[1] > 1 and np.isin(rows, (0, 1)).all() and (rows.sum(axis=1) == 1).all():
            return np.concatenate(([NO_ACTION], rows.argmax(axis=1))).astype(np.int64)
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
