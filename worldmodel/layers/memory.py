"""Memory: everything a batch of dreams remembers, a plain record of tensors with the row first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.layers.attention import HistoryMemory, WindowMemory
from lssvwm.worldmodel.layers.mamba import ScanMemory


@dataclass(frozen=True)
class LayerMemory:
    """What one layer remembers; None for a mixer that the layer does not have."""

    scan: ScanMemory | None
    window: WindowMemory | HistoryMemory | None

    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors, scan first."""
        return (*(self.scan or ()), *(self.window or ()))

    def rebuild(self, tensors: Sequence[Tensor]) -> LayerMemory:
        """The same layer around other tensors, in the order of `tensors()`."""
        rest = list(tensors)
        scan = ScanMemory(rest.pop(0), rest.pop(0)) if self.scan else None
        return LayerMemory(scan, type(self.window)(*rest) if self.window else None)

    @property
    def slots(self) -> int:
        """Frames that keys and values have room for."""
        return self.window.keys.shape[1] if self.window else 0

    def in_slots(self, number: int) -> LayerMemory:
        """Keys and values in `number` slots: cut off, or filled up with zeros, on the side of the oldest."""
        if self.window is None or number == self.slots:
            return self
        lead = (0,) * 6 + (number - self.slots, 0)
        return LayerMemory(self.scan, type(self.window)(*(functional.pad(v, lead) for v in self.window)))


@dataclass(frozen=True)
class Memory:
    """Memory of B dreams. Its size does not depend on how many frames they have seen, with one exception.

    With attention over all frames (`window=None`) keys and values of F frames are kept, as many as the row that has
    seen most, and `nbytes` grows with them. Rows that have seen fewer have zeros in front. Joining memories of unequal
    F fills up the shorter one, and what no row needs any more is dropped.
    """

    layers: tuple[LayerMemory, ...]
    frames: Tensor  # (B,) int64, frames committed so far
    told: Tensor | None = None  # (B, G) float32, what the last of them was told, in models that are
    path: Tensor | None = None  # (B, S), where their actions have led, with `path_integration` or `dead_reckoning`

    @property
    def rows(self) -> int:
        """Number of dreams, B."""
        return self.frames.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes held by all tensors."""
        return sum(t.nbytes for t in self.state_dict().values())

    @staticmethod
    def cat(parts: Sequence[Memory]) -> Memory:
        """The rows of all parts, one after the other."""
        if len(parts) == 1:
            return parts[0]
        slots = max(layer.slots for part in parts for layer in part.layers)
        first, *rest = (part.with_histories(slots) for part in parts)
        return first._map(lambda *tensors: torch.cat(tensors), *rest)

    def select(self, rows: Tensor | slice) -> Memory:
        """The memory of some rows: `rows` is an index (any length, repeats allowed), a bool mask (B,) or a slice."""
        return self._map(lambda t: t[rows])._fitted()

    def emptied(self, mask: Tensor) -> Memory:
        """The same memory, but rows where `mask` (B,) is True have seen nothing, whatever was in them."""
        return self._map(lambda t: t.masked_fill(mask.view(-1, *[1] * (t.ndim - 1)), 0))._fitted()

    def where(self, mask: Tensor, other: Memory) -> Memory:
        """Rows of this memory where `mask` (B,) is True, rows of `other` elsewhere, bit for bit."""
        mine, theirs = self._aligned(other)
        joined = mine._map(lambda a, b: torch.where(mask.view(-1, *[1] * (a.ndim - 1)), a, b), theirs)
        return joined._fitted()

    def put(self, rows: Tensor, other: Memory) -> Memory:
        """A copy in which the rows at index `rows` (n,) are replaced by the n rows of `other`."""
        mine, theirs = self._aligned(other)
        return mine._map(lambda a, b: a.index_copy(0, rows, b), theirs)._fitted()

    def existing(self) -> Memory:
        """The same memory without slots of keys and values in which no row has a frame: less to attend to."""
        longest = self.longest
        return replace(self, layers=tuple(layer.in_slots(min(longest, layer.slots)) for layer in self.layers))

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
        rest = {"told": self.told, "path": self.path}
        return {**named, "frames": self.frames, **{name: t for name, t in rest.items() if t is not None}}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> Memory:
        """A memory of this structure with the tensors of `state_dict()`; its number of rows may differ."""
        own = self.state_dict()
        if "frames" in tensors and tensors["frames"].dtype == torch.int64:
            own = self.with_histories(int(max(tensors["frames"].tolist(), default=0))).state_dict()
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
        return Memory(layers, tensors["frames"], tensors.get("told"), tensors.get("path"))

    @property
    def longest(self) -> int:
        """Most frames that a row has seen."""
        return int(self.frames.max()) if self.rows else 0

    def with_histories(self, slots: int) -> Memory:
        """Keys and values of all frames (`window=None`), if there are any, in so many slots."""
        kept = (v.in_slots(slots) if isinstance(v.window, HistoryMemory) else v for v in self.layers)
        return replace(self, layers=tuple(kept))

    def _fitted(self) -> Memory:
        # Asking for the longest row waits for the device, so only where there is something to fit.
        grows = any(isinstance(layer.window, HistoryMemory) for layer in self.layers)
        return self.with_histories(self.longest) if grows else self

    def _aligned(self, other: Memory) -> tuple[Memory, Memory]:
        slots = max((layer.slots for memory in (self, other) for layer in memory.layers), default=0)
        return self.with_histories(slots), other.with_histories(slots)

    def _map(self, function: Callable[..., Tensor], *others: Memory) -> Memory:
        layers = tuple(
            layer.rebuild([function(*each) for each in zip(layer.tensors(), *(o.tensors() for o in rest), strict=True)])
            for layer, *rest in zip(self.layers, *(other.layers for other in others), strict=True)
        )
        rest = [
            None if first is None else function(first, *others)
            for first, *others in zip(*((m.told, m.path) for m in (self, *others)), strict=True)
        ]
        return Memory(layers, function(self.frames, *(other.frames for other in others)), *rest)
