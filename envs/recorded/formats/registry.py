"""The formats by name."""

from __future__ import annotations

from collections.abc import Mapping

from lssvwm.envs.recorded.formats.lerobot import LeRobot
from lssvwm.envs.recorded.formats.memory_maze import MemoryMaze
from lssvwm.envs.recorded.formats.minari import Minari
from lssvwm.envs.recorded.formats.minerl import MineRL
from lssvwm.envs.recorded.formats.rlds import RLDS
from lssvwm.envs.recorded.formats.teco import TecoDMLab, TecoMinecraft
from lssvwm.envs.recorded.formats.videos import Videos
from lssvwm.envs.recorded.formats.vpt import VPT
from lssvwm.envs.recorded.interface import Recording
from lssvwm.worldmodel.common.errors import InputError

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
