"""Tokenizers of every kind, small enough to be made in a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.config_parts import SmallAutoencoder
from lssvwm.worldmodel.tokenizer import completed
from worlds import generator, random_frames, small_config

KINDS = ("patches", "small", "pretrained")
QUICK = SmallAutoencoder(downsampling=2, width=8, steps=20, batch=8)

DOWN, UP = "DownEncoderBlock2D", "UpDecoderBlock2D"
PRETRAINED: dict[str, dict[str, Any]] = {
    "AutoencoderKL": {
        "block_out_channels": [8, 8],
        "down_block_types": [DOWN, DOWN],
        "up_block_types": [UP, UP],
        "norm_num_groups": 4,
        "latent_channels": 3,
    },
    "AutoencoderTiny": {
        "encoder_block_out_channels": [8, 8],
        "decoder_block_out_channels": [8, 8],
        "num_encoder_blocks": [1, 1],
        "num_decoder_blocks": [1, 1],
        "latent_channels": 3,
    },
    "AutoencoderDC": {
        "latent_channels": 3,
        "encoder_block_types": ["ResBlock", "ResBlock"],
        "decoder_block_types": ["ResBlock", "ResBlock"],
        "encoder_block_out_channels": [8, 16],
        "decoder_block_out_channels": [8, 16],
        "encoder_layers_per_block": [1, 1],
        "decoder_layers_per_block": [1, 1],
        "encoder_qkv_multiscales": [[], []],
        "decoder_qkv_multiscales": [[], []],
        "encoder_out_shortcut": False,
        "decoder_in_shortcut": False,
    },
}
"""Autoencoders of 3 latent channels and 2 pixels per latent."""


def save_pretrained(folder: Path, kind: str = "AutoencoderKL", **how: Any) -> Any:
    """An autoencoder as `diffusers` saves it, with random weights; also returned."""
    import diffusers

    with torch.random.fork_rng():
        torch.manual_seed(0)
        autoencoder = getattr(diffusers, kind)(**PRETRAINED[kind]).eval()
    autoencoder.save_pretrained(folder, **how)
    return autoencoder


def config_of(kind: str, folder: Path, **changes: Any) -> WorldModelConfig:
    """Tokens of 2 x 2 latents for both autoencoders; a pretrained one is saved to `folder`."""
    if kind == "patches":
        return small_config(**changes)
    if kind == "small":
        return completed(
            small_config(**{"tokenizer": "autoencoder", "latent_channels": 8, "small_autoencoder": QUICK, **changes})
        )
    save_pretrained(folder)
    return completed(small_config(tokenizer="autoencoder", autoencoder=str(folder), **changes))


def coloured(count: int, seed: int = 0) -> Tensor:
    """Frames of patches in one colour each."""
    return random_frames(small_config(), count, source=generator(seed))


def scenes(count: int, seed: int = 0) -> Tensor:
    """Frames as worlds show them: floor and wall behind a box, lit unevenly."""
    source = generator(seed)
    y, x = torch.arange(16.0)[:, None], torch.arange(8.0)
    horizon = 4 + 6 * torch.rand(count, 1, 1, generator=source)
    left, top = 5 * torch.rand(count, 1, 1, generator=source), 9 * torch.rand(count, 1, 1, generator=source)
    colour = torch.rand(3, count, 1, 1, 3, generator=source)
    inside = ((x - left - 1.5).abs() < 2) & ((y - top - 3).abs() < 3)
    back = torch.where((y > horizon)[..., None], colour[0], colour[1])
    light = (0.7 + 0.3 * torch.sin(x / 3 + y / 5))[..., None]
    return (255 * light * torch.where(inside[..., None], colour[2], back)).round().to(torch.uint8)
