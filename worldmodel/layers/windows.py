"""Which frames a frame attends to, and two layouts that compute it: one rule, equal results.

Frames come in chunks of `chunk` frames. A frame sees its own chunk and the `window` frames, whole chunks, before it;
with window None all frames before it. With chunk = 1 that is the sliding causal window, with chunk = window = 5 the one
of the paper.

Keys and values lie in slots: `past` slots of frames remembered, then one per new frame. A row of the batch that has
seen fewer than `past` frames has nothing in its first slots. `past` and the new frames are whole chunks: none lies
astride.

Shapes: queries (B, T, S, h, d), keys and values (B, past + T, S, h, d), `seen` (B,) frames before the new ones; outputs
like queries.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.layers.runtime import allow_shapes

BLOCK = 128
"""Queries that are computed together: about the fastest on CPU for windows of 4 to 48 frames (measured); half as many
for windows of at most half as many tokens.

Over 192 frames of 16 tokens that is 2 to 13 times faster than one dense mask (`benchmarks/kernels.py`). Copying the
window for every frame is a little faster for 4 frames, and 4 times slower for 48. On CUDA the side of the blocks that
FlexAttention skips.
"""

FLEX_QUERIES = 8 * BLOCK
"""Fewer queries than these are not worth FlexAttention, which is compiled for a minute and anew for many shapes."""


class Window(NamedTuple):
    """The rule: frames seen before the own chunk (None: all of them), and frames per chunk."""

    window: int | None
    chunk: int


class Interval(NamedTuple):
    """Slots that the new frames see, first and end (exclusive), each (T,) int64; neither ever falls."""

    first: Tensor
    end: Tensor


def visible(rule: Window, past: int, frames: int, device: torch.device) -> Interval:
    """The rule as intervals of slots. Whether a row has a frame in a slot is another matter: see `missing`."""
    own = (past + torch.arange(frames, device=device)) // rule.chunk * rule.chunk  # first slot of the own chunk
    first = torch.zeros_like(own) if rule.window is None else (own - rule.window).clamp(min=0)
    return Interval(first, own + rule.chunk)


def missing(seen: Tensor, past: int) -> Tensor:
    """How many of the first slots hold no frame, by row, (B,)."""
    return (past - seen).clamp(min=0)


class KeyValues(NamedTuple):
    """Keys and values (B, T, S, h, d) of the queries' own frames, where these are not what others see of them."""

    keys: Tensor
    values: Tensor


def attend_sdpa(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    seen: Tensor | None,
    rule: Window,
    *,
    own: KeyValues | None = None,
    block: int | None = None,
) -> Tensor:
    """Blocks of `block` frames (whole chunks; None: about BLOCK tokens), each against the slots that any of it sees.

    Linear in T for a given window. A single chunk takes one call under no mask but that of missing frames. With `seen`
    None no row lacks a frame in any slot. With `own` a frame sees its own chunk there, and in `keys` and `values` only
    what lies before it.
    """
    _, frames, tokens, _, _ = q.shape
    past = keys.shape[1] - frames
    absent = None if seen is None or not past else missing(seen, past)
    queries, keys, values = (v.flatten(1, 2).transpose(1, 2) for v in (q, keys, values))  # (B, h, tokens, d)
    own = None if own is None else KeyValues(*(v.flatten(1, 2).transpose(1, 2) for v in own))
    short = rule.window is not None and 2 * rule.window * tokens <= BLOCK
    block = block or max(1, BLOCK // (1 + short) // (tokens * rule.chunk)) * rule.chunk
    if frames <= block:
        low = 0 if rule.window is None else max(0, past - rule.window)
        near, values_near = (v[:, :, low * tokens :] for v in (keys, values))
        mask = _mask(rule, past - low, frames, tokens, low, absent, own is not None, q.device)
        if own is not None:
            near, values_near = (torch.cat([v, w], 2) for v, w in zip((near, values_near), own, strict=True))
        out = functional.scaled_dot_product_attention(queries, near, values_near, attn_mask=mask)
        return out.transpose(1, 2).reshape(q.shape)

    # Split, not sliced: the backward pass of slices is quadratic in their number. One piece of slots per block.
    starts = [*([0] if past else []), *range(past, past + frames, block)]
    sizes = [end - begin for begin, end in zip(starts, [*starts[1:], past + frames], strict=True)]
    pieces = [v.split([size * tokens for size in sizes], 2) for v in (keys, values)]
    owns = None if own is None else [v.split(block * tokens, 2) for v in own]
    outputs = []
    for number, part in enumerate(queries.split(block * tokens, 2)):
        begin = number * block
        end = min(begin + block, frames)
        low = 0 if rule.window is None else max(0, past + begin - rule.window)
        first_piece, last_piece = sum(start <= low for start in starts) - 1, number + (past > 0)
        skip = (low - starts[first_piece]) * tokens
        near, values_near = (torch.cat(piece[first_piece : last_piece + 1], 2)[:, :, skip:] for piece in pieces)
        mask = _mask(rule, past + begin - low, end - begin, tokens, low, absent, owns is not None, q.device)
        if owns is not None:
            near, values_near = (torch.cat([v, w[number]], 2) for v, w in zip((near, values_near), owns, strict=True))
        outputs.append(functional.scaled_dot_product_attention(part, near, values_near, attn_mask=mask))
    return torch.cat(outputs, 2).transpose(1, 2).reshape(q.shape)


def _mask(
    rule: Window, past: int, frames: int, tokens: int, low: int, absent: Tensor | None, own: bool, device: torch.device
) -> Tensor | None:
    """What `frames` frames see of `past` slots before them and of their own: bool (B or 1, 1, queries or 1, keys), or
    None where it is all. The first of these slots has number `low`; of all slots the first `absent` (B,) are empty.
    With `own` as many slots follow once more, and those are where a frame sees its chunk.
    """
    mask = _inside(rule, past, frames, tokens, own, device) if own or frames > rule.chunk else None
    if absent is None:
        return mask
    there = torch.arange(low, low + past + frames * (1 + own), device=device) >= absent[:, None]  # (B, slots)
    there = there.repeat_interleave(tokens, 1)[:, None, None]
    return there if mask is None else there & mask


@functools.lru_cache(maxsize=64)
def _inside(rule: Window, past: int, frames: int, tokens: int, own: bool, device: torch.device) -> Tensor:
    """The rule by tokens, (1, 1, queries, keys), and by those of their own behind them."""
    first, end = (v[:, None] for v in visible(rule, past, frames, device))
    slots = torch.arange(past + frames, device=device)
    inside = (slots >= first) & (slots < end)
    if own:
        chunk = slots >= end - rule.chunk
        inside = torch.cat([inside & ~chunk, (inside & chunk)[:, past:]], 1)
    return inside.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)[None, None]


