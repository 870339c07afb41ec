"""TFRecord files and the `tf.train.Example` in each record, without TensorFlow.

A record, from the documentation of TFRecord (https://www.tensorflow.org/tutorials/load_data/tfrecord), little-endian:

    uint64 length | uint32 masked CRC-32C of the length | bytes (length) | uint32 masked CRC-32C of the bytes

A masked CRC is the CRC rotated right by 15 bits plus 0xa282ead8. The bytes are a message of protocol buffers
(`example.proto` and `feature.proto` of TensorFlow): features by name, each a list of bytes, float32 or int64.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory
from numpy.typing import NDArray

from lssvwm.worldmodel.common.errors import InputError

Features = Mapping[str, NDArray[Any] | list[bytes]]
"""By name: (n,) float32 or int64, or n times bytes."""

_HEAD, _CHECK = struct.Struct("<QI"), struct.Struct("<I")
_AGAIN = "copy or download it again"


def records(path: Path) -> int:
    """How many records a file holds; what is no record any more counts as one, and is found out when it is read."""
    return len(_begins(path, *_seen(path)))


def read_record(path: Path, index: int) -> Features:
    """The features of record `index` (from 0). Raises InputError, naming file and record, for what is damaged."""
    begins, where = _begins(path, *_seen(path)), f"{path} record {index}"
    if index >= len(begins):
        raise InputError(f"{where} is not there, only {len(begins)} are: {_AGAIN}")
    with path.open("rb") as file:
        file.seek(begins[index])
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size or _masked(head[:8]) != _HEAD.unpack(head)[1]:
            raise InputError(f"{where} has a length that is cut off or fails its checksum: {_AGAIN}")
        length = _HEAD.unpack(head)[0]
        if length > os.fstat(file.fileno()).st_size:
            raise InputError(f"{where} is cut off: {_AGAIN}")
        data, check = file.read(length), file.read(_CHECK.size)
    if len(check) < _CHECK.size:
        raise InputError(f"{where} is cut off: {_AGAIN}")
    if _masked(data) != _CHECK.unpack(check)[0]:
        raise InputError(f"{where} fails its checksum: {_AGAIN}")
    return _features(data, where)


def _seen(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): {_AGAIN}") from error
    return found.st_size, found.st_mtime_ns


@lru_cache(maxsize=16)  # records of a file follow each other
def _begins(path: Path, size: int, changed: int) -> list[int]:
    """Where each record begins, up to the first that is none."""
    begins, at = [], 0
    with path.open("rb") as file:
        while at < size:
            begins.append(at)
            file.seek(at)
            head = file.read(_HEAD.size)
            if len(head) < _HEAD.size or _masked(head[:8]) != _HEAD.unpack(head)[1]:
                break
            at += _HEAD.size + int(_HEAD.unpack(head)[0]) + _CHECK.size
    return begins


def _features(data: bytes, where: str) -> Features:
    example = _example()()
    try:
        example.ParseFromString(data)
    except message.DecodeError as error:
        raise InputError(f"{where} is no tf.train.Example: {_AGAIN}") from error
    found: dict[str, NDArray[Any] | list[bytes]] = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        if kind == "bytes_list":
            found[name] = list(feature.bytes_list.value)
        elif kind is not None:
            dtype = np.float32 if kind == "float_list" else np.int64
            found[name] = np.array(getattr(feature, kind).value, dtype)
    return found


@cache
def _example() -> Any:
    """The class of the message, in a pool of its own: TensorFlow's may be loaded too."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="records", syntax="proto3")
    lists = {"BytesList": field.TYPE_BYTES, "FloatList": field.TYPE_FLOAT, "Int64List": field.TYPE_INT64}
    for name, kind in lists.items():
        file.message_type.add(name=name).field.add(name="value", number=1, type=kind, label=field.LABEL_REPEATED)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    kinds = {"bytes_list": "BytesList", "float_list": "FloatList", "int64_list": "Int64List"}
    for number, (key, name) in enumerate(kinds.items(), 1):
        feature.field.add(
            name=key, number=number, type=field.TYPE_MESSAGE, type_name=f".records.{name}", oneof_index=0, label=1
        )
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=1)
    entry.field.add(name="value", number=2, type=field.TYPE_MESSAGE, type_name=".records.Feature", label=1)
    features.field.add(
        name="feature",
        number=1,
        type=field.TYPE_MESSAGE,
        type_name=".records.Features.FeatureEntry",
        label=field.LABEL_REPEATED,
    )
    example = file.message_type.add(name="Example")
    example.field.add(name="features", number=1, type=field.TYPE_MESSAGE, type_name=".records.Features", label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("records.Example"))


def _masked(data: bytes) -> int:
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


# CRC-32C is linear, so a block's can be found beside those of all others, and put behind that of what is before it.


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli, RFC 3720 appendix B.4) of `data`."""
    rows = 1 << (len(data).bit_length() // 2)
    columns = -(-len(data) // rows)
    padded = np.zeros(rows * columns, np.uint8)  # zeros before all else change nothing
    padded[padded.size - len(data) :] = np.frombuffer(data, np.uint8)
    table, state = _table(), np.zeros(rows, np.uint32)
    for column in padded.reshape(rows, columns).T:
        state = table[(state ^ column) & 255] ^ state >> 8
    behind = _zeros(columns)
    while len(state) > 1:
        state = _applied(behind, state[::2]) ^ state[1::2]
        behind = _applied(behind, behind)
    begin = _applied(_zeros(len(data)), np.array([0xFFFFFFFF], np.uint32))
    return int(state[0] ^ begin[0]) ^ 0xFFFFFFFF


@cache
def _table() -> NDArray[np.uint32]:
    table: NDArray[np.uint32] = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1 ^ np.where(table & 1, 0x82F63B78, 0)).astype(np.uint32)
    return table


@lru_cache(maxsize=64)
def _zeros(count: int) -> NDArray[np.uint32]:
    """What `count` bytes of zeros make of each bit of a state, (32,)."""
    result = np.uint32(1) << np.arange(32, dtype=np.uint32)
    power = _table()[result & 255] ^ result >> 8
    while count:
        if count & 1:
            result = _applied(power, result)
        power = _applied(power, power)
        count >>= 1
    return result


def _applied(to_bits: NDArray[np.uint32], states: NDArray[np.uint32]) -> NDArray[np.uint32]:
    bits = states[:, None] >> np.arange(32, dtype=np.uint32) & 1
    found: NDArray[np.uint32] = np.bitwise_xor.reduce(np.where(bits, to_bits, np.uint32(0)), axis=1)
    return found
