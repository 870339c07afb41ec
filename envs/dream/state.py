"""A moment in the life of N dreams, which can be taken up again: in the same process, or from a file."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save, save_file
from torch import Tensor

from lssvwm.worldmodel.common.atomic import replace
from lssvwm.worldmodel.common.errors import InputError

_KEY, _FORMAT = "lssvwm_dream_state", 2
_UNCHECKED = 1
"""The format without a checksum."""
_OLDER: Mapping[str, Any] = {
    "start": "any",
    "model.action_parts": [],
    "model.told": [],
    "model.path_integration": 0,
    "model.dead_reckoning": 0,
}
"""What a state that was saved before these were known is of."""


@dataclass(frozen=True)
class DreamState:
    """Everything that decides how N dreams go on: memory, frames, features, clocks, and the state of their chance.

    tensors: by name, rows first. An environment that takes them up shares them: write into none.
    origin: the world and the options that they belong to; environments take up no state of others.
    """

    tensors: Mapping[str, Tensor]
    origin: Mapping[str, Any]

    @property
    def rows(self) -> int:
        """Number of dreams."""
        return len(self.tensors["clock"])

    def save(self, path: str | Path) -> None:
        """Write it to a file of the safetensors format; readers see the old file or the new one, never half."""
        copy = self.copied()
        checksum = _checksum(copy.tensors, self.origin)
        note = {_KEY: json.dumps({"format": _FORMAT, "crc32": checksum, "origin": dict(self.origin)})}
        replace(Path(path), lambda to: save_file(dict(copy.tensors), to, note))

    @classmethod
    def load(cls, path: str | Path) -> DreamState:
        """Read a file of `save`. Raises InputError, naming the file, for anything else."""
        try:
            with safe_open(path, "pt") as file:
                note = (file.metadata() or {}).get(_KEY)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
        except FileNotFoundError as error:
            raise InputError(f"{path} does not exist: give a file written by DreamState.save") from error
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} cannot be read ({error}): save the state again") from error
        if note is None:
            raise InputError(f"{path} is no state of dreams: give a file written by DreamState.save")
        try:
            told = json.loads(note)
            written, origin = told["format"], {**_OLDER, **told["origin"]}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{path} says nothing that can be read of its origin: save the state again") from error
        if written not in (_UNCHECKED, _FORMAT):
            raise InputError(f"{path} has format {written}, this version reads {_FORMAT}: save the state again")
        if written == _FORMAT and told.get("crc32") != _checksum(tensors, told["origin"]):
            raise InputError(f"{path} is damaged: its checksum is another one, save the state again")
        return cls(tensors, origin)

    def copied(self) -> DreamState:
        """The same on the host, sharing no storage with anything."""
        host = {
            name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, tensor in self.tensors.items()
        }
        return DreamState(host, self.origin)

    def __reduce__(self) -> tuple[Any, ...]:
        """Return plain bytes: torch hands tensors to other processes in shared memory, a file for each of them."""
        return _from_bytes, (save(dict(self.copied().tensors)), self.origin)

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `prefix`, without it."""
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}

    def check(self, origin: Mapping[str, Any], like: Mapping[str, Tensor]) -> None:
        """Raise an InputError that says what differs, unless this state belongs to dreams of `origin`.

        They have tensors `like` these, rows first: the same names, shapes and dtypes, and only finite numbers. A side
        of length 0 may have any other: a memory of all frames grows.
        """
        rows = len(like["clock"])
        names = sorted(self.origin.keys() | origin.keys())
        differ = [
            f"{name} is {self.origin.get(name)!r} there and {origin.get(name)!r} here"
            for name in names
            if self.origin.get(name) != origin.get(name)
        ]
        if differ:
            raise InputError(
                f"the state is of other dreams: {'; '.join(differ)}; make the environment as the one it was taken from"
            )
        if "clock" in self.tensors and self.tensors["clock"].ndim and self.rows != rows:
            raise InputError(
                f"the state has {self.rows} rows, the environment {rows}: make one with num_envs={self.rows}"
            )
        if wrong := sorted(self.tensors.keys() ^ like.keys()):
            there = "has no" if wrong[0] in like else "has an unknown"
            raise InputError(f"the state {there} tensor '{wrong[0]}': it is not one that get_state gave")
        for name, mine in like.items():
            tensor = self.tensors[name]
            fits = tensor.ndim == mine.ndim and all(
                one == other or other == 0 for one, other in zip(tensor.shape, mine.shape, strict=True)
            )
            if not fits or tensor.dtype != mine.dtype:
                raise InputError(
                    f"'{name}' of the state is {tensor.dtype} {tuple(tensor.shape)}, the environment's is {mine.dtype} "
                    f"{tuple(mine.shape)}: it is not one that get_state gave"
                )
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise InputError(f"'{name}' of the state is not finite: it is not one that get_state gave")
        if bool((self.tensors["clock"] < 0).any()):
            raise InputError("'clock' of the state is negative: it is not one that get_state gave")


def _checksum(tensors: Mapping[str, Tensor], origin: Mapping[str, Any]) -> int:
    """CRC-32 of everything: a flipped bit of a memory is a memory too, of another past."""
    total = zlib.crc32(json.dumps(dict(origin), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), total)
        total = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, total)
    return total


def _from_bytes(tensors: bytes, origin: Mapping[str, Any]) -> DreamState:
    return DreamState(load(tensors), origin)
