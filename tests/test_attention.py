"""Window attention with its memory against dense masked attention, written down anew here."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.layers.attention import FrameLocalAttention, HistoryMemory, WindowMemory
from lssvwm.worldmodel.layers.runtime import Runtime
from worlds import assert_close, assert_same, generator, randomised, small_config

CONFIG = small_config()
FRAMES = 9
WINDOWS = [1, 2, 4, 12, None]  # the last but one is longer than the clip


def attention(window: int | None, head_size: int = 16, chunk: int = 1) -> FrameLocalAttention:
    config = replace(CONFIG, window=window, heads=CONFIG.dim // head_size, chunk=chunk)
    return randomised(lambda: FrameLocalAttention(config), 0)


def tokens(frames: int = FRAMES, rows: int = 2) -> Tensor:
    """Scaled up, so that attention is far from uniform."""
    return 2 * torch.randn(rows, frames, CONFIG.tokens, CONFIG.dim, generator=generator(1), dtype=torch.float64)


def dense(module: FrameLocalAttention, x: Tensor, window: int | None = -1) -> Tensor:
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
    chunk, window = time // module.chunk, module.window if window == -1 else window
    apart = chunk[:, None] - chunk[None, :]
    seen = (apart >= 0) & (apart <= (frames if window is None else window // module.chunk))
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
) -> tuple[Tensor, WindowMemory | HistoryMemory, Tensor]:
    """Outputs, memory and count of frames after x in segments, counting frames from `since`."""
    memory, seen, outputs = module.empty(len(x), x), torch.full((len(x),), since), []
    for begin, end in pairwise([0, *cuts, x.shape[1]]):
        y, memory = module(x[:, begin:end], memory, seen)
        seen = seen + end - begin
        outputs.append(y)
    return torch.cat(outputs, 1), memory, seen


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("cuts", [[], [3], [1, 2, 7], list(range(1, FRAMES))], ids=["whole", "two", "four", "frames"])
def test_segments_equal_dense(window: int | None, cuts: list[int]) -> None:
    module, x = attention(window), tokens()
    assert_close(in_segments(module, x, cuts)[0], dense(module, x))


@pytest.mark.parametrize(("window", "chunk"), [(5, 5), (10, 5), (0, 5), (None, 5), (4, 2), (2, 2), (None, 2)])
@pytest.mark.parametrize("every", [20, 10, 1], ids=["whole", "halves", "chunks"])
def test_chunks_equal_dense(window: int | None, chunk: int, every: int) -> None:
    """Several chunks at once or one at a time: a frame sees all of its chunk, whenever that came."""
    module, x = attention(window, chunk=chunk), tokens(20)
    every = max(every, chunk)
    assert_close(in_segments(module, x, list(range(every, 20, every)))[0], dense(module, x))


def test_frames_of_a_chunk_come_together() -> None:
    module, x = attention(5, chunk=5), tokens(7)
    with pytest.raises(InputError, match="7 frames for a model of chunk=5: frames must come in whole chunks"):
        module(x, module.empty(2, x), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize(("window", "chunk", "fewer"), [(4, 1, 2), (4, 1, 0), (None, 1, 3), (10, 5, 5), (None, 5, 5)])
@pytest.mark.parametrize("every", [20, 5], ids=["whole", "segments"])
def test_looking_back_less_far_is_masking(window: int | None, chunk: int, fewer: int, every: int) -> None:
    module, x = attention(window, chunk=chunk), tokens(20)
    module.use(Runtime(window=fewer))
    cuts = list(range(every, 20, every))
    y, memory, _ = in_segments(module, x, cuts)
    assert_close(y, dense(module, x, fewer))
    assert (y - dense(module, x)).abs().max() > 1e-2
    # The memory is what it would have been, so that one can go back.
    module.use(Runtime())
    _, full, _ = in_segments(module, x, cuts)
    assert_same(memory, full)


@pytest.mark.parametrize(("trained", "chunk", "window"), [(4, 1, 5), (10, 5, 4), (5, 5, 10), (None, 5, 3)])
def test_a_window_that_was_not_trained(trained: int | None, chunk: int, window: int) -> None:
    with pytest.raises(InputError, match=rf"window={window}: this model was trained with window={trained}"):
        attention(trained, chunk=chunk).use(Runtime(window=window))


def test_flex_equals_dense_on_cpu() -> None:
    """The forward pass of the layer, with its memory; gradients are compared on CUDA."""
    module, x = attention(5, chunk=5), tokens(20)
    module.use(Runtime(attention="flex"))
    assert_close(in_segments(module, x, [10])[0], dense(module, x))


def test_flex_is_what_runs_when_asked_for() -> None:
    module, x = attention(3), tokens()
    module.use(Runtime(attention="flex"))
    with pytest.raises(InputError, match="no backward pass on CPU"):
        module(x, module.empty(2, x), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize(("window", "chunk"), [(4, 1), (10, 5)])
@pytest.mark.parametrize("seen", [0, 5])
def test_slots_without_frames_may_be_left_out(window: int, chunk: int, seen: int) -> None:
    module, x = attention(window, chunk=chunk), tokens(15)
    past = in_segments(module, x[:, :seen], [])[1] if seen else module.empty(2, x)
    fewer = WindowMemory(*(v[:, max(0, window - seen) :] for v in past))
    count = torch.full((2,), seen)
    for ours, theirs in zip(module(x[:, seen:], fewer, count), module(x[:, seen:], past, count), strict=True):
        assert_close(
            dict(enumerate(ours)) if isinstance(ours, tuple) else ours,
            dict(enumerate(theirs)) if isinstance(theirs, tuple) else theirs,
        )


def test_the_history_holds_all_frames() -> None:
    module, x = attention(None), tokens()
    memory = in_segments(module, x, [4, 5])[1]
    values = (x @ module.qkv.weight[-CONFIG.dim :].T).unflatten(-1, (module.heads, module.head_size))
    assert isinstance(memory, HistoryMemory)
    assert memory.keys.shape == (2, FRAMES, CONFIG.tokens, 2, 16)
    assert_close(memory.values, values)


@pytest.mark.gpu
@pytest.mark.parametrize(("window", "chunk"), [(4, 1), (None, 1), (5, 5)])
@pytest.mark.parametrize("half", [False, True], ids=["float32", "autocast"])
def test_flex_equals_sdpa_on_cuda(window: int | None, chunk: int, half: bool) -> None:
    """Outputs, memory and gradients of the layer over two segments of several chunks."""
    module, x = attention(window, chunk=chunk).float().cuda(), tokens(20).float().cuda()
    found = []
    for choice in ("sdpa", "flex"):
        module.use(Runtime(attention=choice))  # type: ignore[arg-type]
        with torch.autocast("cuda", torch.bfloat16, enabled=half):
            first, memory = module(x[:, :10], module.empty(2, x), torch.zeros(2, dtype=torch.int64).cuda())
            second, memory = module(x[:, 10:], memory, torch.full((2,), 10).cuda())
        assert {v.dtype for v in memory} == {torch.float32}
        grads = torch.autograd.grad(first.float().square().sum() + second.float().sum(), module.parameters())
        found.append((first, second, *memory, *grads))
    for ours, theirs in zip(*found, strict=True):
        assert float((ours - theirs).abs().max() / theirs.abs().max()) < (5e-2 if half else 1e-2)


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


@pytest.mark.parametrize("window", [2, 4, None])
def test_rows_that_have_seen_different_numbers_of_frames(window: int | None) -> None:
    """Rows 0 to 5 have seen 0 to 5 frames; the next three come to all of them at once."""
    module, x = attention(window), tokens(rows=6)
    past = [in_segments(module, x[row : row + 1, :row], [])[1] if row else None for row in range(6)]
    past = [module.empty(1, x) if memory is None else memory for memory in past]
    longest = max(memory.keys.shape[1] for memory in past)
    memory = type(past[0])(*(torch.cat([padded(v, longest) for v in parts]) for parts in zip(*past, strict=True)))
    now = torch.stack([x[row, row : row + 3] for row in range(6)])
    with torch.no_grad():
        y, after = module(now, memory, torch.arange(6))
    for row in range(6):
        assert_close(y[row], dense(module, x[row : row + 1, : row + 3])[0, row:])
        expected = in_segments(module, x[row : row + 1, : row + 3], [])[1]
        kept = row + 3 if window is None else min(window, row + 3)
        assert_close(after.keys[row, -kept:], expected.keys[0, -kept:])


def padded(frames: Tensor, length: int) -> Tensor:
    """Something in front that is not to be looked at."""
    return torch.cat([frames.new_full((len(frames), length - frames.shape[1], *frames.shape[2:]), 5), frames], 1)


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
