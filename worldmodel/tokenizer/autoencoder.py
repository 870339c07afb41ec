"""Frames to latents by an autoencoder of `diffusers`: pretrained, or a small one that is trained here on the spot."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.common.gradients import Skipping
from lssvwm.worldmodel.common.progress import Bar
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.config_parts import SmallAutoencoder
from lssvwm.worldmodel.tokenizer.blueprint import (
    build,
    completed,
    latent_shape,
    load_pretrained,
    parsed,
    raw_frames,
    raw_latents,
)
from lssvwm.worldmodel.tokenizer.checks import check_fitted, check_frames

CHUNK_PIXELS = 2**18
"""Pixels that are encoded or decoded at once, which bounds the memory of any number of frames."""
WARMUP = 50
"""Steps over which the learning rate of a small autoencoder rises."""


class AutoencoderTokenizer(nn.Module):
    """Each token is a square of an autoencoder's latents, standardised by the mean and deviation of every channel.

    `fit` brings the weights, which are frozen from then on and part of the world model's. The paper's Minecraft models
    have 8 pixels per latent and 2 x 2 latents per token.
    """

    mean: Tensor
    scale: Tensor
    fitted: Tensor

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        config = completed(config)
        self.grid, self.channels, self.size = config.grid, config.latent_channels, (config.height, config.width)
        self.pretrained, self.small = config.autoencoder, config.small_autoencoder
        self.blueprint = parsed(config.architecture)
        shape = latent_shape(self.blueprint)
        self.side = config.patch // shape.downsampling  # latents along the side of a token
        if (config.patch, config.latent_channels) != (shape.downsampling * self.side, shape.channels * self.side**2):
            raise InputError(
                f"patch={config.patch} and latent_channels={config.latent_channels} are not those of architecture, "
                f"whose latents have {shape.channels} numbers for {shape.downsampling} pixels: copy the config again"
            )
        self.chunk = max(1, CHUNK_PIXELS // (config.height * config.width))  # frames
        self.autoencoder = build(self.blueprint).requires_grad_(False)
        self.register_buffer("mean", torch.zeros(shape.channels))
        self.register_buffer("scale", torch.ones(shape.channels))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Frozen: it stays in evaluation mode, whatever the world model around it does."""
        return super().train(False)

    def fit(self, frames: Tensor, *, seed: int = 0, progress: bool = False) -> None:
        """Load the pretrained weights, or train a small autoencoder on `frames` (N, h, w, 3) uint8; then measure the
        latents of `frames`.

        The same frames and seed give the same weights, on one machine with one number of threads.
        """
        check_frames(frames, self.size)
        if self.pretrained:
            trained = load_pretrained(self.pretrained)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)
                trained = build(self.blueprint)
            train_small(trained.to(self.mean), frames, self.small, seed=seed, progress=progress)
        self.autoencoder.load_state_dict(trained.state_dict())
        self._measure(frames)
        self.fitted.fill_(True)

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Frames (..., h, w, 3) uint8 -> latents (..., S, C) of unit variance."""
        check_fitted(self.fitted)
        check_frames(frames, self.size)
        flat = frames.reshape(-1, *frames.shape[-3:])
        parts = [self._tokens(self._standard(self._raw(part))) for part in flat.split(self.chunk)]
        return torch.cat(parts).reshape(*frames.shape[:-3], *parts[0].shape[1:])

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (..., S, C) -> frames (..., h, w, 3) uint8."""
        check_fitted(self.fitted)
        flat = latents.reshape(-1, *latents.shape[-2:])
        frames = torch.cat([self._frames(part) for part in flat.split(self.chunk)])
        return frames.reshape(*latents.shape[:-2], *self.size, 3)

    @torch.no_grad()
    def _measure(self, frames: Tensor) -> None:
        total = torch.zeros_like(self.mean, dtype=torch.float64)
        squares, count = torch.zeros_like(total), 0
        for part in frames.split(self.chunk):
            raw = self._raw(part).double()
            total += raw.sum((0, 2, 3))
            squares += raw.square().sum((0, 2, 3))
            count += raw[:, 0].numel()
        mean = total / count
        self.mean.copy_(mean)
        self.scale.copy_((squares / count - mean.square()).clamp(min=1e-8).sqrt())

    def _raw(self, frames: Tensor) -> Tensor:
        return raw_latents(self.autoencoder, to_pixels(frames, self.mean.dtype))

    def _standard(self, raw: Tensor) -> Tensor:
        return (raw - self.mean[:, None, None]) / self.scale[:, None, None]

    def _tokens(self, latents: Tensor) -> Tensor:
        """(N, c, H * side, W * side) -> (N, H * W, side * side * c)."""
        (rows, columns), side = self.grid, self.side
        cut = latents.reshape(len(latents), -1, rows, side, columns, side)
        return cut.permute(0, 2, 4, 3, 5, 1).reshape(len(latents), rows * columns, self.channels)

    def _frames(self, tokens: Tensor) -> Tensor:
        (rows, columns), side = self.grid, self.side
        cut = tokens.reshape(len(tokens), rows, columns, side, side, -1).permute(0, 5, 1, 3, 2, 4)
        latents = cut.reshape(len(tokens), -1, rows * side, columns * side)
        pixels = raw_frames(self.autoencoder, latents * self.scale[:, None, None] + self.mean[:, None, None])
        return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def train_small(autoencoder: nn.Module, frames: Tensor, config: SmallAutoencoder, *, seed: int, progress: bool) -> None:
    """Train `autoencoder` in place to give back `frames` (N, h, w, 3) uint8, by the squared error of pixels.

    Of the distribution that some autoencoders predict only the mode is trained: decoders are not asked to bear noise.
    """
    generator = torch.Generator().manual_seed(seed)
    first = next(autoencoder.parameters())
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=config.lr, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARMUP) * (1 - step / config.steps)
    )
    autoencoder.train()
    skipping = Skipping("lower small_autoencoder.lr")
    with Bar("autoencoder", config.steps, "step", show=progress) as bar:
        for step in range(config.steps):
            skipping.check()
            chosen = torch.randint(len(frames), (config.batch,), generator=generator)
            pixels = to_pixels(frames[chosen.to(frames.device)].to(first.device), first.dtype)
            loss = functional.mse_loss(raw_frames(autoencoder, raw_latents(autoencoder, pixels)), pixels)
            torch.autograd.backward(loss)
            norm = nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
            if skipping.usable(norm):
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            bar.update()
            if progress and step % 20 == 0:
                bar.note({"decibels": f"{-10 * math.log10(loss.item() / 4):.1f}"})
    autoencoder.eval()


def to_pixels(frames: Tensor, dtype: torch.dtype) -> Tensor:
    """(N, h, w, 3) uint8 -> (N, 3, h, w) in [-1, 1]."""
    return frames.permute(0, 3, 1, 2).to(dtype) / 127.5 - 1
