"""Recordings over which the process that reads them hangs or dies. It imports this module, so it is a small one."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lssvwm.envs.recorded import FORMATS, ReadOptions, Source
from lssvwm.worldmodel.common.errors import MissingExtraError
from lssvwm.worldmodel.episodes import Episode

DMLAB = FORMATS["teco-dmlab"]


@dataclass
class Faulty:
    """Reads as DMLab's, but for what happens after the first piece of some recordings."""

    faults: dict[str, str] = field(default_factory=dict)
    name: str = "teco-dmlab"
    files: str = "*.npz"
    minecraft: bool = False

    def find(self, folder: Path) -> list[Source]:
        if self.faults.get("folder") == "hangs":
            hang()
        return DMLAB.find(folder)

    def read(self, source: Source, options: ReadOptions) -> Iterator[Episode]:
        for piece in DMLAB.read(source, options):
            yield piece
            match self.faults.get(source.name):
                case "hangs":
                    hang()
                case "crashes":
                    ctypes.string_at(0)
                case "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "leaves":
                    os._exit(3)
                case "raises":
                    raise RecursionError("too\ndeep")
                case "extra":
                    raise MissingExtraError("pip install it")
                case "says":
                    logging.getLogger("faulty").warning("%s is odd", source.name)


def hang() -> None:
    """As HDF5 does: no other thread of Python, and so no watch that it keeps, comes to its turn."""
    ctypes.PyDLL(None).pause()
