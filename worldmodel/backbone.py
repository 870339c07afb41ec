"""The stack of layers: block-wise scan, frame-local attention, feed-forward; all modulated by the frame's condition."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from worldmodel.attention import FrameLocalAttention
from worldmodel.config import WorldModelConfig
from worldmodel.mamba import BlockwiseMamba
from worldmodel.memory import LayerMemory, Memory


class Mixed(NamedTuple):
    """One layer's outputs (B, T, S, D), its recall (B, T, N, channels) where it has a scan, and its memory."""

    x: Tensor
    recall: Tensor | None
    memory: LayerMemory


class Hidden(NamedTuple):
    """What the stack makes of T frames: one vector per token (B, T, S, D), the recall of every layer with a scan
    (B, T, N, channels), and the memory after the last frame.
    """

    tokens: Tensor
    recall: tuple[Tensor, ...]
    memory: Memory


class Layer(nn.Module):
    """Up to three residual parts, each with AdaLN-zero: shift, scale and gate from the condition (paper, section 3)."""

    def __init__(self, config: WorldModelConfig, index: int) -> None:
        super().__init__()
        self.scan = None if config.scan == "none" else BlockwiseMamba(config, config.tile(index))
        self.attention = FrameLocalAttention(config) if config.window else None
        hidden = int(config.dim * config.mlp_ratio)
        self.mlp = nn.Sequential(
            nn.Linear(config.dim, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, config.dim)
        )
        self.norm = nn.LayerNorm(config.dim, elementwise_affine=False)
        self.modulation = nn.Linear(config.dim, 9 * config.dim)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def empty(self, rows: int, like: Tensor) -> LayerMemory:
        """Memory of `rows` dreams that have seen nothing."""
        return LayerMemory(
            self.scan.empty(rows, like) if self.scan else None,
            self.attention.empty(rows, like) if self.attention else None,
        )

    def forward(self, x: Tensor, condition: Tensor, memory: LayerMemory, seen: Tensor, *, advance: bool) -> Mixed:
        """x (B, T, S, D), condition (B, T, D), seen (B,) frames before x."""
        parts = self.modulation(condition)[:, :, None].chunk(9, -1)  # 9 x (B, T, 1, D)
        scan, window, recall = memory.scan, memory.window, None
        if self.scan is not None and scan is not None:
            mixed, recall, scan = self.scan(self.modulate(x, *parts[0:2]), scan, advance=advance)
            x = torch.addcmul(x, parts[2], mixed)
        if self.attention is not None and window is not None:
            mixed, window = self.attention(self.modulate(x, *parts[3:5]), window, seen, advance=advance)
            x = torch.addcmul(x, parts[5], mixed)
        x = torch.addcmul(x, parts[8], self.mlp(self.modulate(x, *parts[6:8])))
        return Mixed(x, recall, LayerMemory(scan, window))

    def modulate(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """Adaptive layer norm."""
        return torch.addcmul(shift, self.norm(x), 1 + scale)


class Backbone(nn.Module):
    """Latents, noise levels and actions in; one hidden vector per token out."""

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        self.num_actions, self.noise_bands = config.num_actions, 32
        self.patch_in = nn.Linear(config.latent_channels, config.dim)
        self.position = nn.Parameter(torch.randn(config.tokens, config.dim) * 0.02)
        self.action = nn.Embedding(config.num_actions + 1, config.dim)  # the last one: no action led here
        self.noise = nn.Sequential(
            nn.Linear(2 * self.noise_bands, config.dim), nn.SiLU(), nn.Linear(config.dim, config.dim)
        )
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.layers))

    @property
    def scans(self) -> list[tuple[int, int]]:
        """(tiles, channels of the recall) of every layer that has a scan."""
        layers = [layer.scan for layer in self.layers if isinstance(layer, Layer)]
        return [(scan.tiles, scan.inner) for scan in layers if scan is not None]

    def empty(self, rows: int) -> Memory:
        """Memory of `rows` dreams that have seen nothing."""
        like = self.position
        layers = tuple(layer.empty(rows, like.detach()) for layer in self.layers if isinstance(layer, Layer))
        return Memory(layers, torch.zeros(rows, dtype=torch.int64, device=like.device))

    def forward(
        self, latents: Tensor, noise: Tensor, actions: Tensor, memory: Memory, *, advance: bool = True
    ) -> Hidden:
        """Continue from `memory`: latents (B, T, S, C), noise levels in [0, 1] and actions (B, T).

        Action -1 is "none". With `advance=False` the memory is returned as it was, which is cheaper.
        """
        x = self.patch_in(latents) + self.position
        none = torch.full_like(actions, self.num_actions)
        condition = self.noise(fourier(noise, self.noise_bands)) + self.action(torch.where(actions < 0, none, actions))
        condition = nn.functional.silu(condition)
        layers, recalls = [], []
        for layer, remembered in zip(self.layers, memory.layers, strict=True):
            x, recall, after = layer(x, condition, remembered, memory.frames, advance=advance)
            layers.append(after)
            if recall is not None:
                recalls.append(recall)
        after = Memory(tuple(layers), memory.frames + latents.shape[1]) if advance else memory
        return Hidden(x, tuple(recalls), after)


def fourier(level: Tensor, bands: int) -> Tensor:
    """Sines and cosines of a level in [0, 1], from half a period to 500: (...) -> (..., 2 * bands)."""
    frequencies = torch.exp(torch.linspace(0, math.log(1000), bands, device=level.device, dtype=level.dtype)) * math.pi
    angles = level[..., None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], -1)
