"""The rule of who sees whom, and its layouts against one dense mask over all pairs of tokens."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.layers import windows
from lssvwm.worldmodel.layers.windows import BLOCK, KeyValues, Window, attend_flex, attend_sdpa, block_mask, visible
from worlds import assert_close, generator

RULES = {
    "sliding": Window(3, 1),
    "own frame": Window(0, 1),
    "paper": Window(5, 5),
    "chunks of two": Window(4, 2),
    "own chunk": Window(0, 5),
    "all": Window(None, 1),
    "all, in chunks": Window(None, 5),
    "wider than the clip": Window(40, 1),
}
FRAMES, TOKENS = 20, 3


class Inputs(NamedTuple):
    q: Tensor
    keys: Tensor
    values: Tensor


def inputs(past: int, frames: int = FRAMES, tokens: int = TOKENS, rows: int = 3, size: int = 4) -> Inputs:
    source = generator(past)
    lengths = (frames, past + frames, past + frames)
    shapes = [(rows, length, tokens, 2, size) for length in lengths]
    return Inputs(*(2 * torch.randn(shape, generator=source, dtype=torch.float64) for shape in shapes))


def allowed(rule: Window, past: int, frames: int) -> Tensor:
    """(T, past + T), from the definition, pair by pair. The first slot begins a chunk."""

    def sees(i: int, j: int) -> bool:
        mine, other = (past + i) // rule.chunk, j // rule.chunk
        return other <= mine and (rule.window is None or mine - other <= rule.window // rule.chunk)

    return torch.tensor([[sees(i, j) for j in range(past + frames)] for i in range(frames)])


def dense(given: Inputs, seen: Tensor, rule: Window) -> Tensor:
    """The reference: softmax over all keys, masked."""
    q, keys, values = (v.flatten(1, 2).double() for v in given)  # (B, tokens, h, d)
    frames, tokens = given.q.shape[1:3]
    past = given.keys.shape[1] - frames
    mask = allowed(rule, past, frames).to(q.device)[None].repeat(len(q), 1, 1)
    for row, count in enumerate(seen.tolist()):
        mask[row, :, : max(0, past - count)] = False
    mask = mask.repeat_interleave(tokens, 1).repeat_interleave(tokens, 2)[:, None]
    scores = torch.einsum("bqhd,bkhd->bhqk", q, keys) / math.sqrt(q.shape[-1])
    weights = scores.masked_fill(~mask, -math.inf).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, values).reshape(given.q.shape)


def pasts(rule: Window) -> list[int]:
    """No memory, one chunk of it, as much as the rule reaches over, and more."""
    reach = 3 * rule.chunk if rule.window is None else min(rule.window, 2 * FRAMES)
    return sorted({0, rule.chunk, reach, reach + 2 * rule.chunk})


CASES = [pytest.param(rule, past, id=f"{name}-{past}") for name, rule in RULES.items() for past in pasts(rule)]


def seen_by(rule: Window, past: int) -> Tensor:
    """Rows that have seen nothing, one chunk, and more than there is room for."""
    return torch.tensor([0, rule.chunk, past + 3 * rule.chunk])


@pytest.mark.parametrize(("rule", "past"), CASES)
def test_intervals_are_the_rule(rule: Window, past: int) -> None:
    first, end = visible(rule, past, FRAMES, torch.device("cpu"))
    slots = torch.arange(past + FRAMES)
    assert torch.equal((slots >= first[:, None]) & (slots < end[:, None]), allowed(rule, past, FRAMES))


def test_the_layout_of_the_paper_by_hand() -> None:
    """Chunks of five: both ways within a chunk, and the chunk before; nothing else."""
    mask = allowed(Window(5, 5), 0, 15)
    first, second, third = (slice(5 * n, 5 * n + 5) for n in range(3))
    assert bool(mask[first, first].all())
    assert not bool(mask[first, 5:].any())
    assert bool(mask[second, :10].all())
    assert not bool(mask[second, third].any())
    assert not bool(mask[third, first].any())
    assert bool(mask[third, 5:].all())


@pytest.mark.parametrize(("rule", "past"), CASES)
@pytest.mark.parametrize("chunks", [None, 1, 3, 100], ids=["default", "chunk", "three", "whole"])
def test_blocks_equal_the_dense_mask(rule: Window, past: int, chunks: int | None) -> None:
    """Outputs and gradients, whatever the size of the blocks; the last one may be shorter."""
    block = None if chunks is None else chunks * rule.chunk
    given, seen = inputs(past), seen_by(rule, past)
    for v in given:
        v.requires_grad_()
    weight = torch.randn(given.q.shape, generator=generator(9), dtype=torch.float64)
    ours, theirs = attend_sdpa(*given, seen, rule, block=block), dense(given, seen, rule)
    assert_close(ours, theirs)
    for a, b in zip(*(torch.autograd.grad((out * weight).sum(), given) for out in (ours, theirs)), strict=True):
        assert_close(a, b)


@pytest.mark.parametrize(("rule", "past"), [(Window(3, 1), 5), (Window(5, 5), 10), (Window(None, 1), 3)])
def test_flex_equals_the_dense_mask(rule: Window, past: int) -> None:
    """On CPU its forward pass by the eager implementation, which knows the mask of tokens but not that of blocks."""
    given, seen = inputs(past), seen_by(rule, past)
    assert_close(attend_flex(*given, seen, rule), dense(given, seen, rule))


@pytest.mark.parametrize(
    ("rule", "past"), [(Window(3, 1), 5), (Window(5, 5), 10), (Window(None, 1), 3), (Window(0, 5), 0)]
)
def test_flex_equals_blocks_where_a_frame_has_keys_of_its_own(rule: Window, past: int) -> None:
    given, seen = inputs(past), seen_by(rule, past)
    own = KeyValues(*(torch.randn(given.q.shape, generator=generator(n), dtype=torch.float64) for n in (4, 5)))
    assert_close(attend_flex(*given, seen, rule, own=own), attend_sdpa(*given, seen, rule, own=own))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(("rule", "past"), CASES)
@pytest.mark.parametrize(("frames", "tokens"), [(20, 7), (40, 32), (10, 1), (80, 16)])
def test_blocks_of_flex_are_those_of_the_rule(rule: Window, past: int, frames: int, tokens: int, own: bool) -> None:
    """Partial and full blocks are those that torch finds by looking at every pair of tokens; but full ones of the past
    are among the partial ones, since rows may lack frames there.
    """
    ours = block_mask(rule, past, frames, tokens, torch.device("cpu"), own)
    queries, keys = frames * tokens, (past + frames * (1 + own)) * tokens
    pairs = allowed(rule, past, frames)
    if own:
        chunk = torch.arange(past + frames) // rule.chunk == (past + torch.arange(frames)[:, None]) // rule.chunk
        pairs = torch.cat([pairs & ~chunk, (pairs & chunk)[:, past:]], 1)
    pairs = pairs.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)
    theirs = create_block_mask(lambda b, h, q, k: pairs[q, k], None, None, queries, keys, "cpu", BLOCK_SIZE=BLOCK)
    late = torch.arange(0, keys, BLOCK) >= past * tokens
    partial, full = listed(theirs, ""), listed(theirs, "full_")
    assert torch.equal(listed(ours, "full_"), full & late)
    assert torch.equal(listed(ours, ""), partial | (full & ~late))
    assert torch.equal(ours.to_dense(), theirs.to_dense())


def listed(mask: BlockMask, kind: str) -> Tensor:
    """The blocks (queries, keys) in the lists of a kind, which are in order."""
    counts, indices = (getattr(mask, f"{kind}kv_{name}")[0, 0] for name in ("num_blocks", "indices"))
    found = torch.zeros(indices.shape, dtype=torch.bool)
    for row, count in enumerate(counts.tolist()):
        own = indices[row, :count]
        assert torch.equal(own, own.sort().values)
        found[row, own.long()] = True
    return found


def test_flex_skips_what_the_rule_leaves_empty() -> None:
    mask = block_mask(Window(8, 1), 0, 200, 16, torch.device("cpu"))
    assert int(mask.to_dense().sum()) == 2 * 25 - 1  # one block is eight frames: itself and the one before


def test_flex_has_no_backward_pass_on_cpu() -> None:
    given = inputs(0)
    given.q.requires_grad_()
    with pytest.raises(InputError, match="attention='flex' has no backward pass on CPU"):
        attend_flex(*given, torch.zeros(3, dtype=torch.int64), Window(3, 1))


@pytest.mark.slow
def test_compiled_flex_computes_by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled for CPU, where the lists of blocks count too; for each shape, since torch 2.13 writes C++ that does not
    compile for masks by rows in shapes that change.
    """
    monkeypatch.setattr(windows, "flex_attention", torch.compile(windows.flex_attention, dynamic=False))
    for frames, past, window in ((20, 0, 8), (40, 8, 8), (60, 8, None)):
        rule = Window(window, 2)
        given, seen = Inputs(*(v.float() for v in inputs(past, frames, 16, size=32))), seen_by(rule, past)
        with torch.no_grad():
            out = attend_flex(*given, seen, rule)
        torch.testing.assert_close(out.double(), dense(given, seen, rule), rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rule", "past"), CASES)
def test_flex_equals_the_dense_mask_on_cuda(rule: Window, past: int, dtype: torch.dtype) -> None:
    """Compiled, outputs and gradients; the reference computes in float64 from the same rounded inputs."""
    given, seen = Inputs(*(v.to("cuda", dtype) for v in inputs(past, 40, 16, size=32))), seen_by(rule, past).cuda()
    for v in given:
        v.requires_grad_()
    weight = torch.randn(given.q.shape, generator=generator(9)).cuda()
    ours, theirs = attend_flex(*given, seen, rule), dense(given, seen, rule)
    tolerance = 2e-2 if dtype == torch.float32 else 6e-2  # products of float32 may be taken in TF32
    pairs = [(ours, theirs)]
    pairs += zip(*(torch.autograd.grad((out * weight).sum(), given) for out in (ours, theirs)), strict=True)
    for a, b in pairs:
        assert float((a - b).abs().max() / b.abs().max()) < tolerance
