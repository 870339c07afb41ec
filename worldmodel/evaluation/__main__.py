"""`python -m lssvwm.worldmodel.evaluation`, also `lssvwm evaluate-wm`."""

from __future__ import annotations

from lssvwm.worldmodel.common.command_line import run_main
from lssvwm.worldmodel.evaluation.command import main

INTERRUPTED = "interrupted: nothing but finished plots and videos is written"

if __name__ == "__main__":
    run_main(main, INTERRUPTED)
