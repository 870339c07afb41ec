"""`lssvwm COMMAND`: one entry point to all that has a command line. What a command needs is loaded when it is named."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

from lssvwm import __version__
from lssvwm.worldmodel.common.command_line import INTERRUPTED, run_main


@dataclass(frozen=True)
class Command:
    """The function `main(args)` of a module, which `python -m` starts as well, and what it does in a line."""

    module: str
    does: str
    before: tuple[str, ...] = ()
    """What stands before the arguments, where a module has commands of its own."""


HUB = "lssvwm.worldmodel.hub.__main__"

COMMANDS: Mapping[str, Mapping[str, Command]] = {
    "learn": {
        "train": Command("train_agent", "record a real world, learn it, train a policy in its dreams, judge it"),
        "train-wm": Command("train_wm", "record and learn a world, or learn from episodes that are there"),
    },
    "dream": {
        "play": Command("lssvwm.agents.play", "play a dream by hand in a browser, beside the real world"),
        "worlds": Command("lssvwm.worldmodel.worlds.__main__", "the worlds that come with the package"),
    },
    "judge": {
        "report": Command(
            "lssvwm.agents.report.__main__", "the report of a run, which may go on, on a local web server"
        ),
        "evaluate": Command(
            "lssvwm.agents.evaluation.__main__", "play what runs have learned in real episodes, and compare"
        ),
        "evaluate-wm": Command(
            "lssvwm.worldmodel.evaluation.__main__", "what world models remember, how far dreams drift"
        ),
        "calibrate": Command(
            "lssvwm.worldmodel.evaluation.uncertainty", "whether a world model knows when it is wrong"
        ),
        "profile": Command("lssvwm.worldmodel.sampling", "how fast a world model dreams on this machine"),
        "check": Command("lssvwm.envs.checker.__main__", "check an environment against Gymnasium's contract"),
    },
    "share": {
        "push": Command(HUB, "what a run has learned to the Hugging Face hub", ("push",)),
        "pull": Command(HUB, "a world model from the hub", ("pull",)),
    },
    "episodes": {
        "record": Command("lssvwm.agents.record", "play a policy in a real environment and keep the episodes"),
        "convert": Command("lssvwm.envs.recorded.__main__", "recorded play of other projects to episodes"),
        "export": Command("lssvwm.envs.recorded.export", "episodes to a Minari data set"),
        "push-episodes": Command(HUB, "episodes to the Hugging Face hub, as a data set", ("push-episodes",)),
        "pull-episodes": Command(HUB, "episodes from the hub", ("pull-episodes",)),
        "repack": Command(
            "lssvwm.worldmodel.episodes.repack", "episodes to a folder that is read faster, or is smaller"
        ),
    },
}
"""By what they are for; help shows them in this order."""


def main() -> None:
    """Start the command that is named first, with the arguments that follow it."""
    name, *args = sys.argv[1:] or ["--help"]
    sys.path.append("")  # modules of the folder that it is started in, as with `python -m`; ours go before them
    if name in ("-h", "--help"):
        print(page())
    elif name == "--version":
        print(f"lssvwm {__version__}")
    else:
        command = {key: one for commands in COMMANDS.values() for key, one in commands.items()}.get(name)
        if command is None:
            sys.exit(_unknown(name))
        sys.argv = [f"lssvwm {name}", *args]  # what help and reports call it
        start(command, args)


def start(command: Command, args: Sequence[str]) -> None:
    """Load a command and run it; loading takes seconds and can be interrupted as well."""
    loaded: list[ModuleType] = []
    run_main(lambda _: loaded.append(importlib.import_module(command.module)))
    module = loaded[0]
    run_main(module.main, getattr(module, "INTERRUPTED", INTERRUPTED), [*command.before, *args])


def page() -> str:
    """The help: a line for every command."""
    lines = ["usage: lssvwm COMMAND [OPTIONS]", "", "Video world models that remember, and agents that learn in them."]
    for purpose, commands in COMMANDS.items():
        lines += ["", f"{purpose}:", *(f"  {name:<13} {command.does}" for name, command in commands.items())]
    return "\n".join([*lines, "", "lssvwm COMMAND --help lists the options of a command."])


def _unknown(name: str) -> int:
    names = [name for commands in COMMANDS.values() for name in commands]
    close = difflib.get_close_matches(name, names, n=1)
    meant = f"did you mean '{close[0]}'? " if close else ""
    print(f"error: no command is called '{name}': {meant}there are {', '.join(names)}", file=sys.stderr)
    return 2
