"""Record a real world, learn it, train a policy in its dreams, and judge the policy for real."""

from __future__ import annotations

from collections.abc import Sequence

from lssvwm.worldmodel.common.command_line import RESUMABLE as INTERRUPTED
from lssvwm.worldmodel.common.command_line import run_main

# All else is imported below: processes of environments read this file again, and need nothing of it.


def main(args: Sequence[str] | None = None) -> None:
    """Parse the command line and run the loop to its report."""
    from lssvwm.agents.running.cli import LoopOptions, claimed, parse
    from lssvwm.agents.running.loop import Loop

    options = parse(LoopOptions, args)
    loop = Loop(options.out, options, progress=options.progress)
    with loop.tracking.open(), claimed(options) as commands:
        page = loop.run_to_report(commands)
    print(f"{loop.outcome()}\nreport: {page}")


if __name__ == "__main__":
    run_main(main, INTERRUPTED)
