"""`python -m envs.play`."""

from __future__ import annotations

from envs.play.command import main, main_with

if __name__ == "__main__":
    main_with(main)
