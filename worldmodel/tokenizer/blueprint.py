"""What an autoencoder is built from: where its blueprint comes from, and the latents that follow from it.

A blueprint is the `config.json` of `diffusers`: a class and its arguments. It travels in the world model's config, so
building one needs neither the folder nor the network that it came from.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lssvwm.worldmodel.common.errors import InputError, require
from lssvwm.worldmodel.config import WorldModelConfig

Blueprint = Mapping[str, Any]

PROBE = 256
"""Side of the frame on which latents are counted: a multiple of every downsampling in use."""


class LatentShape(NamedTuple):
    """Numbers at each place of the latents, and how many pixels along each side one place stands for."""

    channels: int
    downsampling: int


def completed(config: WorldModelConfig) -> WorldModelConfig:
    """`config` with what it leaves to its autoencoder: the blueprint, and `latent_channels` of a pretrained one.

    A completed config, as in a checkpoint, comes back as it is and nothing is read.
    """
    if config.tokenizer != "autoencoder" or config.architecture:
        return config
    blueprint = read_blueprint(config.autoencoder) if config.autoencoder else small_blueprint(config)
    shape = latent_shape(blueprint)
    if config.patch % shape.downsampling:
        raise InputError(
            f"patch={config.patch}: this autoencoder's latents stand for {shape.downsampling} pixels along each side, "
            f"choose a patch that is a multiple of {shape.downsampling}"
        )
    channels = shape.channels * (config.patch // shape.downsampling) ** 2
    return replace(config, architecture=json.dumps(blueprint, sort_keys=True), latent_channels=channels)


def parsed(architecture: str) -> Blueprint:
    """The blueprint that stands in a config as JSON."""
    try:
        blueprint = json.loads(architecture)
    except (ValueError, RecursionError) as error:
        raise InputError(f"architecture is no JSON ({error}): copy the config again, or leave it empty") from error
    if not isinstance(blueprint, dict) or "_class_name" not in blueprint:
        raise InputError(f"architecture={architecture!r:.80} names no _class_name: copy the config again")
    return blueprint


def small_blueprint(config: WorldModelConfig) -> Blueprint:
    """An `AutoencoderDC` that keeps `latent_channels` numbers per token.

    Its shortcuts move pixels into channels and back, so that it starts out close to a good one: 30 decibels on Memory
    Maze took two thirds of the time of an `AutoencoderTiny`; an `AutoencoderKL` was far behind both.
    """
    small = config.small_autoencoder
    if config.patch % small.downsampling:
        raise InputError(
            f"patch={config.patch} is no multiple of small_autoencoder.downsampling={small.downsampling}: choose "
            f"another patch, such as {small.downsampling * max(1, config.patch // small.downsampling)}"
        )
    places = (config.patch // small.downsampling) ** 2
    if config.latent_channels % places:
        raise InputError(
            f"latent_channels={config.latent_channels} cannot be shared by the {places} latents of a token: choose "
            f"{places * max(1, config.latent_channels // places)} or another small_autoencoder.downsampling"
        )
    halvings, latents = small.downsampling.bit_length() - 1, config.latent_channels // places
    widths = [small.width * 2 ** max(0, halving - 1) for halving in range(halvings + 1)]
    # Nothing at the frame's own resolution, where it would take most of the time.
    blocks = [0] + [small.blocks] * halvings
    averaged = widths[-1] % latents == 0  # its outer shortcuts are averages over groups of channels
    return {
        "_class_name": "AutoencoderDC",
        "latent_channels": latents,
        "encoder_block_out_channels": widths,
        "decoder_block_out_channels": widths,
        "encoder_layers_per_block": blocks,
        "decoder_layers_per_block": blocks,
        "encoder_qkv_multiscales": [[]] * (halvings + 1),
        "decoder_qkv_multiscales": [[]] * (halvings + 1),
        "encoder_out_shortcut": averaged,
        "decoder_in_shortcut": averaged,
    }


def read_blueprint(name: str) -> Blueprint:
    """The blueprint of a pretrained autoencoder, without its weights."""
    diffusers = _diffusers()
    place = _place(name)
    try:
        found = diffusers.AutoencoderKL.load_config(place.source, subfolder=place.subfolder)
    except OSError as error:
        raise InputError(f"autoencoder={name!r} has no config.json that can be read: {error}") from error
    accepted = inspect.signature(_class_of(found).__init__).parameters
    return {key: value for key, value in found.items() if key in accepted or key == "_class_name"}


def build(blueprint: Blueprint) -> nn.Module:
    """The autoencoder, with random weights."""
    arguments = {key: value for key, value in blueprint.items() if key != "_class_name"}
    module: nn.Module = _class_of(blueprint)(**arguments)
    return module


def load_pretrained(name: str) -> nn.Module:
    """The autoencoder with its weights, which must be safetensors: no other format is read."""
    place = _place(name)
    kind = _class_of(read_blueprint(name))
    try:
        module, info = kind.from_pretrained(
            place.source,
            subfolder=place.subfolder,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except OSError as error:
        raise InputError(f"autoencoder={name!r} has no safetensors weights that can be read: {error}") from error
    if info["missing_keys"] or info["mismatched_keys"]:
        raise InputError(
            f"autoencoder={name!r} has weights that do not fit its config.json: "
            f"{[*info['missing_keys'], *info['mismatched_keys']][:3]} are missing or of another shape"
        )
    loaded: nn.Module = module
    return loaded


def latent_shape(blueprint: Blueprint) -> LatentShape:
    """Found by running the autoencoder on the meta device, where nothing is computed."""
    name = blueprint["_class_name"]
    try:
        with torch.device("meta"):
            module = build(blueprint).eval()
            latents = raw_latents(module, torch.zeros(1, 3, PROBE, PROBE))
            frame = raw_frames(module, latents)
    except (RuntimeError, ValueError, TypeError) as error:
        raise InputError(f"{name} does not encode single frames (1, 3, {PROBE}, {PROBE}): {error}") from error
    if latents.ndim != 4 or latents.shape[2] != latents.shape[3] or frame.shape != (1, 3, PROBE, PROBE):
        raise InputError(
            f"{name} makes latents {tuple(latents.shape)} and then {tuple(frame.shape)} of a frame of {PROBE} pixels; "
            "use an autoencoder whose latents are a grid and that gives the frame back"
        )
    return LatentShape(latents.shape[1], PROBE // latents.shape[2])


def raw_latents(autoencoder: nn.Module, pixels: Tensor) -> Tensor:
    """Pixels (N, 3, h, w) in [-1, 1] -> latents (N, c, h / f, w / f); of a distribution, its mode."""
    encoded = autoencoder.encode(pixels)  # type: ignore[operator]
    if "latent_dist" in encoded:
        mode: Tensor = encoded.latent_dist.mode()
        return mode
    latents: Tensor = encoded.latents if "latents" in encoded else encoded.latent
    return latents


def raw_frames(autoencoder: nn.Module, latents: Tensor) -> Tensor:
    """Inverse of `raw_latents`, not clipped."""
    pixels: Tensor = autoencoder.decode(latents).sample  # type: ignore[operator]
    return pixels


class _Place(NamedTuple):
    source: str
    subfolder: str | None


def _place(name: str) -> _Place:
    if Path(name).is_dir():
        return _Place(name, None)
    owner, _, rest = name.partition("/")
    repository, _, subfolder = rest.partition("/")
    if not repository or owner in ("", ".", "..", "~"):
        raise InputError(f"autoencoder={name!r} is neither a folder nor a name on the hub (OWNER/NAME)")
    return _Place(f"{owner}/{repository}", subfolder or None)


def _diffusers() -> Any:
    return require("diffusers", "autoencoder", "Autoencoders")


def _class_of(blueprint: Blueprint) -> Any:
    diffusers, name = _diffusers(), blueprint.get("_class_name")
    kind = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, diffusers.ModelMixin) and hasattr(kind, "encode")):
        raise InputError(f"{name!r} is no autoencoder of diffusers {diffusers.__version__}; AutoencoderKL is one")
    return kind
