"""Frame-local attention: a token of frame i sees all tokens of the frames around it (paper, section 3.1)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.layers.fused import rotate
from lssvwm.worldmodel.layers.runtime import AttentionChoice, Runtime, choose_attention
from lssvwm.worldmodel.layers.teacher_forcing import deinterleaved, interleaved
from lssvwm.worldmodel.layers.windows import FLEX_QUERIES, KeyValues, Window, attend_flex, attend_sdpa


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
    """Attention in a window of frames: sliding, in chunks, or over everything before; see `layers.windows`."""

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
        self,
        x: Tensor,
        memory: WindowMemory | HistoryMemory,
        seen: Tensor,
        *,
        rotary: Rotary | None = None,
        slots_full: bool = False,
        advance: bool = True,
        teacher_forcing: bool = False,
    ) -> tuple[Tensor, WindowMemory | HistoryMemory]:
        """Attend from x (B, T, S, D) to itself and the window before it; `seen` (B,) counts the frames before x.

        `rotary` is what `rotary_embedding(seen, ...)` gives, where it is known already; `slots_full` tells that no row
        lacks a frame in any slot. `advance=False` looks ahead: same outputs, the memory unchanged. A memory may come
        without slots in which no row has a frame. Both T (InputError) and `seen` must be whole chunks.
        `teacher_forcing`: x has every frame noised and clean (`layers.teacher_forcing`), and so has `rotary`.
        """
        b, frames, tokens, _ = x.shape
        check_chunks(frames, self.chunk)
        if rotary is None:
            rotary = rotary_embedding(seen, frames, self.grid, self.head_size, x.dtype)
        mixed = self.qkv(x).view(b, frames, tokens, 3, self.heads, self.head_size)
        turning, value = mixed.split([2, 1], 3)
        q, key = rotate(turning, rotary.cos, rotary.sin).unbind(3)
        value = value.squeeze(3)

        noised: tuple[Tensor, KeyValues] | None = None
        if teacher_forcing:
            (q_noised, q), (key_noised, key), (value_noised, value) = (
                deinterleaved(v, self.chunk) for v in (q, key, value)
            )
            noised = q_noised.to(value.dtype), KeyValues(key_noised.to(value.dtype), value_noised)

        past, window = memory.keys.shape[1], self.rule.window
        keys, values = torch.cat([memory.keys, key], 1), torch.cat([memory.values, value], 1)
        if advance:
            memory = type(memory)(*(self.remembered(v) for v in (keys, values)))
        if window is not None and past > window:
            keys, values = keys[:, past - window :], values[:, past - window :]
        kind = choose_attention(self.choice, x.device.type, value.dtype, self.head_size)
        # Under autocast the projection has 16 bits; what was rotated or remembered has 32.
        q, keys, values = (v.to(value.dtype) for v in (q, keys, values))
        counts = None if slots_full else seen
        count = q.shape[1]  # of each copy
        flex = kind == "flex" and count > self.chunk
        flex &= count * tokens >= FLEX_QUERIES or self.choice == "flex"

        def attend(queries: Tensor, own: KeyValues | None = None) -> Tensor:
            if flex:
                return attend_flex(queries, keys, values, seen, self.rule, own=own)
            return attend_sdpa(queries, keys, values, counts, self.rule, own=own)

        out = attend(q)
        if noised is not None:
            out = interleaved(attend(*noised), out, self.chunk)
        return self.out(out.reshape(x.shape)), memory

    def remembered(self, frames: Tensor) -> Tensor:
        """The frames to keep, a copy: a view would keep all of them alive for as long as the memory."""
        return frames if self.window is None else functional.pad(frames, (0,) * 6 + (self.window - frames.shape[1], 0))


def check_chunks(frames: int, chunk: int) -> None:
    """Raise InputError unless `frames` are whole chunks."""
    if frames % chunk:
        raise InputError(f"{frames} frames for a model of chunk={chunk}: frames must come in whole chunks")


class Rotary(NamedTuple):
    """A rotary position embedding (Su et al. 2021), for queries and keys of all heads.

    Cosines and sines of its angles, (B, T, S, 1, 1, head size / 2).
    """

    cos: Tensor
    sin: Tensor


def rotary_embedding(seen: Tensor, frames: int, grid: tuple[int, int], head_size: int, dtype: torch.dtype) -> Rotary:
    """How queries and keys turn: half of their pairs with time, a quarter each with row and column.

    Time is the count of frames since the dream's memory began. Angles are reduced modulo 2 pi in float64, so that they
    stay exact after any number of frames.
    """
    device, half = seen.device, head_size // 4
    time = (seen[:, None] + torch.arange(frames, device=device)).double()  # (B, T)
    angles = torch.remainder(time[..., None] * frequencies(half, device), 2 * torch.pi).to(dtype)
    place = place_angles(grid, head_size, device).to(dtype)  # (S, head size / 4)
    lead = (*time.shape, len(place))

    def joined(function: Callable[[Tensor], Tensor]) -> Tensor:
        parts = (function(angles)[:, :, None].expand(*lead, half), function(place).expand(*lead, place.shape[-1]))
        return torch.cat(parts, -1)[:, :, :, None, None]

    return Rotary(joined(torch.cos), joined(torch.sin))


@functools.lru_cache(maxsize=64)
def place_angles(grid: tuple[int, int], head_size: int, device: torch.device) -> Tensor:
    """Angles (S, head size / 4) of a frame's tokens by row and by column, a quarter of the pairs each."""
    rows, columns = (torch.arange(n, device=device).double() for n in grid)
    places = (v.reshape(-1, 1) for v in torch.meshgrid(rows, columns, indexing="ij"))
    turns = frequencies(head_size // 8, device)
    return torch.remainder(torch.cat([place * turns for place in places], -1), 2 * torch.pi)


def frequencies(pairs: int, device: torch.device) -> Tensor:
    """Angles per step, (pairs,) float64, from 1 down to almost a hundredth."""
    powers: Tensor = 100.0 ** (-torch.arange(pairs, device=device).double() / pairs)
    return powers
