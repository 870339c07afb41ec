"""The formats by name."""

from __future__ import annotations

from collections.abc import Mapping

from envs.recorded.interface import Recording
from envs.recorded.lerobot import LeRobot
from envs.recorded.memory_maze import MemoryMaze
from envs.recorded.minari import Minari
from envs.recorded.minerl import MineRL
from envs.recorded.rlds import RLDS
from envs.recorded.teco import TecoDMLab, TecoMinecraft
from envs.recorded.videos import Videos
from envs.recorded.vpt import VPT
from worldmodel.errors import InputError

_ALL: tuple[Recording, ...] = (
    MemoryMaze(),
    TecoDMLab(),
    TecoMinecraft(),
    MineRL(),
    VPT(),
    Minari(),
    LeRobot(),
    RLDS(),
    Videos(),
)

FORMATS: Mapping[str, Recording] = {format.name: format for format in _ALL}
"""Every format under its name."""


def recording(name: str) -> Recording:
    """The format `name`. Raises InputError when there is none."""
    if name not in FORMATS:
        raise InputError(f"there is no format '{name}': choose one of {', '.join(FORMATS)}")
    return FORMATS[name]