def attend_flex(
    q: Tensor, keys: Tensor, values: Tensor, seen: Tensor, rule: Window, *, own: KeyValues | None = None
) -> Tensor:
    """FlexAttention, which skips the blocks that the rule leaves empty; compiled on CUDA. `own` as in `attend_sdpa`.

    One mask says all, without a modification of scores beside it: public reports have wrong gradients where both come
    together at lengths that the blocks do not divide (pytorch issues 153799, 158212).

    On CPU it serves for comparison: it is not compiled, and it has no backward pass (InputError).
    """
    if q.device.type == "cpu" and torch.is_grad_enabled() and (q.requires_grad or keys.requires_grad):
        raise InputError("attention='flex' has no backward pass on CPU; choose attention='auto' or 'sdpa'")
    _, frames, tokens, _, _ = q.shape
    past = keys.shape[1] - frames
    attend = compiled_flex() if q.device.type == "cuda" else _eager_flex
    if own is not None:
        keys, values = (torch.cat([v, w], 1) for v, w in zip((keys, values), own, strict=True))
    queries, keys, values = (v.flatten(1, 2).transpose(1, 2) for v in (q, keys, values))
    mask = block_mask(rule, past, frames, tokens, q.device, own is not None)
    if past:
        mask = without(mask, missing(seen, past) * tokens)
    return attend(queries, keys, values, block_mask=mask).transpose(1, 2).reshape(q.shape)


def without(mask: BlockMask, absent: Tensor) -> BlockMask:
    """The mask of `block_mask` without the first `absent` (B,) keys of every row."""
    inside = mask.mask_mod

    def there(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return inside(b, h, query, key) & (key >= absent[b])

    own = copy.copy(mask)  # the lists of blocks are the same
    own.mask_mod = there
    return own


def _eager_flex(q: Tensor, keys: Tensor, values: Tensor, **how: Any) -> Tensor:
    return flex_attention(q, keys, values, **how)  # type: ignore[no-any-return, unused-ignore]


@functools.cache
def compiled_flex() -> Callable[..., Tensor]:
    """FlexAttention as one fused kernel."""
    allow_shapes()
    return torch.compile(flex_attention)


@functools.lru_cache(maxsize=64)
def block_mask(rule: Window, past: int, frames: int, tokens: int, device: torch.device, own: bool = False) -> BlockMask:
    """The rule by blocks of BLOCK queries and keys: empty ones are skipped, full ones need no mask. None that begins in
    the past counts as full, since rows may lack frames there. With `own` as many slots as frames follow once more, and
    those are where a frame sees its chunk.

    Written down from the intervals rather than by `create_block_mask`, which looks at every pair of tokens.
    """
    begin, end = visible(rule, past, frames, device)
    before = end - rule.chunk if own else end  # where what others see of a frame's chunk begins
    low, high = ((v * tokens).repeat_interleave(tokens) for v in (begin, before))
    # A second interval, empty without `own`.
    mine, mine_end = (((frames + v) * tokens).repeat_interleave(tokens) for v in (before, end))
    queries, keys = frames * tokens, (past + frames * (1 + own)) * tokens
    first = torch.arange(0, queries, BLOCK, device=device)[:, None]  # of each block of queries
    last = (first + BLOCK - 1).clamp(max=queries - 1)
    starts = torch.arange(0, keys, BLOCK, device=device)
    touched, full = torch.zeros(2, len(first), len(starts), dtype=torch.bool, device=device)
    for left, right in ((low, high), (mine, mine_end)):
        touched |= (starts + BLOCK > left[first]) & (starts < right[last]) & (left[last] < right[last])
        full |= (starts >= left[last]) & (starts + BLOCK <= right[first])
    full &= (first + BLOCK <= queries) & (starts >= past * tokens)

    def inside(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key >= low[query]) & (key < high[query])

    def inside_or_own(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return inside(b, h, query, key) | ((key >= mine[query]) & (key < mine_end[query]))

    partial_number, partial_indices = _ordered(touched & ~full)
    return BlockMask.from_kv_blocks(
        partial_number,
        partial_indices,
        *_ordered(full),
        BLOCK_SIZE=BLOCK,
        mask_mod=inside_or_own if own else inside,
        seq_lengths=(queries, keys),
    )


def _ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Number of True entries by row, and their indices before those of the others; with leading axes of one."""
    indices = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32)[None, None], indices.int()[None, None]
