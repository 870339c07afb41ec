"""Record a real world, learn it, train a policy in its dreams, and judge the policy for real."""

from __future__ import annotations

from agents.cli import LoopOptions, begin, main_with, parse
from agents.loop import Loop


def main() -> None:
    """Parse the command line and run the loop to its report."""
    options = parse(LoopOptions)
    loop = Loop(options.out, options, progress=options.progress)
    page = loop.run_to_report(begin(options))
    print(f"report: {page}")


if __name__ == "__main__":
    main_with(main)
