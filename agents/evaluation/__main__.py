"""`python -m lssvwm.agents.evaluation`, also `lssvwm evaluate`."""

from __future__ import annotations

from lssvwm.agents.evaluation.command import main
from lssvwm.worldmodel.common.command_line import run_main

INTERRUPTED = "interrupted; policies that were played to the end are kept: the same command goes on"

if __name__ == "__main__":
    run_main(main, INTERRUPTED)
