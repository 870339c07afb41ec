"""How often something may happen, and when to stop because nobody is there."""

from __future__ import annotations

import time


class Budget:
    """`rate` events a second on average, `burst` at once."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate, self._burst = rate, float(burst)
        self._left, self._at = self._burst, time.monotonic()

    def spend(self) -> bool:
        """Whether one more event is within it."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        self._left -= 1
        return self._left >= 0
