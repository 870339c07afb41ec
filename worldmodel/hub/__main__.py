"""`python -m lssvwm.worldmodel.hub`: worlds and episodes to the Hugging Face hub and back.

Who writes, or reads what is private, logs in before: `hf auth login`, or HF_TOKEN.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from lssvwm.worldmodel.common.command_line import run_main, started_as
from lssvwm.worldmodel.hub.fetch import pull, pull_episodes
from lssvwm.worldmodel.hub.push import push, push_episodes
from lssvwm.worldmodel.worlds.pack import Packing

INTERRUPTED = "interrupted; what was sent or fetched whole is kept: the same command goes on"


@dataclass(frozen=True)
class Push:
    """Write a run to the hub: weights, contexts, policy, card and report, without what its training resumes from."""

    run: tyro.conf.Positional[Path]
    """Run of train_wm.py or train_agent.py, or a folder made by `lssvwm worlds pack`, taken as it is."""
    name: tyro.conf.Positional[str]
    """OWNER/NAME, which is made where it is not there."""
    packing: Annotated[Packing, tyro.conf.arg(name="")]
    """What the run does not know."""
    private: bool = False
    """Make it private where it is new."""


@dataclass(frozen=True)
class Pull:
    """Copy a world of the hub into a folder, which dreams like any other checkpoint."""

    name: tyro.conf.Positional[str]
    """OWNER/NAME or OWNER/NAME@REVISION."""
    to: tyro.conf.Positional[Path]
    """Folder that is not there yet."""


@dataclass(frozen=True)
class PushEpisodes:
    """Write a folder of episodes to the hub as a data set; an interrupted one goes on when it is started again."""

    folder: tyro.conf.Positional[Path]
    """Folder of episodes."""
    name: tyro.conf.Positional[str]
    """OWNER/NAME, which is made where it is not there."""
    licence: str = "mit"
    """Licence of the episodes, by its name on the hub."""
    private: bool = False
    """Make it private where it is new."""


@dataclass(frozen=True)
class PullEpisodes:
    """Copy the episodes of a data set of the hub into a folder."""

    name: tyro.conf.Positional[str]
    """OWNER/NAME or OWNER/NAME@REVISION."""
    to: tyro.conf.Positional[Path]
    """Folder of episodes; it may have some already."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line."""
    commands: dict[str, Callable[..., Any]] = {
        "push": Push,
        "pull": Pull,
        "push-episodes": PushEpisodes,
        "pull-episodes": PullEpisodes,
    }
    given = list(sys.argv[1:] if args is None else args)
    prog = started_as("lssvwm.worldmodel.hub").removesuffix(f" {given[0]}" if given else "")  # tyro adds it again
    asked = tyro.extras.subcommand_cli_from_dict(commands, args=given, prog=prog, description=__doc__)
    if isinstance(asked, Push):
        print(push(asked.run, asked.name, asked.packing, private=asked.private))
    elif isinstance(asked, Pull):
        print(pull(asked.name, asked.to))
    elif isinstance(asked, PushEpisodes):
        print(push_episodes(asked.folder, asked.name, licence=asked.licence, private=asked.private))
    elif isinstance(asked, PullEpisodes):
        print(f"{asked.to}: {pull_episodes(asked.name, asked.to)} new episodes")


if __name__ == "__main__":
    run_main(main, INTERRUPTED)
