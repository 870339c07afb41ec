"""Sizes of world model, and the paper's baselines and ablations as changes of configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import torch

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.config_parts import MAMBA2, SmallAutoencoder
from lssvwm.worldmodel.model import WorldModel

SIZES: Mapping[str, WorldModelConfig] = MappingProxyType(
    {
        # Minutes on one CPU core: a view of 3 x 3 MiniGrid cells, one token for each. docs/results.md compares it.
        "tiny": WorldModelConfig(
            height=24,
            width=24,
            patch=8,
            latent_channels=12,
            whitening=0.75,
            dim=64,
            layers=4,
            tiles=((1, 1), (3, 3)),
            window=2,
            state_size=16,
            head_dim=32,
            features=32,
            noise_mean=1.0,
            noise_std=1.4,
            min_noise=0.5,
        ),
        # Meant for hours on one GPU: Memory Maze at 64x64 with 64 tokens per frame.
        "small": WorldModelConfig(
            height=64,
            width=64,
            num_actions=6,
            patch=8,
            latent_channels=32,
            dim=192,
            layers=6,
            heads=6,
            tiles=((1, 1), (4, 4), (2, 2)),
            window=10,
            state_size=11,
        ),
        # Meant for days on a few GPUs: 128x128.
        "base": WorldModelConfig(
            height=128,
            width=128,
            num_actions=6,
            patch=8,
            latent_channels=48,
            dim=512,
            layers=12,
            heads=8,
            tiles=((1, 1), (8, 8), (2, 2), (4, 4)),
            window=10,
            state_size=11,
            features=512,
        ),
        # 200 million parameters, the size of every model in the paper; Mamba-2's defaults inside (state 128, expand 2,
        # head 64) and its forcing. 256x256 pixels through an autoencoder of 8x and 4 channels, 2x2 latents per token:
        # 256 tokens.
        "paper": WorldModelConfig(
            height=256,
            width=256,
            num_actions=6,
            tokenizer="autoencoder",
            small_autoencoder=SmallAutoencoder(downsampling=8),
            patch=16,
            latent_channels=16,
            dim=768,
            layers=12,
            heads=12,
            tiles=((1, 1), (16, 16), (2, 2), (8, 8), (4, 4)),
            window=10,
            state_size=128,
            mixer=MAMBA2,
            forcing="diffusion",
            features=512,
        ),
    }
)
"""World models by size. Frames and actions are the environment's; the ones here are what the size was made for."""

_MAMBA2: Mapping[str, object] = {"mixer": MAMBA2}

VARIANTS: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        "lssvwm": {},
        "causal-window": {"scan": "none", "window": 16},
        "mamba2": {"scan": "whole-frame", "window": 0, **_MAMBA2},
        "mamba2-local": {"scan": "whole-frame", **_MAMBA2},
        "causal-full": {"scan": "none", "window": None},
        "one-tile": {"scan": "whole-frame"},
        "tiles-1x1": {"tiles": ((1, 1),)},
        "paper-mixer": _MAMBA2,
        "diffusion-forcing": {"forcing": "diffusion"},
        "paper-mixer-and-forcing": {"forcing": "diffusion", **_MAMBA2},
        "no-clean-prefix": {"forcing": "diffusion", "context_prob": 0.0},
    }
)
"""What the paper compares, and what of ours it did without. Mamba-2's mixer has as many rows of state as ours."""


def variant(config: WorldModelConfig, name: str, *, window: int | None = None) -> WorldModelConfig:
    """`config` changed into one of `VARIANTS`, with as many parameters as `config` within one percent.

    As in the paper the depth makes up for what a variant lacks; what whole layers leave over, the width of the
    feed-forward part does. `window`: frames before its own that `causal-window` sees.
    """
    if name not in VARIANTS:
        raise InputError(f"unknown variant '{name}': choose one of {', '.join(VARIANTS)}")
    changes = dict(VARIANTS[name])
    if name == "causal-window" and window is not None:
        changes["window"] = window
    if "mixer" in changes:
        changes["state_size"] = config.state_rows
    changed = replace(config, **changes)  # type: ignore[arg-type]
    return matched(changed, parameters(config)) if {"scan", "window", "mixer"} & set(changes) else changed


def parameters(config: WorldModelConfig) -> int:
    """Trainable parameters that make the video: backbone and output, without the tokenizer and the heads."""
    with torch.device("meta"):
        model = WorldModel(config)
    return sum(p.numel() for part in (model.backbone, model.denoise) for p in part.parameters())


def matched(config: WorldModelConfig, wanted: int) -> WorldModelConfig:
    """`config` with another depth and feed-forward width, so that it has `wanted` parameters within one percent."""
    one, two = (parameters(replace(config, layers=n)) for n in (1, 2))
    layers = max(1, round((wanted - one) / (two - one) + 1))
    deep = replace(config, layers=layers)
    # A unit of hidden width costs a row, a column and a bias in every layer.
    unit = layers * (2 * config.dim + 1)
    hidden = int(config.dim * config.mlp_ratio) + round((wanted - parameters(deep)) / unit)
    found = replace(deep, mlp_ratio=max(1, hidden) / config.dim)
    if hidden < 1 or abs(parameters(found) / wanted - 1) > 0.01:
        raise InputError(f"no depth of this variant has {wanted} parameters within 1 %: choose a deeper configuration")
    return found
