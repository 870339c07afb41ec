"""Record a real world, learn it, train a policy in its dreams, and judge the policy for real."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from agents.cli import main_with, parse
from agents.loop import Loop
from agents.settings import LoopSettings, settings_of


@dataclass(frozen=True)
class Options(LoopSettings):
    """Record a real world, learn it, train a policy in its dreams, and judge the policy for real."""

    out: Path = Path("runs/agent")
    """Folder of the run: episodes, world model, policy, curves and RUN/report/index.html."""
    preset: str = "default"
    """Where the defaults of all other options come from: default, demo, smoke or memory-maze."""
    world_model: Path | None = None
    """Checkpoint folder of a world model to use as it is, instead of recording and learning one."""
    resume: bool = False
    """Continue the run in --out where it stopped; its settings are the defaults."""
    progress: bool = True
    """Show progress bars."""


def main() -> None:
    """Parse the command line and run the loop to its report."""
    options = parse(Options)
    loop = Loop(options.out, settings_of(options), world_model=options.world_model, progress=options.progress)
    page = loop.run_to_report(shlex.join(["python", *sys.argv]))
    print(f"report: {page}")


if __name__ == "__main__":
    main_with(main)
