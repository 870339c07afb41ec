"""`python -m lssvwm.envs.minecraft.malmo --world minetest`: a world for `minerl` clients on this machine."""

from __future__ import annotations

import logging
import signal
import sys
from dataclasses import dataclass
from types import FrameType
from typing import Literal

import tyro

from lssvwm.envs.minecraft.malmo.minetest_world import MinetestWorld
from lssvwm.envs.minecraft.malmo.server import DEFAULT_PORT, HOST, MalmoServer
from lssvwm.envs.minecraft.minetest.build import find_program
from lssvwm.envs.minecraft.minetest.config import EngineConfig
from lssvwm.worldmodel.common.errors import InputError, MissingExtraError


@dataclass(frozen=True)
class Options:
    """Serve a world to the MineRL client over the Malmo-env protocol, on this machine only."""

    world: Literal["minetest"] = "minetest"
    """What the client plays in."""
    port: int = DEFAULT_PORT
    """TCP port on 127.0.0.1; 0 takes a free one. The first line of the output names it."""
    map_seed: int = 0
    """Of the map; a client's seed chooses the episode on it."""


def main(options: Options) -> None:
    """Serve until SIGTERM, Ctrl-C or a client's Exit. Raises InputError for what is missing or a port in use."""
    engine = EngineConfig()
    for program, package in ((engine.minetest, "minetest"), (engine.xvfb, "xvfb")):
        find_program(program, package)  # said here, not to the first client
    server = MalmoServer(MinetestWorld(options.map_seed), options.port)

    def stop(signal_number: int, frame: FrameType | None) -> None:
        server.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    print(f"{options.world} is served on {HOST}:{server.port}", flush=True)
    server.serve()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        main(tyro.cli(Options, prog="python -m lssvwm.envs.minecraft.malmo"))
    except (InputError, MissingExtraError) as error:
        sys.exit(f"error: {error}")
