"""Block-wise scan: tiles that know nothing of each other, and a memory that makes pieces equal the whole."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.config_parts import MAMBA2, MixerConfig
from lssvwm.worldmodel.layers.fused import convolve
from lssvwm.worldmodel.layers.mamba import BlockwiseMamba, Mixed, Quadratic, ScanMemory
from lssvwm.worldmodel.layers.scan import scan_sequential
from worlds import assert_close, assert_same, generator, randomised, small_config

TILES = [(1, 1), (2, 2), (4, 4), (1, 2), (4, 1)]
CONFIG = small_config(height=16, width=32, tiles=((1, 1),))  # 4 x 8 tokens
FRAMES = 7


MIXERS = {
    "default": MixerConfig(),
    "Mamba-2": MAMBA2,
    "no gate": MixerConfig(gate=False, value_silu=True),
}


def mamba(tile: tuple[int, int], mixer: str = "default") -> BlockwiseMamba:
    return randomised(lambda: BlockwiseMamba(replace(CONFIG, mixer=MIXERS[mixer]), tile), 0)


def tokens(frames: int = FRAMES, rows: int = 2) -> Tensor:
    return torch.randn(rows, frames, CONFIG.tokens, CONFIG.dim, generator=generator(1), dtype=torch.float64)


def tile_of(tile: tuple[int, int]) -> Tensor:
    """Number of the tile that owns each token, (S,), written down from rows and columns."""
    rows, columns = CONFIG.grid
    across = columns // tile[1]
    return torch.tensor([(s // columns // tile[0]) * across + s % columns // tile[1] for s in range(rows * columns)])


@torch.no_grad()
def in_segments(module: BlockwiseMamba, x: Tensor, cuts: list[int]) -> Mixed:
    memory, parts = module.empty(len(x), x), []
    for begin, end in pairwise([0, *cuts, x.shape[1]]):
        parts.append(module(x[:, begin:end], memory))
        memory = parts[-1].memory
    return Mixed(torch.cat([part.out for part in parts], 1), torch.cat([part.recall for part in parts], 1), memory)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("cuts", [[3], [1, 2], list(range(1, FRAMES))], ids=["two", "three", "frame-by-frame"])
def test_whole_equals_segments(tile: tuple[int, int], mixer: str, cuts: list[int]) -> None:
    module, x = mamba(tile, mixer), tokens()
    whole, parts = in_segments(module, x, []), in_segments(module, x, cuts)
    assert_close(parts.out, whole.out)
    assert_close(parts.recall, whole.recall)
    assert_close(parts.memory, whole.memory)
    forgetful = in_segments(module, x[:, cuts[0] :], [])  # so the memory is what made them equal
    assert (forgetful.out - whole.out[:, cuts[0] :]).abs().max() > 1e-2
    assert (forgetful.recall - whole.recall[:, cuts[0] :]).abs().max() > 1e-2


@pytest.mark.parametrize("tile", TILES)
def test_tiles_hold_their_own_tokens_in_order_of_time(tile: tuple[int, int]) -> None:
    """Written down from the paper: all tokens of a tile in frame t, row by row, then those of frame t + 1."""
    module, x = mamba(tile), tokens()
    sequences = module.to_tiles(x)
    owner, count = tile_of(tile), CONFIG.tokens // (tile[0] * tile[1])
    expected = [[torch.cat([frame[owner == n] for frame in row]) for n in range(count)] for row in x]
    assert_same(sequences, torch.stack([sequence for row in expected for sequence in row]))
    assert_same(module.from_tiles(sequences, FRAMES, CONFIG.tokens), x)


@pytest.mark.parametrize("tile", TILES)
def test_an_output_depends_on_the_past_of_its_tile_alone(tile: tuple[int, int]) -> None:
    module, x = mamba(tile), tokens()
    row, time, token = 1, 3, 13
    before = in_segments(module, x, [])
    changed_x = x.clone()
    changed_x[row, time, token] += 1
    after = in_segments(module, changed_x, [])
    changed = (after.out - before.out).abs().amax(-1) > 1e-6  # (B, T, S)
    same = (after.out == before.out).all(-1)
    mine = tile_of(tile) == tile_of(tile)[token]

    assert bool(same[0].all())
    assert bool(same[row][:, ~mine].all())
    assert bool(same[row, :time].all())
    assert bool(changed[row, time, token])
    assert bool(changed[row, time + 1 :][:, mine].all())  # and on to every later token of the tile
    earlier = mine & (torch.arange(CONFIG.tokens) < token)
    assert bool(same[row, time, earlier].all())

    number = int(tile_of(tile)[token])
    differs = (after.memory.state != before.memory.state).flatten(2).any(-1)  # (B, N)
    assert differs.nonzero().tolist() == [[row, number]]
    recalls = (after.recall != before.recall).any(-1)  # (B, T, N)
    assert recalls.nonzero().tolist() == [[row, t, number] for t in range(time, FRAMES)]


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("mixer", MIXERS)
def test_the_layer_by_hand(tile: tuple[int, int], mixer: str) -> None:
    """Output and recall, which is the mean over the tile's tokens of state times C, without D."""
    module, x, chosen, n = mamba(tile, mixer), tokens(2), MIXERS[mixer], CONFIG.state_size
    with torch.no_grad():
        found = in_segments(module, x, [])
        sequences = module.to_tiles(x)
        widths = [module.inner * chosen.gate, module.channels, module.heads]
        gate, mixed, dt = module.project_in(sequences).split(widths, -1)
        padded = functional.pad(mixed, (0, 0, CONFIG.conv - 1, 0))
        weighted = [module.conv_weight[:, 0, i] * padded[:, i : i + mixed.shape[1]] for i in range(CONFIG.conv)]
        values, *BC = (sum(weighted) + module.conv_bias).split([module.inner, n, n], -1)
        values = functional.silu(values) if chosen.value_silu else values
        B, C = (functional.silu(v) for v in BC)
        if chosen.feature_map == "quadratic":  # all ordered pairs: the products of two equal those of all of them
            B, C = ((v[..., :, None] * v[..., None, :]).flatten(-2) / n**0.25 for v in (B, C))
        values, steps = values.unflatten(-1, (module.heads, -1)), functional.softplus(dt + module.dt_bias)
        start = x.new_zeros(len(sequences), B.shape[-1], module.heads, module.head_dim)
        given = (values, steps, -module.log_A.exp(), B, C)
        y = scan_sequential(*given, module.D, start).y.flatten(2)
        y = y * functional.silu(gate) if chosen.gate else y
        out = module.project_out(functional.rms_norm(y, y.shape[-1:], module.norm.weight, 1e-5))
        answers = scan_sequential(*given, None, start).y.reshape(2, module.tiles, 2, -1, module.inner).mean(3)
    atol = 1e-7  # the constants of the feature map have 32 bits at first
    torch.testing.assert_close(found.recall, answers.transpose(1, 2), rtol=1e-6, atol=atol)
    torch.testing.assert_close(found.out, module.from_tiles(out, 2, CONFIG.tokens), rtol=1e-6, atol=atol)


