"""The random numbers of the rows: each row's follow from its own seed, whatever the other rows do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lssvwm.envs.dream.contexts import ContextKey
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.common.philox import Counted

_WORD = 2**64
_GOLDEN = (5**0.5 - 1) / 2


class RowGenerators:
    """Three independent sources per row: contexts, which are numbered, the noise of frames, and draws of endings."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self.seeds: NDArray[np.int64] = np.full(rows, -1)
        self.dreams: NDArray[np.int64] = np.zeros(rows, np.int64)  # begun since the row was seeded
        self.noise = noise_for(rows, device)
        self._draws = [np.random.default_rng(0) for _ in range(rows)]

    @property
    def seeded(self) -> bool:
        """Whether every row has had a seed."""
        return bool((self.seeds >= 0).all())

    def seed(self, row: int, seed: int) -> None:
        """Let all that `row` draws follow from `seed`."""
        self.seeds[row], self.dreams[row] = seed, 0
        if isinstance(self.noise, Counted):
            self.noise.seed(row, seed)
        else:
            self.noise[row].manual_seed(seed)
        # A key of its own, or endings would be drawn by the numbers that choose the first context.
        self._draws[row] = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))

    def context_keys(self, rows: Iterable[int]) -> list[ContextKey]:
        """The keys of the contexts of the next dreams of `rows`."""
        return [ContextKey(int(self.seeds[row]), int(self.dreams[row])) for row in rows]

    def begin(self, rows: NDArray[np.int64]) -> None:
        """The next dreams of `rows` have begun."""
        self.dreams[rows] += 1
        if isinstance(self.noise, Counted):
            self.noise.begin(rows)

    def uniform(self, rows: NDArray[np.bool_]) -> NDArray[np.float64]:
        """A number in [0, 1) for each of `rows`, 1 for the others, whose source stays as it is."""
        return np.array([source.random() if row else 1.0 for source, row in zip(self._draws, rows, strict=True)])

    def phase(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Numbers in [0, 1) that follow from a row's seed and are spread evenly over rows of consecutive seeds.

        The multiples of the golden ratio, which keep apart however many there are (Knuth, TAOCP 6.4, theorem S).
        """
        return np.asarray(((self.seeds[rows] + self.dreams[rows]) % 2**32 * _GOLDEN) % 1, np.float64)

    def state_dict(self) -> dict[str, Tensor]:
        """All of it as tensors, rows first."""
        return {
            "seeds": torch.from_numpy(self.seeds.copy()),
            "dreams": torch.from_numpy(self.dreams.copy()),
            "noise": self._noise_state(),
            "draws": torch.from_numpy(np.array([_words(source) for source in self._draws], np.uint64).view(np.int64)),
        }

    def _noise_state(self) -> Tensor:
        if isinstance(self.noise, Counted):
            return self.noise.state()
        return torch.stack([generator.get_state() for generator in self.noise])

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise InputError unless the noise in `tensors` is of this kind and can be gone on from."""
        have, want = (noise.shape[1:] for noise in (tensors["noise"], self._noise_state()))
        if have != want:
            raise InputError(
                f"the state keeps {tuple(have)} numbers for the noise of each row, this device and version "
                f"{tuple(want)}: take the state anew where the dreams go on"
            )
        if isinstance(self.noise, Counted):
            return
        for generator, state in zip(self.noise, tensors["noise"], strict=True):
            try:
                torch.Generator(generator.device).set_state(state.clone())
            except (RuntimeError, TypeError) as error:
                raise InputError(f"'chance.noise' of the state is no generator's ({error})") from error

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from `state_dict()` of as many rows, which `check` lets pass."""
        self.seeds, self.dreams = tensors["seeds"].numpy().copy(), tensors["dreams"].numpy().copy()
        if isinstance(self.noise, Counted):
            self.noise.load(tensors["noise"])
        else:
            for generator, state in zip(self.noise, tensors["noise"], strict=True):
                generator.set_state(state.clone())  # views crash torch 2.13
        draws = tensors["draws"].contiguous().numpy().view(np.uint64)
        self._draws = [_from_words(words) for words in draws.tolist()]


def noise_for(rows: int, device: torch.device) -> list[torch.Generator] | Counted:
    """Where the noise of rows comes from: a generator for each, or on other devices than a CPU, where that would be a
    launch for each, numbers by counting. A CPU counts slower than it draws.
    """
    return [torch.Generator(device) for _ in range(rows)] if device.type == "cpu" else Counted(rows, device)


def _words(source: np.random.Generator) -> list[int]:
    """The two 128-bit numbers of a PCG64, as four of 64 bits, low first; `random()` keeps nothing else."""
    state = source.bit_generator.state["state"]
    return [word for number in (state["state"], state["inc"]) for word in (number % _WORD, number // _WORD)]


def _from_words(words: list[int]) -> np.random.Generator:
    source = np.random.Generator(np.random.PCG64(0))
    low, high, inc_low, inc_high = words
    numbers = {"state": low + _WORD * high, "inc": inc_low + _WORD * inc_high}
    source.bit_generator.state = {"bit_generator": "PCG64", "state": numbers, "has_uint32": 0, "uinteger": 0}
    return source
