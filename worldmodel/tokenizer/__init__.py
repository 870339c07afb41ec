"""Frames to a grid of latents and back, behind one interface: patches, or an autoencoder of `diffusers`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.registry import TOKENIZERS
from lssvwm.worldmodel.tokenizer.autoencoder import AutoencoderTokenizer
from lssvwm.worldmodel.tokenizer.blueprint import completed
from lssvwm.worldmodel.tokenizer.patches import PatchTokenizer

__all__ = ["AutoencoderTokenizer", "PatchTokenizer", "Tokenizer", "completed", "make_tokenizer"]


class Tokenizer(Protocol):
    """A module that turns frames into H x W tokens of C numbers, about normal and of unit variance, and back.

    What `fit` finds is part of its `state_dict`. None of it is trained together with the world model.
    """

    grid: tuple[int, int]  # (H, W); tokens count row by row
    channels: int  # C
    fitted: Tensor  # bool scalar

    def fit(self, frames: Tensor, *, seed: int = 0, progress: bool = False) -> None:
        """Fit to real frames (N, h, w, 3) uint8, once, before anything else.

        The same frames and `seed` give the same result. Cut off, it changes nothing and can be called again.
        """
        ...

    def encode(self, frames: Tensor) -> Tensor:
        """Frames (..., h, w, 3) uint8 -> latents (..., H * W, C)."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (..., H * W, C) -> frames (..., h, w, 3) uint8."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """As of any module."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> object:
        """As of any module."""
        ...


if TYPE_CHECKING:  # a module is wanted from `make_tokenizer`; that each keeps the promises above is checked here
    KINDS: tuple[type[Tokenizer], ...] = (PatchTokenizer, AutoencoderTokenizer)


def make_tokenizer(config: WorldModelConfig) -> Tokenizer:
    """The tokenizer that `config` names, not fitted. `completed(config)` has the number of channels that comes out."""
    if config.tokenizer in TOKENIZERS:
        tokenizer: Tokenizer = TOKENIZERS[config.tokenizer](config)
        return tokenizer
    return PatchTokenizer(config) if config.tokenizer == "patches" else AutoencoderTokenizer(config)
