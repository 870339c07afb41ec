"""`python -m lssvwm.envs.play`."""

from __future__ import annotations

from lssvwm.envs.play.command import main
from lssvwm.worldmodel.common.command_line import run_main

if __name__ == "__main__":
    run_main(main)
