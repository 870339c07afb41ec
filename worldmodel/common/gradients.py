"""What to do about gradients that cannot be used."""

from __future__ import annotations

import torch
from torch import Tensor

from lssvwm.worldmodel.common.errors import InputError

GIVE_UP = 10
"""Steps in a row without a finite gradient after which a training ends."""


class Skipping:
    """Tells which steps to skip for want of a finite gradient, and when too many of them came in a row.

    One overflow among hundreds of thousands of steps is nothing, but it must not reach the weights.
    """

    def __init__(self, fix: str) -> None:
        self.fix, self.count = fix, 0

    def check(self) -> None:
        """Call before every step. Raises InputError, naming `fix`, when it is time to give up."""
        if self.count >= GIVE_UP:
            raise InputError(f"the gradients of the last {GIVE_UP} steps were not finite: {self.fix}")

    def usable(self, norm: Tensor) -> bool:
        """Whether this step's gradient is finite, by its norm."""
        self.count = 0 if bool(torch.isfinite(norm)) else self.count + 1
        return self.count == 0
