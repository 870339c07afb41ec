"""Random numbers for rows: from one generator for all, or from one per row, which makes rows independent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lssvwm.worldmodel.common.philox import Counted


@dataclass(frozen=True)
class Drawn:
    """Standard normal numbers that were drawn before: for work that is recorded once and repeated with others."""

    numbers: Tensor


Generators = torch.Generator | Sequence[torch.Generator]
"""One generator for all rows, or one for each: then what a row draws does not depend on its neighbours."""
Noise = Generators | Drawn | Counted
"""Where normal numbers come from."""


def normal(shape: tuple[int, ...], generators: Noise, like: Tensor, active: Tensor | None = None) -> Tensor:
    """Standard normal numbers of `shape`, rows first, on the device and in the dtype of `like`.

    With a generator per row or `Counted`, rows where `active` (B,) bool is False are zero and their generators unused.
    """
    if isinstance(generators, Drawn):
        if generators.numbers.shape != shape:
            raise ValueError(f"numbers of shape {tuple(generators.numbers.shape)} were drawn, {shape} are wanted")
        return generators.numbers
    if isinstance(generators, Counted):
        return generators.normal(shape, like, active)
    return _drawn(torch.randn, shape, generators, like, active)


def uniform(shape: tuple[int, ...], generators: Generators, like: Tensor) -> Tensor:
    """Numbers in [0, 1) of `shape`, rows first, on the device and in the dtype of `like`."""
    return _drawn(torch.rand, shape, generators, like, None)


def row_generators(seed: int, step: int, rows: Sequence[int], device: torch.device) -> list[torch.Generator]:
    """Generators that follow from (seed, step, row) alone: whatever process draws a row draws the same."""
    states = [np.random.SeedSequence((seed, step, row)).generate_state(1, np.uint64)[0] for row in rows]
    return [torch.Generator(device).manual_seed(int(state) >> 1) for state in states]


@contextmanager
def weights_from(seed: int) -> Iterator[None]:
    """Modules made inside draw their first weights from `seed`.

    Layers know only torch's global generator; outside it is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _drawn(
    draw: Callable[..., Tensor], shape: tuple[int, ...], generators: Generators, like: Tensor, active: Tensor | None
) -> Tensor:
    def one(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return draw(shape, generator=generator, device=like.device, dtype=like.dtype)

    if isinstance(generators, torch.Generator):
        return one(shape, generators)
    if len(generators) != shape[0]:
        raise ValueError(f"{len(generators)} generators for {shape[0]} rows; give one for all, or one per row")
    drawn = like.new_zeros(shape)
    for row in range(shape[0]) if active is None else active.nonzero()[:, 0].tolist():
        drawn[row] = one(shape[1:], generators[row])
    return drawn