@torch.no_grad()
def test_products_of_two_match_by_the_square() -> None:
    one, other = torch.randn(2, 7, 5, generator=generator(0))
    expand = Quadratic(5)
    assert expand(one).shape == (7, 15)
    torch.testing.assert_close((expand(one) * expand(other)).sum(-1), (one * other).sum(-1).square() / 5**0.5)


@pytest.mark.parametrize("tile", TILES)
def test_look_ahead_changes_no_memory(tile: tuple[int, int]) -> None:
    module, x = mamba(tile), tokens()
    memory = in_segments(module, x[:, :4], []).memory
    before = ScanMemory(*(v.clone() for v in memory))
    ahead, committed = module(x[:, 4:], memory, advance=False), module(x[:, 4:], memory)
    assert_same(ahead.out, committed.out)
    assert_same(ahead.recall, committed.recall)
    assert ahead.memory is memory
    assert_same(memory, before)


def test_shapes_of_the_memory() -> None:
    module = mamba((2, 2))
    memory = module.empty(3, tokens())
    assert memory.conv.shape == (3, 8, CONFIG.conv - 1, 2 * CONFIG.dim + 2 * CONFIG.state_size)
    assert memory.state.shape == (3, 8, 10, 4, CONFIG.head_dim)  # all pairs of 4
    assert mamba((2, 2), "Mamba-2").empty(3, tokens()).state.shape == (3, 8, CONFIG.state_size, 4, CONFIG.head_dim)
    assert memory.conv.dtype == torch.float64
    after = module(tokens(rows=3), memory)
    assert [v.shape for v in after.memory] == [v.shape for v in memory]
    assert after.recall.shape == (3, FRAMES, 8, 2 * CONFIG.dim)


@pytest.mark.parametrize("width", [2, 3, 6])
def test_convolution_tail_longer_or_shorter_than_a_frame(width: int) -> None:
    """One token per frame and tile: the convolution reaches over several frames."""
    module = randomised(lambda: BlockwiseMamba(replace(CONFIG, conv=width), (1, 1)), 0)
    whole, parts = in_segments(module, tokens(), []), in_segments(module, tokens(), list(range(1, FRAMES)))
    assert_close(parts.out, whole.out)
    assert_close(parts.memory, whole.memory)


@torch.no_grad()
@pytest.mark.parametrize("tile", [(1, 1), (2, 1)])
@pytest.mark.parametrize(("mixer", "skip", "shortest"), [("default", 0.0, 64.0), ("Mamba-2", 1.0, 4.0)])
def test_it_begins_with_a_memory_of_frames(tile: tuple[int, int], mixer: str, skip: float, shortest: float) -> None:
    """Convolutions near the identity, strong writing, and memories that fade over frames, whatever the tile."""
    config: WorldModelConfig = small_config(dim=256, heads=4, mixer=MIXERS[mixer])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = BlockwiseMamba(config, tile)
    assert bool((skip == module.D).all())
    assert float((module.conv_weight[..., :-1]).abs().max()) <= 0.1
    assert float((module.conv_weight[..., -1] - 1).abs().max()) <= 0.1
    dt = torch.nn.functional.softplus(module.dt_bias)
    assert 0.099 < float(dt.min()) < float(dt.max()) < 1.001
    frames = 1 / (dt * module.log_A.exp()) / (tile[0] * tile[1])
    torch.testing.assert_close(frames[[0, -1]], torch.tensor([shortest, 512.0]))
    assert bool((frames.diff() > 0).all())
    memory = module.empty(1, torch.zeros(()))
    x = torch.randn(1, 1, config.tokens, 256, generator=generator(0))
    _, mixed, _ = module.project_in(module.to_tiles(x)).split([module.blocks[0], module.channels, module.heads], -1)
    _, B, C = module.parts(convolve(memory.conv.flatten(0, 1), mixed, module.conv_weight[:, 0], module.conv_bias))
    assert torch.equal(B, C) == (mixer == "default")  # what is written is found again by what is like it
