"""A moment in the life of N dreams, which can be taken up again: in the same process, or from a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save, save_file
from torch import Tensor

from worldmodel.atomic import replace
from worldmodel.errors import InputError

_KEY, _FORMAT = "lssvwm_dream_state", 1


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
        note = {_KEY: json.dumps({"format": _FORMAT, "origin": dict(self.origin)})}
        replace(Path(path), lambda to: save_file(dict(self.copied().tensors), to, note))

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
        told = json.loads(note)
        if told["format"] != _FORMAT:
            raise InputError(f"{path} has format {told['format']}, this version reads {_FORMAT}: save the state again")
        return cls(tensors, told["origin"])

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

    def check(self, origin: Mapping[str, Any], rows: int) -> None:
        """Raise an InputError that says what differs, unless this state belongs to `rows` dreams of `origin`."""
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
        if self.rows != rows:
            raise InputError(
                f"the state has {self.rows} rows, the environment {rows}: make one with num_envs={self.rows}"
            )


def _from_bytes(tensors: bytes, origin: Mapping[str, Any]) -> DreamState:
    return DreamState(load(tensors), origin)
