"""What mixes the tokens of different frames in a layer and remembers: the one seam for a new sequence mixer."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.layers.mamba import BlockwiseMamba, Mixed, ScanMemory
from lssvwm.worldmodel.registry import MIXERS


class Mixer(Protocol):
    """A module that goes on from a memory. N places of the grid each remember, and tell `inner` numbers per frame."""

    tiles: int  # N
    inner: int  # channels of the recall

    def empty(self, rows: int, like: Tensor) -> ScanMemory:
        """Memory of `rows` dreams that have seen nothing: zeros, on the device and in the dtype of `like`."""
        ...

    def __call__(
        self,
        x: Tensor,
        memory: ScanMemory,
        *,
        advance: bool = True,
        in_place: bool = False,
        teacher_forcing: bool = False,
    ) -> Mixed:
        """Continue over x (B, T, S, D). All frames at once, in segments or one by one come to the same.

        `advance=False` looks ahead: same outputs, the memory unchanged. `in_place` may write the new memory over the
        old one. `teacher_forcing`: frames come chunk by chunk, each first noised and then clean, and a noised one is
        never remembered (`layers.teacher_forcing`).
        """
        ...


def make_mixer(config: WorldModelConfig, layer: int) -> Mixer | None:
    """The mixer of a layer by `config.scan`; None where it has none."""
    if config.scan == "none":
        return None
    if config.scan in MIXERS:
        mixer: Mixer = MIXERS[config.scan](config, layer)
        return mixer
    return BlockwiseMamba(config, config.tile(layer))
