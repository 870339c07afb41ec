"""`lssvwm worlds`: the worlds that come with the package, their cards, and a run made such a world."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from lssvwm.worldmodel.common.command_line import run_main, started_as
from lssvwm.worldmodel.worlds import names, resolve
from lssvwm.worldmodel.worlds.card import PAGE, page, read_card, summary
from lssvwm.worldmodel.worlds.pack import Packing, pack_world

MOST = 16_000_000
"""Bytes of a world that comes with the package."""


@dataclass(frozen=True)
class List:
    """The worlds that come with the package, with what their cards say."""


@dataclass(frozen=True)
class Card:
    """The whole card of a world."""

    checkpoint: tyro.conf.Positional[str]
    """Name of a world, a folder packed by this command, or hf://OWNER/NAME."""


@dataclass(frozen=True)
class Pack:
    """Make a run such a world: a folder of weights, contexts, policy, scores and card, which dreams anywhere."""

    run: tyro.conf.Positional[Path]
    """Run of train_wm.py or train_agent.py, finished or not, or the checkpoint folder alone."""
    name: tyro.conf.Positional[str]
    """Name of the world."""
    packing: Annotated[Packing, tyro.conf.arg(name="")]
    """What its run does not know."""
    out: Path = Path("worlds")
    """The folder appears in this one."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line."""
    given = list(sys.argv[1:] if args is None else args) or ["list"]
    command = tyro.extras.subcommand_cli_from_dict(
        {"list": List, "card": Card, "pack": Pack},
        args=given,
        prog=started_as("lssvwm.worldmodel.worlds"),
        description=__doc__,
    )
    if isinstance(command, List):
        print("\n\n".join(summary(read_card(resolve(name))) for name in names()))
    elif isinstance(command, Card):
        folder = resolve(command.checkpoint)
        card, kept = read_card(folder), folder / PAGE
        print(kept.read_text(encoding="utf-8") if kept.is_file() else page(card), end="")
    elif isinstance(command, Pack):
        folder = pack_world(command.run, command.name, command.out, command.packing)
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"{folder}: {size / 1e6:.1f} MB" + ", more than the 16 MB of a shipped world" * (size > MOST))


if __name__ == "__main__":
    run_main(main)
