"""Frames to a grid of latents and back: principal components of patches, fitted in closed form.

Thirty decibels within a second, where a convolutional autoencoder of the same size needs minutes of CPU time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.tokenizer.checks import check_fitted, check_frames


class PatchTokenizer(nn.Module):
    """Each patch of pixels becomes `latent_channels` numbers: its leading principal components, scaled to unit variance
    on average. `fit` must be called once before use; its result is part of the weights.
    """

    mean: Tensor
    basis: Tensor
    scale: Tensor
    fitted: Tensor

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        self.grid, self.patch, self.whitening = config.grid, config.patch, config.whitening
        self.channels = config.latent_channels
        pixels = 3 * config.patch**2
        if config.latent_channels > pixels:
            raise InputError(f"latent_channels={config.latent_channels} exceeds the {pixels} numbers of a patch")
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("basis", torch.zeros(pixels, config.latent_channels))
        self.register_buffer("scale", torch.ones(config.latent_channels))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def fit(self, frames: Tensor, *, seed: int = 0, progress: bool = False) -> None:
        """Fit to real frames (N, h, w, 3) uint8; a few thousand suffice. Nothing is random and it takes no time."""
        patches = self._patches(frames).flatten(0, 1)
        mean = patches.mean(0)
        centred = (patches - mean).double()
        variance, vectors = torch.linalg.eigh(centred.T @ centred / len(patches))
        channels = self.basis.shape[1]
        # The sign of an eigenvector is arbitrary and differs between machines: make the largest entry positive.
        basis = vectors.flip(1)[:, :channels]
        basis = basis * basis.gather(0, basis.abs().argmax(0, keepdim=True)).sign()
        self.mean.copy_(mean)
        self.basis.copy_(basis)
        kept = variance.flip(0)[:channels].clamp(min=1e-8)
        scale = kept.sqrt() ** self.whitening
        self.scale.copy_(scale * (kept / scale.square()).mean().sqrt())
        self.fitted.fill_(True)

    def encode(self, frames: Tensor) -> Tensor:
        """Frames (..., h, w, 3) uint8 -> latents (..., S, C) of about unit variance."""
        check_fitted(self.fitted)
        basis = self.basis / self.scale
        # What centres pixels is linear too, and far smaller once it is projected.
        offset = (1 + self.mean) @ basis
        pixels = self._cut(frames.reshape(-1, *frames.shape[-3:])).to(basis.dtype)
        flat = torch.addmm(offset, pixels.flatten(0, 1), basis / 127.5, beta=-1)
        return flat.view(*frames.shape[:-3], self.grid[0] * self.grid[1], flat.shape[-1])

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (..., S, C) -> frames (..., h, w, 3) uint8."""
        check_fitted(self.fitted)
        (rows, columns), p = self.grid, self.patch
        basis = 127.5 * (self.basis * self.scale).T
        pixels = torch.addmm(127.5 * (1 + self.mean), latents.reshape(-1, latents.shape[-1]), basis)
        whole = pixels.round_().clamp_(0, 255).to(torch.uint8).view(-1, rows, columns, p, p, 3)
        frames = whole.permute(0, 1, 3, 2, 4, 5)
        return frames.reshape(*latents.shape[:-2], rows * p, columns * p, 3)

    def _patches(self, frames: Tensor) -> Tensor:
        """(N, h, w, 3) uint8 -> (N, S, pixels) in [-1, 1]."""
        return self._cut(frames).to(self.mean.dtype) / 127.5 - 1

    def _cut(self, frames: Tensor) -> Tensor:
        """(N, h, w, 3) uint8 -> (N, S, pixels) uint8."""
        (rows, columns), p = self.grid, self.patch
        check_frames(frames, (rows * p, columns * p))
        x = frames.reshape(-1, rows, p, columns, p, 3)
        return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, rows * columns, p * p * 3)
