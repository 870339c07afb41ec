"""Progress bars on the terminal; whoever listens is told the same, also where none are shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Where some work stands: `done` of `total`, and how many a second since it began or went on."""

    what: str
    done: int
    total: int
    unit: str
    per_second: float


Listener = Callable[[Place], None]

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call `listener` whenever a bar moves: between two steps of its work, and in the midst of none."""
    before = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(before)


class Bar:
    """A bar of tqdm, drawn only if `show`. It draws `units` of `unit` for each step; a listener is told of steps."""

    def __init__(
        self, what: str, total: int, unit: str, *, initial: int = 0, units: int = 1, scale: bool = False, show: bool
    ) -> None:
        self.what, self.total, self.done, self.units = what, total, initial, units
        self.unit = unit if units == 1 else "step"
        self._from, self._began = initial, time.monotonic()
        self._bar = tqdm(
            total=total * units,
            initial=initial * units,
            desc=what,
            unit=unit,
            unit_scale=scale or units > 1,
            disable=not show,
        )

    def __enter__(self) -> Bar:
        """Close the bar at the end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bar."""
        self.close()

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()

    def note(self, figures: Mapping[str, str]) -> None:
        """Show figures beside the bar, when it moves next."""
        self._bar.set_postfix(figures, refresh=False)

    def update(self, count: int = 1) -> None:
        """Count so many steps as done."""
        self.done += count
        self._bar.update(count * self.units)
        if (listener := _listener.get()) is not None:
            rate = (self.done - self._from) / max(time.monotonic() - self._began, 1e-9)
            listener(Place(self.what, self.done, self.total, self.unit, rate))


def counted(work: Sequence[T], what: str, unit: str, *, show: bool) -> Iterator[T]:
    """The entries of `work`, with a bar."""
    with Bar(what, len(work), unit, show=show) as bar:
        for entry in work:
            yield entry
            bar.update()
