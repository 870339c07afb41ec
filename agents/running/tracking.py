"""Where a run is logged (`--log`): one tracker, or several at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lssvwm.agents.running.trackers import PURPOSES, TRACKERS, Tracker
from lssvwm.worldmodel.common.errors import require
from lssvwm.worldmodel.common.loggers import Logger
from lssvwm.worldmodel.reporting.video import Pixels


class Several:
    """All loggers of a part as one."""

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self.loggers = loggers

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """To all of them."""
        for logger in self.loggers:
            logger.add_scalar(tag, scalar_value, global_step)

    def add_clip(self, tag: str, frames: Pixels, step: int) -> None:
        """To all of them."""
        for logger in self.loggers:
            logger.add_clip(tag, frames, step)

    def close(self) -> None:
        """All of them."""
        for logger in self.loggers:
            logger.close()


class Tracking:
    """The trackers of a run, opened when the first part begins, or by `open`."""

    def __init__(self, out: Path, names: Sequence[str], settings: Callable[[], Mapping[str, Any]]) -> None:
        self.out, self.names, self.settings = out, names, settings
        self.trackers: list[Tracker] = []
        for name in names:
            if name in PURPOSES:
                require(name, name, PURPOSES[name])

    @contextmanager
    def open(self) -> Iterator[None]:
        """All trackers now, so that one that cannot be opened is known before any work; closed at the end."""
        self._begin()
        try:
            yield
        finally:
            for tracker in self.trackers:
                tracker.close()
            self.trackers = []

    @contextmanager
    def part(self, name: str, step: int) -> Iterator[Logger]:
        """Where one part of the run logs, going on after `step`."""
        self._begin()
        several = Several([tracker.part(name, step) for tracker in self.trackers])
        try:
            yield several
        finally:
            several.close()

    def _begin(self) -> None:
        if not self.trackers:
            self.trackers = [TRACKERS[name](self.out, self.settings()) for name in dict.fromkeys(self.names)]
