"""The episode file: a header in JSON, then every array as zstd frames of a few rows each (`docs/episodes.md`).

    bytes 0..7      magic
    bytes 8..11     length n of the header, little-endian
    bytes 12..15    CRC-32 of the header
    bytes 16..      header: {"arrays": {key: {"dtype", "shape", "rows", "sizes"}}}, UTF-8
    then            of each array in this order its chunks, `sizes` bytes each, `rows` entries of the first axis in each

A chunk is one zstd frame that tells its length and a checksum. What a reader asks for costs the chunks it lies in.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import zstandard
from numpy.typing import NDArray

from lssvwm.worldmodel.common.errors import InputError

ROWS = 16
"""Frames of a chunk."""
LEVEL = 3
"""Of zstd."""

_MAGIC = b"EPISODE\x01"
_LEAD = struct.Struct("<8sII")
_FIRST = 1 << 14  # bytes that are read at once: the whole header, and most often all arrays but the frames
_LARGE = 512  # bytes of an entry from which on an array with one for each frame is cut into chunks, as frames are
_RATIO = 1 << 15  # zstd makes 128 KiB of no less than 4 bytes
_SLACK = 1 << 10
_DTYPE = re.compile(r"[<>|][biufcSUmM]\d{1,8}(\[\w{1,9}\])?")
_DAMAGED = "is damaged ({}): delete it, or copy it again from where it came"


@dataclass(frozen=True)
class Stored:
    """Where an array lies in its file, and what it is."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    rows: int
    """Entries of the first axis in a chunk."""
    ends: tuple[int, ...]
    """Where each chunk ends in the file; the first begins at `begin`."""
    begin: int

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array."""
        return math.prod(self.shape) * self.dtype.itemsize

    def rows_of(self, chunk: int) -> int:
        """Entries of the first axis in that chunk."""
        return min(self.rows, (self.shape[0] if self.shape else 1) - chunk * self.rows)

    def bounds(self, chunk: int) -> tuple[int, int]:
        """Where that chunk begins and ends in the file."""
        return (self.ends[chunk - 1] if chunk else self.begin), self.ends[chunk]


def write_chunked(file: BinaryIO, arrays: Mapping[str, NDArray[Any]], frames: int) -> None:
    """Write `arrays` into the empty `file`; the frames are cut, and what else has large entries for each of `frames`.

    The small ones come first, so that they are read together with the header.
    """
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True, write_content_size=True)
    told: dict[str, Any] = {}
    parts: list[bytes] = []
    for key, array in sorted(arrays.items(), key=lambda item: item[1].nbytes):
        entries = len(array) if array.ndim else 1
        cut = key == "image" or (entries == frames and array.nbytes >= _LARGE * entries)
        rows = ROWS if cut else max(entries, 1)
        starts = range(0, entries, rows) if array.nbytes else ()
        whole = array if array.ndim else array.reshape(1)
        chunks = [compressor.compress(whole[start : start + rows].tobytes()) for start in starts]
        sizes = [len(chunk) for chunk in chunks]
        told[key] = {"dtype": array.dtype.str, "shape": list(array.shape), "rows": rows, "sizes": sizes}
        parts += chunks
    header = json.dumps({"arrays": told}, separators=(",", ":")).encode()
    file.write(_LEAD.pack(_MAGIC, len(header), zlib.crc32(header)) + header)
    file.writelines(parts)


class ChunkedFile:
    """An open episode file. What it holds is known; arrays are read when they are asked for.

    Raises InputError naming the file for one that is cut, damaged, or says of itself what cannot be. Nothing is
    allocated that the file's own size does not bear out.
    """

    def __init__(self, path: Path, descriptor: int, arrays: Mapping[str, Stored] | None = None) -> None:
        """Read the header, unless `arrays` of an earlier opening are given."""
        self.path = self.file = path
        self._descriptor = descriptor
        self._first = b""
        self.size = os.fstat(descriptor).st_size
        self.arrays = self._header() if arrays is None else arrays

    def describe(self, key: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and dtype of an array."""
        return self.arrays[key].shape, self.arrays[key].dtype

    def array(self, key: str) -> NDArray[Any]:
        """The whole array."""
        stored = self.arrays[key]
        if len(stored.ends) == 1:
            return self.chunk(key, 0).reshape(stored.shape)
        found = np.empty(stored.shape, stored.dtype)
        for number in range(len(stored.ends)):
            found[number * stored.rows : (number + 1) * stored.rows] = self.chunk(key, number)
        return found

    def chunk(self, key: str, number: int) -> NDArray[Any]:
        """Entries `number * rows` and the following of an array, read-only."""
        stored = self.arrays[key]
        begin, end = stored.bounds(number)
        data, rest = self._read(begin, end), stored.shape[1:]
        rows = stored.rows_of(number)
        wanted = rows * math.prod(rest) * stored.dtype.itemsize
        try:
            if zstandard.frame_content_size(data) != wanted:
                raise InputError(f"{self.path} {_DAMAGED.format(f'{key}: a chunk is not of {wanted} bytes')}")
            raw = zstandard.ZstdDecompressor().decompress(data, wanted, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise InputError(f"{self.path} {_DAMAGED.format(f'{key}: {error}')}") from error
        return np.frombuffer(raw, stored.dtype).reshape(rows, *rest)

    def _read(self, begin: int, end: int) -> bytes:
        if end <= len(self._first):
            return self._first[begin:end]
        data = os.pread(self._descriptor, end - begin, begin)
        if len(data) < end - begin:
            raise InputError(f"{self.path} {_DAMAGED.format('it ends too early')}")
        return data

    def _header(self) -> dict[str, Stored]:
        self._first = os.pread(self._descriptor, _FIRST, 0)
        if len(self._first) < _LEAD.size:
            raise InputError(f"{self.path} {_DAMAGED.format('it ends before its header')}")
        magic, length, checksum = _LEAD.unpack_from(self._first)
        if magic != _MAGIC:
            raise InputError(f"{self.path} is no episode file: move it out of this folder")
        if length > self.size:
            raise InputError(f"{self.path} {_DAMAGED.format('it ends within its header')}")
        header = self._read(_LEAD.size, _LEAD.size + length)
        if zlib.crc32(header) != checksum:
            raise InputError(f"{self.path} {_DAMAGED.format('its header fails its checksum')}")
        try:
            arrays = dict(_stored(json.loads(header)["arrays"], _LEAD.size + length))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            said = f"{type(error).__name__}: {str(error)[:100]}"
            raise InputError(f"{self.path} {_DAMAGED.format(f'its header: {said}')}") from error
        end = max((stored.ends[-1] for stored in arrays.values() if stored.ends), default=_LEAD.size + length)
        if end != self.size:
            raise InputError(f"{self.path} {_DAMAGED.format(f'it has {self.size} bytes, its header tells of {end}')}")
        return arrays


def _stored(told: Mapping[str, Mapping[str, Any]], begin: int) -> Iterator[tuple[str, Stored]]:
    """The arrays that a header tells of; ValueError and its like for what cannot be."""
    for key, one in told.items():
        shape, sizes, rows = tuple(one["shape"]), one["sizes"], one["rows"]
        numbers = [*shape, *sizes, rows]
        if len(shape) > 16 or not all(type(number) is int and 0 <= number < 1 << 40 for number in numbers):
            raise ValueError(f"{key}: shape, rows or sizes")
        if not _DTYPE.fullmatch(one["dtype"]):
            raise ValueError(f"{key}: dtype {one['dtype']!r:.40}")
        dtype = np.dtype(one["dtype"])
        entries, entry = (shape[0] if shape else 1), math.prod(shape[1:]) * dtype.itemsize
        chunks = -(-entries // max(rows, 1)) if entry and entries else 0
        largest = math.prod(max(number, 1) for number in shape) * dtype.itemsize
        if len(sizes) != chunks or (chunks and min(sizes) == 0) or largest >= 1 << 62:
            raise ValueError(f"{key}: {len(sizes)} chunks of {rows} make no {shape}")
        for number, size in enumerate(sizes):
            if min(rows, entries - number * rows) * entry > _RATIO * size + _SLACK:
                raise ValueError(f"{key}: {size} bytes cannot hold chunk {number}")
        stored = Stored(dtype, shape, rows, tuple(accumulate(sizes, initial=begin))[1:], begin)
        begin = stored.ends[-1] if sizes else begin
        yield key, stored
