"""Window attention with its ring against dense masked attention, written down anew here."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from worlds import assert_close, assert_same, generator, randomised, small_config

from worldmodel.attention import FrameLocalAttention, WindowMemory

CONFIG = small_config()
FRAMES = 9
WINDOWS = [1, 2, 4, 12]  # the last one is longer than the clip


def attention(window: int, head_size: int = 16) -> FrameLocalAttention:
    config = replace(CONFIG, window=window, heads=CONFIG.dim // head_size)
    return randomised(lambda: FrameLocalAttention(config), 0)


def tokens(frames: int = FRAMES, rows: int = 2) -> Tensor:
    """Scaled up, so that attention is far from uniform."""
    return 2 * torch.randn(rows, frames, CONFIG.tokens, CONFIG.dim, generator=generator(1), dtype=torch.float64)


def dense(module: FrameLocalAttention, x: Tensor) -> Tensor:
    """All tokens against all tokens of all frames, masked; positions enter as differences only.

    Channel c and channel c + head size / 2 are the parts of one complex number, which turns with the difference in time
    (first half), in rows and in columns (a quarter each) at frequencies 100 ** (-i / number of pairs).
    """
    b, frames, count, d = x.shape
    size, half = module.head_size, module.head_size // 2
    columns = module.grid[1]
    place = torch.arange(frames * count)
    time, row, column = place // count, place % count // columns, place % columns
    turns = []
    for position, pairs in ((time, half // 2), (row, half // 4), (column, half // 4)):
        difference = (position[:, None] - position[None, :]).double()
        turns += [difference * 100 ** (-i / pairs) for i in range(pairs)]
    turn = torch.exp(1j * torch.stack(turns, -1))  # (query, key, pairs)

    q, k, v = (x.reshape(b, frames * count, d) @ part.T for part in module.qkv.weight.chunk(3))
    seen = (time[:, None] >= time[None, :]) & (time[:, None] - time[None, :] <= module.window)
    heads = []
    for h in range(module.heads):
        part = slice(h * size, (h + 1) * size)
        cq, ck = (torch.complex(w[..., part][..., :half], w[..., part][..., half:]) for w in (q, k))
        scores = torch.einsum("bqc,bkc,qkc->bqk", cq, ck.conj(), turn).real / math.sqrt(size)
        weights = scores.masked_fill(~seen, -math.inf).softmax(-1)
        heads.append(weights @ v[..., part])
    return (torch.cat(heads, -1) @ module.out.weight.T).view(b, frames, count, d)


@torch.no_grad()
def in_segments(
    module: FrameLocalAttention, x: Tensor, cuts: list[int], since: int = 0
) -> tuple[Tensor, WindowMemory, Tensor]:
    """Outputs, ring and count of frames after x in segments, counting frames from `since`."""
    memory, seen, outputs = module.empty(len(x), x), torch.full((len(x),), since), []
    for begin, end in pairwise([0, *cuts, x.shape[1]]):
        y, memory = module(x[:, begin:end], memory, seen)
        seen = seen + end - begin
        outputs.append(y)
    return torch.cat(outputs, 1), memory, seen


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("cuts", [[], [3], [1, 2, 7], list(range(1, FRAMES))], ids=["whole", "two", "four", "frames"])
def test_ring_equals_dense(window: int, cuts: list[int]) -> None:
    module, x = attention(window), tokens()
    assert_close(in_segments(module, x, cuts)[0], dense(module, x))


def test_smallest_head_and_gradients() -> None:
    """Heads of 8 channels have one pair each for rows and columns."""
    module, x = attention(2, head_size=8), tokens().requires_grad_()
    weight = torch.randn(x.shape, generator=generator(2), dtype=torch.float64)
    wanted = (x, module.qkv.weight, module.out.weight)
    y, _ = module(x, module.empty(len(x), x.detach()), torch.zeros(len(x), dtype=torch.int64))
    for ours, theirs in zip(
        torch.autograd.grad((y * weight).sum(), wanted),
        torch.autograd.grad((dense(module, x) * weight).sum(), wanted),
        strict=True,
    ):
        assert_close(ours, theirs)


@pytest.mark.parametrize("window", [2, 4])
def test_rows_that_have_seen_different_numbers_of_frames(window: int) -> None:
    """Rows 0 to 5 have seen 0 to 5 frames; the next three come to all of them at once."""
    module, x = attention(window), tokens(rows=6)
    past = [in_segments(module, x[row : row + 1, :row], [])[1] if row else None for row in range(6)]
    past = [module.empty(1, x) if memory is None else memory for memory in past]
    memory = WindowMemory(*(torch.cat(parts) for parts in zip(*past, strict=True)))
    now = torch.stack([x[row, row : row + 3] for row in range(6)])
    with torch.no_grad():
        y, after = module(now, memory, torch.arange(6))
    for row in range(6):
        assert_close(y[row], dense(module, x[row : row + 1, : row + 3])[0, row:])
        expected = in_segments(module, x[row : row + 1, : row + 3], [])[1]
        assert_close(after.keys[row, -min(window, row + 3) :], expected.keys[0, -min(window, row + 3) :])


@pytest.mark.parametrize("window", [1, 4])
@pytest.mark.parametrize("since", [1, 37, 10_000, 1_000_000])
def test_only_differences_of_time_count(window: int, since: int) -> None:
    """Once the ring is full, nothing tells how many frames came before."""
    module, x = attention(window), tokens()
    y, memory, _ = in_segments(module, x, [5, 6], since)
    early, early_memory, _ = in_segments(module, x, [5, 6])
    assert_close(y[:, window:], early[:, window:])
    assert_close(memory.values, early_memory.values)
    assert (memory.keys - early_memory.keys).abs().max() > 1e-2  # they did turn further


def test_time_differences_do_count() -> None:
    """The same two frames, seen in the other order, give other outputs: positions are not ignored."""
    module, x = attention(4), tokens(3)
    swapped = x[:, [1, 0, 2]]
    assert (dense(module, x)[:, 2] - dense(module, swapped)[:, 2]).abs().max() > 1e-2
    assert (in_segments(module, x, [])[0][:, 2] - in_segments(module, swapped, [])[0][:, 2]).abs().max() > 1e-2


@pytest.mark.parametrize("window", [1, 3])
def test_a_frame_reaches_itself_and_the_window_after_it(window: int) -> None:
    module, x = attention(window), tokens()
    y = in_segments(module, x, [])[0]
    row, time, token = 1, 2, 3
    changed_x = x.clone()
    changed_x[row, time, token] += 1
    changed_y = in_segments(module, changed_x, [])[0]
    changed = (changed_y - y).abs().amax(-1) > 1e-9
    same = (changed_y == y).all(-1)
    reached = slice(time, time + window + 1)
    assert bool(changed[row, reached].all())  # all tokens of these frames, those before it in its own frame too
    same[row, reached] = True
    assert bool(same.all())


@pytest.mark.parametrize("frames", [1, 3, 6])
def test_look_ahead_changes_no_memory(frames: int) -> None:
    module, x = attention(4), tokens()
    _, memory, seen = in_segments(module, x[:, :3], [])
    before = WindowMemory(*(v.clone() for v in memory))
    ahead, after = module(x[:, 3 : 3 + frames], memory, seen, advance=False)
    assert_same(ahead, module(x[:, 3 : 3 + frames], memory, seen)[0])
    assert after is memory
    assert_same(memory, before)


def test_the_ring_holds_the_last_frames_oldest_first() -> None:
    module, x = attention(3), tokens()
    memory = in_segments(module, x, [4])[1]
    values = (x[:, -3:] @ module.qkv.weight[-CONFIG.dim :].T).unflatten(-1, (module.heads, module.head_size))
    assert memory.keys.shape == memory.values.shape == (2, 3, CONFIG.tokens, 2, 16)
    assert_close(memory.values, values)


def test_what_an_empty_ring_holds_is_not_looked_at() -> None:
    module, x = attention(3), tokens(5)
    seen = torch.tensor([0, 1])
    dirty = WindowMemory(*(torch.randn(v.shape, dtype=v.dtype, generator=generator(3)) for v in module.empty(2, x)))
    clean = WindowMemory(*(v.clone() for v in dirty))
    for v in clean:
        v[0], v[1, :2] = 7.0, -7.0  # all slots of row 0, all but the last of row 1
    assert_same(module(x, dirty, seen)[0], module(x, clean, seen)[0])
