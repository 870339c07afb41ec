"""Random numbers that are computed from a count instead of drawn one after the other: for all rows of a device at once.

Philox-4x32 with ten rounds (Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3") in operations of torch:
a bijection of 128 bits under a key of 64. Generators of torch, one for each row, take two launches for each of them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ROUNDS = 10
MULTIPLIERS, WEYL = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)
WORD = 0xFFFFFFFF


def philox(counter: Tensor, key: Tensor) -> Tensor:
    """Four words of 32 bits for each counter (4, ...) under a key (2, ...), all int64: the words (4, ...)."""
    multiplier, weyl = (pair.view(2, *[1] * (counter.ndim - 1)) for pair in _constants(counter.device))
    even, odd = counter[::2], counter[1::2]
    for _ in range(ROUNDS):
        product = even * multiplier  # of 64 bits, whatever their sign
        even = ((product >> 32) & WORD).flip(0) ^ odd ^ key
        odd = (product & WORD).flip(0)
        key = (key + weyl) & WORD
    return torch.stack([even, odd], 1).flatten(0, 1)


@functools.cache
def _constants(device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.tensor(MULTIPLIERS, device=device), torch.tensor(WEYL, device=device)


def normals(words: Tensor) -> Tensor:
    """Standard normal float32 numbers of words (4, ...) of 32 bits: (4, ...), two by two (Box and Muller 1958)."""
    chance = ((words[::2] >> 8) + 1).float() * 2.0**-24  # above 0, up to 1
    angle = (words[1::2] >> 8).float() * (2 * math.pi * 2.0**-24)
    radius = (-2 * chance.log()).sqrt()
    return torch.cat([radius * angle.cos(), radius * angle.sin()])


class Counted:
    """The noise of N rows: what a row draws follows from its seed, its dream and how often it drew in that dream.

    `stream` tells apart numbers of several uses. On the host are seeds and dreams, which change where dreams begin.
    """

    def __init__(self, rows: int, device: torch.device, stream: int = 0) -> None:
        self.seeds: NDArray[np.int64] = np.zeros(rows, np.int64)
        self.dreams: NDArray[np.int64] = np.zeros(rows, np.int64)
        self.steps = torch.zeros(rows, dtype=torch.int64, device=device)
        self.stream = stream
        self._there: tuple[Tensor, Tensor] | None = None  # key (2, N, 1) and dreams (N, 1) on the device

    def seed(self, row: int, seed: int) -> None:
        """Let what `row` draws follow from `seed`, from 0 to below 2 ** 63; its next dream is the first."""
        self.seeds[row], self.dreams[row], self._there = seed, 0, None

    def begin(self, rows: Sequence[int] | NDArray[np.int64]) -> None:
        """Count the next dream of `rows` from its first step."""
        self.dreams[rows] += 1
        self.steps = self.steps.index_fill(0, torch.as_tensor(rows, device=self.steps.device), 0)
        self._there = None

    def normal(self, shape: tuple[int, ...], like: Tensor, active: Tensor | None = None) -> Tensor:
        """Standard normal numbers (N, ...) in the dtype of `like`; rows that `active` (N,) leaves out get zeros and
        count no step. Nothing waits for the device unless a dream has begun.
        """
        count = math.prod(shape[1:])
        key, dreams = self._on_device()
        index = torch.arange(-(-count // 4), device=self.steps.device).expand(len(self.steps), -1)
        parts = (index, self.steps[:, None], dreams, torch.full_like(dreams, self.stream))
        words = philox(torch.stack(torch.broadcast_tensors(*parts)), key)
        drawn = normals(words).movedim(0, 1).flatten(1)[:, :count].to(like.dtype).reshape(shape)
        if active is None:
            self.steps = self.steps + 1
            return drawn
        self.steps = self.steps + active
        return torch.where(active.view(-1, *[1] * (len(shape) - 1)), drawn, 0)

    def derived(self) -> Counted:
        """Numbers of another use that follow from where this stands, which stays as it is."""
        other = Counted(len(self.steps), self.steps.device, self.stream + 1)
        other.seeds, other.dreams = self.seeds.copy(), self.dreams.copy()
        other.steps, other._there = self.steps, self._there
        return other

    def state(self) -> Tensor:
        """Seed, dream and step of every row, (N, 3) int64 on the host."""
        return torch.stack([torch.from_numpy(self.seeds), torch.from_numpy(self.dreams), self.steps.cpu()], 1)

    def load(self, state: Tensor) -> None:
        """Go on from `state()` of as many rows."""
        seeds, dreams, steps = state.cpu().unbind(1)
        self.seeds, self.dreams = seeds.numpy().copy(), dreams.numpy().copy()
        self.steps, self._there = steps.to(self.steps.device, copy=True), None

    def _on_device(self) -> tuple[Tensor, Tensor]:
        if self._there is None:
            told = np.stack([self.seeds & WORD, self.seeds >> 32, self.dreams])
            sent = torch.from_numpy(told).to(self.steps.device)[..., None]
            self._there = sent[:2], sent[2]
        return self._there
