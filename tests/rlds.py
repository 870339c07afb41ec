"""RLDS data sets, written byte by byte as their specifications say: no TensorFlow, and none of our reader."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from recordings import STEPS, frames_of, places

SHARD = "walk-train.tfrecord-00000-of-00001"


def slow_crc32c(data: bytes) -> int:
    """Bit by bit, as RFC 3720 defines it: polynomial 0x1EDC6F41, bits reversed."""
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


def record(data: bytes) -> bytes:
    def masked(part: bytes) -> bytes:
        crc = slow_crc32c(part)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    found = bytearray()
    while number >= 128:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def field(number: int, data: bytes) -> bytes:
    """Length-delimited."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def example(features: Mapping[str, Sequence[Any]]) -> bytes:
    """A `tf.train.Example`; lists of bytes, of floats, of whole numbers."""
    entries = b""
    for name, values in features.items():
        if isinstance(values[0], bytes):
            feature = field(1, b"".join(field(1, value) for value in values))
        elif isinstance(values[0], float):
            feature = field(2, field(1, struct.pack(f"<{len(values)}f", *values)))
        else:
            feature = field(3, field(1, b"".join(map(varint, values))))
        entries += field(1, field(1, name.encode()) + field(2, feature))
    return field(1, entries)


def tensor(dtype: str, *shape: int) -> dict[str, Any]:
    return {"tensor": {"shape": {"dimensions": [str(side) for side in shape]}, "dtype": dtype, "encoding": "none"}}


def tree(parts: Mapping[str, Any]) -> dict[str, Any]:
    return {"pythonClassName": "FeaturesDict", "featuresDict": {"features": parts}}


def described(image: dict[str, Any], **steps: Any) -> dict[str, Any]:
    told = {
        "observation": tree({"image": image, "state": tensor("float32", 2)}),
        "action": tensor("int32"),
        "reward": tensor("float32"),
        "is_first": tensor("bool"),
        "is_last": tensor("bool"),
        "is_terminal": tensor("bool"),
        "language_instruction": {"text": {}},
        **steps,
    }
    return tree({"steps": {"pythonClassName": "Dataset", "sequence": {"feature": tree(told), "length": "-1"}}})


PICTURE = {"image": {"shape": {"dimensions": ["32", "32", "3"]}, "dtype": "uint8", "encodingFormat": "png"}}
PIXELS = tensor("uint8", 8, 8, 1)


def encoded(frames: NDArray[np.uint8], kind: str = "PNG") -> list[bytes]:
    found = []
    for frame in frames:
        Image.fromarray(frame).save(stream := io.BytesIO(), kind, quality=95)
        found.append(stream.getvalue())
    return found


def features_of(taken: Sequence[int], terminal: bool, image: Sequence[Any], **steps: Sequence[Any]) -> dict[str, Any]:
    """An episode of the world of `recordings`; what its last step says of action and reward has no meaning."""
    at = places(taken)
    last = [0] * len(taken) + [1]
    features: dict[str, Sequence[Any]] = {
        "observation/image": image,
        "observation/state": [float(x) for place in at for x in (place, -place)],
        "action": [*taken, 7],
        "reward": [*map(float, taken), 99.0],
        "is_first": last[::-1],
        "is_last": last,
        "is_terminal": [int(terminal) * flag for flag in last],
        "language_instruction": [b"walk"] * len(at),
        **steps,
    }
    return {f"steps/{key}": value for key, value in features.items()}


def dataset(root: Path, taken: Sequence[int] = STEPS, *, terminal: tuple[bool, ...] = (False, True)) -> Path:
    """As many episodes as `terminal` has, in one file."""
    pictures = encoded(frames_of(places(taken)))
    write(root, described(PICTURE), [features_of(taken, end, pictures) for end in terminal])
    return root


def write(root: Path, told: dict[str, Any], episodes: Sequence[Mapping[str, Sequence[Any]]]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "features.json").write_text(json.dumps(told))
    (root / SHARD).write_bytes(b"".join(record(example(one)) for one in episodes))
    lengths = [str(len(episodes))]
    info = {"name": "walk", "splits": [{"name": "train", "shardLengths": lengths}], "fileFormat": "tfrecord"}
    (root / "dataset_info.json").write_text(json.dumps(info))
