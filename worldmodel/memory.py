"""Memory: everything a batch of dreams remembers, a plain record of tensors with the row first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodel.attention import WindowMemory
from worldmodel.errors import InputError
from worldmodel.mamba import ScanMemory


@dataclass(frozen=True)
class LayerMemory:
    """What one layer remembers; None for a mixer that the layer does not have."""

    scan: ScanMemory | None
    window: WindowMemory | None

    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors, scan first."""
        return (*(self.scan or ()), *(self.window or ()))

    def rebuild(self, tensors: Sequence[Tensor]) -> LayerMemory:
        """The same layer around other tensors, in the order of `tensors()`."""
        rest = list(tensors)
        scan = ScanMemory(rest.pop(0), rest.pop(0)) if self.scan else None
        return LayerMemory(scan, WindowMemory(*rest) if self.window else None)


@dataclass(frozen=True)
class Memory:
    """Memory of B dreams. Its size does not depend on how many frames the dreams have seen."""

    layers: tuple[LayerMemory, ...]
    frames: Tensor  # (B,) int64, frames committed so far

    @property
    def rows(self) -> int:
        """Number of dreams, B."""
        return self.frames.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes held by all tensors."""
        return sum(t.nbytes for t in self.state_dict().values())

    def select(self, rows: Tensor) -> Memory:
        """The memory of some rows: `rows` is an index (any length, repeats allowed) or a bool mask (B,)."""
        return self._map(lambda t: t[rows])

    def where(self, mask: Tensor, other: Memory) -> Memory:
        """Rows of this memory where `mask` (B,) is True, rows of `other` elsewhere, bit for bit."""
        return self._map(lambda a, b: torch.where(mask.view(-1, *[1] * (a.ndim - 1)), a, b), other)

    def put(self, rows: Tensor, other: Memory) -> Memory:
        """A copy in which the rows at index `rows` (n,) are replaced by the n rows of `other`."""
        return self._map(lambda a, b: a.index_copy(0, rows, b), other)

    def clone(self) -> Memory:
        """A copy that shares no storage."""
        return self._map(Tensor.clone)

    def detach(self) -> Memory:
        """The same values, cut from the autograd graph."""
        return self._map(Tensor.detach)

    def to(self, device: torch.device | str) -> Memory:
        """The same memory on another device."""
        return self._map(lambda t: t.to(device))

    def state_dict(self) -> dict[str, Tensor]:
        """Flat named tensors, for safetensors or snapshots."""
        named = {f"layers.{i}.{j}": t for i, layer in enumerate(self.layers) for j, t in enumerate(layer.tensors())}
        return {**named, "frames": self.frames}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> Memory:
        """A memory of this structure with the tensors of `state_dict()`; its number of rows may differ."""
        own = self.state_dict()
        if set(own) != set(tensors):
            raise InputError(f"memory snapshot has entries {sorted(set(own) ^ set(tensors))} too many or too few")
        rows = len(tensors["frames"])
        for name, tensor in tensors.items():
            want = (rows, *own[name].shape[1:])
            if tensor.shape != want or tensor.dtype != own[name].dtype:
                raise InputError(
                    f"memory snapshot entry {name} is {tensor.dtype} {tuple(tensor.shape)}, the model wants "
                    f"{own[name].dtype} {want} for {rows} rows: it was made by a model of another config"
                )
        layers = tuple(
            layer.rebuild([tensors[f"layers.{i}.{j}"] for j in range(len(layer.tensors()))])
            for i, layer in enumerate(self.layers)
        )
        return Memory(layers, tensors["frames"])

    def _map(self, function: Callable[..., Tensor], *others: Memory) -> Memory:
        layers = tuple(
            layer.rebuild([function(*each) for each in zip(layer.tensors(), *(o.tensors() for o in rest), strict=True)])
            for layer, *rest in zip(self.layers, *(other.layers for other in others), strict=True)
        )
        return Memory(layers, function(self.frames, *(other.frames for other in others)))
