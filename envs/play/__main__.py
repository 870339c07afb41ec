"""`python -m envs.play`."""

from __future__ import annotations

from envs.play.command import main
from worldmodel.command_line import run_main

if __name__ == "__main__":
    run_main(main)
