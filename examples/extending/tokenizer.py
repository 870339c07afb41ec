"""A tokenizer of your own: frames to latents and back. This one keeps low frequencies of every patch, as JPEG does.

python examples/extending/tokenizer.py runs/cosines
"""

import math
import sys

import torch
from torch import Tensor, nn

import train_wm
from lssvwm.worldmodel import InputError, WorldModelConfig
from lssvwm.worldmodel.registry import TOKENIZERS


class Cosines(nn.Module):
    """The k x k lowest coefficients of the discrete cosine transform, of every patch and color."""

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        self.grid, self.patch, self.channels = config.grid, config.patch, config.latent_channels
        self.k, places = math.isqrt(config.latent_channels // 3), torch.arange(config.patch) + 0.5
        if 3 * self.k**2 != config.latent_channels or self.k > config.patch:
            raise InputError(f"latent_channels={config.latent_channels}: give 3 * k * k for a k up to {config.patch}")
        basis = torch.cos(torch.arange(self.k)[:, None] * places * math.pi / config.patch)
        self.register_buffer("basis", basis / basis.norm(dim=1, keepdim=True))  # (k, patch)
        self.register_buffer("mean", torch.zeros(self.channels))  # what `fit` finds goes with the weights
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    def fit(self, frames: Tensor, *, seed: int = 0, progress: bool = False) -> None:
        """Frames (N, h, w, 3): latents are to be about 0 and of unit variance on average."""
        found = self.encode(frames)
        self.mean.copy_(found.mean((0, 1)))
        self.scale.copy_((found - self.mean).std())
        self.fitted.fill_(True)

    def encode(self, frames: Tensor) -> Tensor:
        """Frames (..., h, w, 3) uint8 -> latents (..., S, C)."""
        (rows, columns), p = self.grid, self.patch
        pixels = frames.reshape(-1, rows, p, columns, p, 3).to(self.mean) / 127.5 - 1
        found = torch.einsum("nrpcqf,ip,jq->nrcijf", pixels, self.basis, self.basis)
        return (found.reshape(*frames.shape[:-3], rows * columns, self.channels) - self.mean) / self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (..., S, C) -> frames (..., h, w, 3) uint8."""
        found = (latents * self.scale + self.mean).reshape(-1, *self.grid, self.k, self.k, 3)
        pixels = torch.einsum("nrcijf,ip,jq->nrpcqf", found, self.basis, self.basis) * 127.5 + 127.5
        height, width = (side * self.patch for side in self.grid)
        return pixels.round().clamp(0, 255).to(torch.uint8).reshape(*latents.shape[:-2], height, width, 3)


TOKENIZERS["cosines"] = Cosines


if __name__ == "__main__":
    settings = ("--preset", "smoke", "--model.tokenizer", "cosines", "--model.latent-channels", "108")
    train_wm.main([*settings, "--out", *sys.argv[1:]])
