"""Episodes as `.npz` files, which is how the Memory Maze data were published and how this project wrote them before."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from lssvwm.worldmodel.common.errors import InputError

_MAPPED = 1 << 16  # bytes from which on reading a part of an array is cheaper than reading it all
_DAMAGED = "is damaged ({}): delete it, or copy it again from where it came"


@lru_cache(maxsize=2)
def packed_archive(path: Path, size: int, changed: int, process: int) -> zipfile.ZipFile:
    """The packed file `path`, open for all who read its episodes: its directory is as long as they are many.

    `size` and `changed` are those that it has now, `process` is that of the reader, since forks share what is open.
    """
    return zipfile.ZipFile(path)


@lru_cache(maxsize=2)
def members(archive: zipfile.ZipFile) -> Mapping[str, Sequence[str]]:
    """What each episode of a packed file has, by its name."""
    found: dict[str, list[str]] = {}
    for name in archive.namelist():
        if "/" in name:
            episode, _, member = name.partition("/")
            found.setdefault(episode, []).append(member)
    return found


class NpzFile:
    """An open `.npz` file: what it holds is known from the zip directory, arrays are read when they are asked for."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, whole: Path | None = None) -> None:
        """`whole`: the packed file of which `path` is one episode."""
        self.path, self.file, self._archive = path, whole or path, archive
        self._prefix = f"{path.name}/" if whole else ""
        names = members(archive).get(path.name, ()) if whole else archive.namelist()
        self.arrays = {
            name.removesuffix(".npy"): self._info(name.removesuffix(".npy")).file_size
            for name in names
            if name.endswith(".npy") and "/" not in name
        }
        """Bytes of each array, with its own header."""

    def packed(self) -> set[str]:
        """The names of the episodes in a file of several."""
        return set(members(self._archive))

    def _info(self, key: str) -> zipfile.ZipInfo:
        return self._archive.getinfo(f"{self._prefix}{key}.npy")

    def describe(self, key: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and dtype of an array."""
        info = self._info(key)
        with self._archive.open(info) as member:
            shape, _, dtype = self._array_header(member, key)
            if not dtype.hasobject and info.file_size != member.tell() + math.prod(shape) * dtype.itemsize:
                raise InputError(f"{self.path} {_DAMAGED.format(f'{key}: its size is not that of {dtype} {shape}')}")
        return shape, dtype

    def array(self, key: str) -> NDArray[Any]:
        """The whole array; a large one that is stored without compression is mapped."""
        info = self._info(key)
        with self._archive.open(info) as member:
            if info.compress_type == zipfile.ZIP_STORED and info.file_size >= _MAPPED:
                shape, fortran, dtype = self._array_header(member, key)
                if not dtype.hasobject:
                    offset = self._data_offset(info) + member.tell()
                    return np.memmap(self.file, dtype, "r", offset, shape, "F" if fortran else "C")
                member.seek(0)
            try:
                return np.asarray(np.lib.format.read_array(member, allow_pickle=False))
            except ValueError as error:
                raise InputError(f"{self.path}: '{key}' cannot be read ({error}): write the file again") from error

    def _array_header(self, member: IO[bytes], key: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
        """Shape, whether in Fortran's order, and dtype; `member` stands at the array's bytes afterwards."""
        try:
            version = np.lib.format.read_magic(member)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            return read(member)
        except (OSError, RuntimeError, NotImplementedError, zlib.error):
            raise  # of the zip
        except Exception as error:  # the header is Python, in which NumPy finds whatever its parser does
            raise InputError(f"{self.path} {_DAMAGED.format(f'{key}: {str(error)[:200]}')}") from error

    def _data_offset(self, info: zipfile.ZipInfo) -> int:
        """Where the bytes of a member begin: after its own header, whose length the zip directory does not tell."""
        with self.file.open("rb") as file:
            file.seek(info.header_offset)
            name, extra = struct.unpack("<26xHH", file.read(30))
        return info.header_offset + 30 + int(name) + int(extra)
