"""Block-wise scan: tiles that know nothing of each other, and a memory that makes pieces equal the whole."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from worlds import assert_close, assert_same, generator, randomised, small_config

from worldmodel.mamba import BlockwiseMamba, ScanMemory

TILES = [(1, 1), (2, 2), (4, 4), (1, 2), (4, 1)]
CONFIG = small_config(height=16, width=32, tiles=((1, 1),))  # 4 x 8 tokens
FRAMES = 7


def mamba(tile: tuple[int, int]) -> BlockwiseMamba:
    return randomised(lambda: BlockwiseMamba(CONFIG, tile), 0)


def tokens(frames: int = FRAMES, rows: int = 2) -> Tensor:
    return torch.randn(rows, frames, CONFIG.tokens, CONFIG.dim, generator=generator(1), dtype=torch.float64)


def tile_of(tile: tuple[int, int]) -> Tensor:
    """Number of the tile that owns each token, (S,), written down from rows and columns."""
    rows, columns = CONFIG.grid
    across = columns // tile[1]
    return torch.tensor([(s // columns // tile[0]) * across + s % columns // tile[1] for s in range(rows * columns)])


@torch.no_grad()
def in_segments(module: BlockwiseMamba, x: Tensor, cuts: list[int]) -> tuple[Tensor, ScanMemory]:
    memory, outputs = module.empty(len(x), x), []
    for begin, end in pairwise([0, *cuts, x.shape[1]]):
        y, memory = module(x[:, begin:end], memory)
        outputs.append(y)
    return torch.cat(outputs, 1), memory


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("cuts", [[3], [1, 2], list(range(1, FRAMES))], ids=["two", "three", "frame-by-frame"])
def test_whole_equals_segments(tile: tuple[int, int], cuts: list[int]) -> None:
    module, x = mamba(tile), tokens()
    whole, memory = in_segments(module, x, [])
    parts, after = in_segments(module, x, cuts)
    assert_close(parts, whole)
    assert_close(after, memory)
    forgetful, _ = module(x[:, cuts[0] :], module.empty(len(x), x))
    assert (forgetful - whole[:, cuts[0] :]).abs().max() > 1e-2  # so the memory is what made them equal


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
    y, memory = module(x, module.empty(len(x), x))
    changed_x = x.clone()
    changed_x[row, time, token] += 1
    changed_y, changed_memory = module(changed_x, module.empty(len(x), x))
    changed = (changed_y - y).abs().amax(-1) > 1e-6  # (B, T, S)
    same = (changed_y == y).all(-1)
    mine = tile_of(tile) == tile_of(tile)[token]

    assert bool(same[0].all())
    assert bool(same[row][:, ~mine].all())
    assert bool(same[row, :time].all())
    assert bool(changed[row, time, token])
    assert bool(changed[row, time + 1 :][:, mine].all())  # and on to every later token of the tile
    before = mine & (torch.arange(CONFIG.tokens) < token)
    assert bool(same[row, time, before].all())

    differs = (changed_memory.state != memory.state).flatten(2).any(-1)  # (B, N)
    assert differs.nonzero().tolist() == [[row, int(tile_of(tile)[token])]]


@pytest.mark.parametrize("tile", TILES)
def test_look_ahead_changes_no_memory(tile: tuple[int, int]) -> None:
    module, x = mamba(tile), tokens()
    _, memory = module(x[:, :4], module.empty(len(x), x))
    before = ScanMemory(*(v.clone() for v in memory))
    ahead, after = module(x[:, 4:], memory, advance=False)
    assert_same(ahead, module(x[:, 4:], memory)[0])
    assert after is memory
    assert_same(memory, before)


def test_shapes_of_the_memory() -> None:
    module = mamba((2, 2))
    memory = module.empty(3, tokens())
    assert memory.conv.shape == (3, 8, CONFIG.conv - 1, 2 * CONFIG.dim + 2 * CONFIG.state_size)
    assert memory.state.shape == (3, 8, CONFIG.state_size, 4, CONFIG.head_dim)
    assert memory.conv.dtype == torch.float64
    _, after = module(tokens(rows=3), memory)
    assert [v.shape for v in after] == [v.shape for v in memory]


@pytest.mark.parametrize("width", [2, 3, 6])
def test_convolution_tail_longer_or_shorter_than_a_frame(width: int) -> None:
    """One token per frame and tile: the convolution reaches over several frames."""
    module = randomised(lambda: BlockwiseMamba(replace(CONFIG, conv=width), (1, 1)), 0)
    whole, memory = in_segments(module, tokens(), [])
    parts, after = in_segments(module, tokens(), list(range(1, FRAMES)))
    assert_close(parts, whole)
    assert_close(after, memory)


def test_initial_values_are_those_of_mamba_2() -> None:
    config = small_config(dim=128, head_dim=16)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = BlockwiseMamba(config, (1, 1))
    dt, decay = torch.nn.functional.softplus(module.dt_bias.detach()), module.log_A.detach().exp()
    assert 1e-3 * 0.99 <= float(dt.min()) <= float(dt.max()) <= 1e-1 * 1.01
    assert 1 <= float(decay.min()) <= float(decay.max()) <= 16
    assert float(decay.std()) > 1
    assert bool((module.D == 1).all())
