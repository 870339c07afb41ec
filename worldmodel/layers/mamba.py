"""Block-wise Mamba-2: every tile of the token grid is scanned through all frames on its own (paper, section 3.1)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.layers.fused import convolve, gated_rms_norm, rms_norm
from lssvwm.worldmodel.layers.runtime import ScanChoice
from lssvwm.worldmodel.layers.scan import scan
from lssvwm.worldmodel.layers.teacher_forcing import convolve_copies, deinterleaved, interleaved, scan_copies


class ScanMemory(NamedTuple):
    """What N tiles remember: the last inputs of the convolution and the state of the scan, rows first."""

    conv: Tensor  # (B, N, conv - 1, channels)
    state: Tensor  # (B, N, state_rows, heads, head_dim)


class Mixed(NamedTuple):
    """Outputs (B, T, S, D); what each tile's state answered in each frame, (B, T, N, channels); the new memory."""

    out: Tensor
    recall: Tensor
    memory: ScanMemory


class Parts(NamedTuple):
    """What tokens write (b, l, heads, head_dim), and what they write it under and read by, both (b, l, state_rows)."""

    values: Tensor
    B: Tensor
    C: Tensor


class BlockwiseMamba(nn.Module):
    """Cut the grid into tiles, scan each tile's tokens in order of time, put the grid together again.

    A tile of (b_h, b_w) tokens gives a sequence of T * b_h * b_w: all its tokens of frame t, then those of t + 1. The
    same place in neighbouring frames lies b_h * b_w tokens apart instead of H * W, and each tile owns a state.
    """

    def __init__(self, config: WorldModelConfig, tile: tuple[int, int]) -> None:
        super().__init__()
        self.tile, self.grid = tile, config.grid
        self.choice: ScanChoice = "auto"  # set by Backbone.use
        self.tiles = (config.grid[0] // tile[0]) * (config.grid[1] // tile[1])
        self.inner = config.expand * config.dim
        self.head_dim, self.heads = config.head_dim, self.inner // config.head_dim
        self.mixer, self.chunk = config.mixer, config.chunk
        self.state_size, self.state_rows, self.conv_width = config.state_size, config.state_rows, config.conv
        self.channels = self.inner + 2 * config.state_size  # what the convolution sees: x, B and C

        self.quadratic = Quadratic(config.state_size) if config.mixer.feature_map == "quadratic" else None
        gate = self.inner if config.mixer.gate else 0
        self.blocks = (gate, self.inner, config.state_size, config.state_size, self.heads)
        """Rows of the projection that are for the gate, x, B, C and dt."""
        self.project_in = nn.Linear(config.dim, sum(self.blocks), bias=False)
        self.project_out = nn.Linear(self.inner, config.dim, bias=False)
        self.norm = nn.RMSNorm(self.inner, eps=1e-5)
        self.conv_weight = nn.Parameter(torch.empty(self.channels, 1, config.conv))
        self.conv_bias = nn.Parameter(torch.zeros(self.channels))
        self.dt_bias = nn.Parameter(torch.empty(self.heads))
        self.log_A = nn.Parameter(torch.empty(self.heads))
        self.D = nn.Parameter(torch.full((self.heads,), float(config.mixer.skip)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A beginning from which memory is learned soon; Mamba-2's own, made for language, was measured far slower.

        The convolution begins near the identity. In a 1x1 tile it reaches over frames: a random one makes the key of a
        frame from the frames before it too, so that the same place, reached by another way, finds nothing. Steps dt
        are log-uniform in [0.1, 1] (Mamba-2: 0.001 to 0.1), so what is written is no weaker than what passes by. The
        heads' memories fade over frames, evenly in the logarithm (Mamba-2: over 1 to 1,000 tokens, most few).
        """
        mixer = self.mixer
        nn.init.uniform_(self.conv_weight, -0.1, 0.1)
        dt = torch.exp(torch.empty(self.heads).uniform_(math.log(0.1), math.log(1.0)))
        frames = torch.exp(torch.linspace(math.log(mixer.shortest), math.log(mixer.longest), self.heads))
        with torch.no_grad():
            self.conv_weight[..., -1] += 1
            self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))
            self.log_A.copy_(-torch.log(dt * frames * self.tile[0] * self.tile[1]))
            if mixer.shared_init:
                _, _, keys, queries, _ = self.project_in.weight.split(self.blocks)
                queries.copy_(keys)
                self.conv_weight[-self.state_size :] = self.conv_weight[-2 * self.state_size : -self.state_size]

    def empty(self, rows: int, like: Tensor) -> ScanMemory:
        """Memory of `rows` dreams that have seen nothing; zeros, on the device and in the dtype of `like`."""
        return ScanMemory(
            like.new_zeros(rows, self.tiles, self.conv_width - 1, self.channels),
            like.new_zeros(rows, self.tiles, self.state_rows, self.heads, self.head_dim),
        )

    def forward(
        self,
        x: Tensor,
        memory: ScanMemory,
        *,
        advance: bool = True,
        in_place: bool = False,
        teacher_forcing: bool = False,
    ) -> Mixed:
        """Continue every tile's scan over x (B, T, S, D).

        `advance=False` looks ahead: same outputs, the memory unchanged. `in_place` writes the new memory over the old
        one, where gradients are off. `teacher_forcing`: x has every frame noised and clean (`layers.teacher_forcing`).
        """
        b, frames, tokens, _ = x.shape
        piece = self.chunk * self.tile[0] * self.tile[1]  # tokens of a chunk of frames in a tile
        gate, mixed, dt = self.project_in(self.to_tiles(x)).split([self.blocks[0], self.channels, self.heads], -1)
        past, weight = memory.conv.flatten(0, 1), self.conv_weight[:, 0]
        if teacher_forcing:
            mixed = deinterleaved(mixed, piece)
            convolved = interleaved(*convolve_copies(past, mixed, weight, self.conv_bias, piece), piece)
            mixed = mixed.clean
        else:
            convolved = convolve(past, mixed, weight, self.conv_bias)
        values, B, C = self.parts(convolved)
        dt, A, state = functional.softplus(dt + self.dt_bias), -self.log_A.exp(), memory.state.flatten(0, 1)
        # Without D: that term is the token itself passing by, the rest is what came out of the state.
        if teacher_forcing:
            answers, state = scan_copies(values, dt, A, B, C, state, piece=piece, advance=advance, choice=self.choice)
        else:
            answers, state = scan(
                values, dt, A, B, C, None, state, advance=advance, in_place=in_place, choice=self.choice
            )
        recall = answers.reshape(b, self.tiles, frames, -1, self.inner)
        recall = (recall.mean(3) if recall.shape[3] > 1 else recall[:, :, :, 0]).transpose(1, 2)
        y = torch.addcmul(answers, self.D[:, None], values).flatten(2)
        if self.mixer.gate:
            normed = gated_rms_norm(y, gate, self.norm.weight, 1e-5)
        else:
            normed = rms_norm(y, self.norm.weight, 1e-5)
        if advance:
            width = past.shape[1]
            # A copy: a view would keep the inputs of all frames alive for as long as the memory.
            tail = torch.cat([past[:, mixed.shape[1] :], mixed[:, -width:]], 1)
            memory = ScanMemory(tail.unflatten(0, (b, self.tiles)), state.unflatten(0, (b, self.tiles)))
        return Mixed(self.from_tiles(self.project_out(normed), frames, tokens), recall, memory)

    def parts(self, convolved: Tensor) -> Parts:
        """What the scan is given of tokens (b, l, channels) that went through the convolution."""
        values, bc = convolved.split([self.inner, 2 * self.state_size], -1)
        B, C = functional.silu(bc).chunk(2, -1)
        if self.quadratic is not None:
            B, C = self.quadratic(B), self.quadratic(C)
        if self.mixer.value_silu:
            values = functional.silu(values)
        return Parts(values.unflatten(-1, (self.heads, self.head_dim)), B, C)

    def to_tiles(self, x: Tensor) -> Tensor:
        """(B, T, S, D) -> (B * N, T * b_h * b_w, D)."""
        (rows, columns), (bh, bw) = self.grid, self.tile
        b, frames, _, d = x.shape
        x = x.view(b, frames, rows // bh, bh, columns // bw, bw, d)
        return x.permute(0, 2, 4, 1, 3, 5, 6).reshape(b * self.tiles, frames * bh * bw, d)

    def from_tiles(self, x: Tensor, frames: int, tokens: int) -> Tensor:
        """Inverse of `to_tiles`."""
        (rows, columns), (bh, bw) = self.grid, self.tile
        x = x.view(-1, rows // bh, columns // bw, frames, bh, bw, x.shape[-1])
        return x.permute(0, 3, 1, 4, 2, 5, 6).reshape(x.shape[0], frames, tokens, x.shape[-1])


class Quadratic(nn.Module):
    """All products of two of n entries, (..., n) -> (..., n (n + 1) / 2), so that the inner product of two of these is
    the square of that of the entries, over the root of n.

    By products with constant matrices, whose gradients are products again: gathering took four times as long.
    """

    first: Tensor
    second: Tensor

    def __init__(self, n: int) -> None:
        super().__init__()
        rows, columns = torch.triu_indices(n, n)
        weight = torch.where(rows == columns, 1.0, math.sqrt(2)) / n**0.25
        self.register_buffer("first", torch.eye(n)[:, rows], persistent=False)
        self.register_buffer("second", torch.eye(n)[:, columns] * weight, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., n) -> (..., n (n + 1) / 2)."""
        return (x @ self.first) * (x @ self.second)
