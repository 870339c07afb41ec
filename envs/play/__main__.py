"""`python -m envs.play`: bad input is one line on standard error, exit status 2."""

from __future__ import annotations

import sys

from envs.play.command import main
from worldmodel.errors import InputError, MissingExtraError

if __name__ == "__main__":
    try:
        main()
    except (InputError, MissingExtraError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
