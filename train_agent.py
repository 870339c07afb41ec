"""Record a real world, learn it, train a policy in its dreams, and judge the policy for real."""

from __future__ import annotations

from collections.abc import Sequence

from lssvwm.agents.running.cli import INTERRUPTED, LoopOptions, claimed, parse
from lssvwm.agents.running.loop import Loop
from lssvwm.worldmodel.common.command_line import run_main


def main(args: Sequence[str] | None = None) -> None:
    """Parse the command line and run the loop to its report."""
    options = parse(LoopOptions, args)
    loop = Loop(options.out, options, progress=options.progress)
    with loop.tracking.open(), claimed(options) as commands:
        page = loop.run_to_report(commands)
    print(f"report: {page}")


if __name__ == "__main__":
    run_main(main, INTERRUPTED)
