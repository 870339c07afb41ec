"""Frame-local attention: a token of frame i sees all tokens of the frames around it (paper, section 3.1)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldmodel.config import WorldModelConfig
from worldmodel.errors import InputError
from worldmodel.runtime import AttentionChoice, Runtime, choose_attention
from worldmodel.windows import Window, attend_flex, attend_sdpa


class WindowMemory(NamedTuple):
    """Keys (already rotated) and values of the last k frames, oldest first, rows first.

    A row that has seen fewer frames has zeros in front.
    """

    keys: Tensor  # (B, k, S, heads, head size)
    values: Tensor  # (B, k, S, heads, head size)


class HistoryMemory(NamedTuple):
    """As `WindowMemory`, of all F frames that the longest row has seen: it grows by one with every frame."""

    keys: Tensor  # (B, F, S, heads, head size)
    values: Tensor  # (B, F, S, heads, head size)


class FrameLocalAttention(nn.Module):
    """Attention in a window of frames: sliding, in chunks, or over everything before; see `worldmodel.windows`."""

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        self.window, self.chunk, self.grid, self.heads = config.window, config.chunk, config.grid, config.heads
        self.head_size = config.dim // config.heads
        self.rule = Window(config.window, config.chunk)
        self.choice: AttentionChoice = "auto"
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.out = nn.Linear(config.dim, config.dim, bias=False)

    def use(self, runtime: Runtime) -> None:
        """Take the implementation and the window from `runtime`.

        Raises InputError for a window that is no whole chunks or wider than the one of training.
        """
        window = self.window if runtime.window is None else runtime.window
        if window is not None and (window % self.chunk or (self.window is not None and window > self.window)):
            raise InputError(
                f"window={window}: this model was trained with window={self.window}, chunk={self.chunk}; give at most "
                "as many frames, in whole chunks"
            )
        self.choice, self.rule = runtime.attention, Window(window, self.chunk)

    def empty(self, rows: int, like: Tensor) -> WindowMemory | HistoryMemory:
        """Memory of `rows` dreams that have seen nothing."""
        shape = (rows, self.window or 0, self.grid[0] * self.grid[1], self.heads, self.head_size)
        kind = HistoryMemory if self.window is None else WindowMemory
        return kind(like.new_zeros(shape), like.new_zeros(shape))

    def forward(
        self, x: Tensor, memory: WindowMemory | HistoryMemory, seen: Tensor, *, advance: bool = True
    ) -> tuple[Tensor, WindowMemory | HistoryMemory]:
        """Attend from x (B, T, S, D) to itself and the window before it; `seen` (B,) counts the frames before x.

        `advance=False` looks ahead: same outputs, the memory unchanged. A memory may come without slots in which no
        row has a frame. Both T (InputError) and `seen` must be whole chunks.
        """
        b, frames, tokens, d = x.shape
        check_chunks(frames, self.chunk)
        q, key, value = self.qkv(x).view(b, frames, tokens, 3, self.heads, self.head_size).unbind(3)
        angles = rotary_angles(seen, frames, self.grid, self.head_size, x.dtype)  # (B, T, S, head size / 2)
        q, key = rotate(q, angles), rotate(key, angles)

        keys, values = torch.cat([memory.keys, key], 1), torch.cat([memory.values, value], 1)
        if advance:
            memory = type(memory)(*(self.remembered(v) for v in (keys, values)))

        past, window = keys.shape[1] - frames, self.rule.window
        if window is not None and past > window:
            keys, values = keys[:, past - window :], values[:, past - window :]
        kind = choose_attention(self.choice, x.device.type, value.dtype, self.head_size)
        attend = attend_flex if kind == "flex" and frames > self.chunk else attend_sdpa
        # Under autocast the projection has 16 bits; what was rotated or remembered has 32.
        q, keys, values = (v.to(value.dtype) for v in (q, keys, values))
        out = attend(q, keys, values, seen, self.rule)
        return self.out(out.reshape(b, frames, tokens, d)), memory

    def remembered(self, frames: Tensor) -> Tensor:
        """The frames to keep, a copy: a view would keep all of them alive for as long as the memory."""
        return frames if self.window is None else functional.pad(frames, (0,) * 6 + (self.window - frames.shape[1], 0))


def check_chunks(frames: int, chunk: int) -> None:
    """Raise InputError unless `frames` are whole chunks."""
    if frames % chunk:
        raise InputError(f"{frames} frames for a model of chunk={chunk}: frames must come in whole chunks")


def rotary_angles(seen: Tensor, frames: int, grid: tuple[int, int], head_size: int, dtype: torch.dtype) -> Tensor:
    """Rotary angles (B, T, S, head_size / 2): half of them turn with time, a quarter each with row and column.

    Time is the count of frames since the dream's memory began. Angles are reduced modulo 2 pi in float64, so that they
    stay exact after any number of frames.
    """
    device = seen.device
    time = (seen[:, None] + torch.arange(frames, device=device)).double()[:, :, None, None]  # (B, T, 1, 1)
    rows, columns = (torch.arange(n, device=device).double() for n in grid)
    row, column = (v.reshape(1, 1, -1, 1) for v in torch.meshgrid(rows, columns, indexing="ij"))

    def turn(position: Tensor, pairs: int) -> Tensor:
        frequencies = 100.0 ** (-torch.arange(pairs, device=device).double() / pairs)
        return position * frequencies

    half, quarter = head_size // 4, head_size // 8
    parts = (turn(time, half), turn(row, quarter), turn(column, quarter))
    shape = (time.shape[0], frames, grid[0] * grid[1])
    angles = torch.cat([part.expand(*shape, part.shape[-1]) for part in parts], -1)
    return torch.remainder(angles, 2 * torch.pi).to(dtype)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate pairs of channels of x (B, T, S, heads, head size) by angles (B, T, S, head size / 2)."""
    cos, sin = angles.cos()[..., None, :], angles.sin()[..., None, :]
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
