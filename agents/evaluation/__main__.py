"""`python -m agents.evaluation`: bad input is one line on standard error, exit status 2."""

from __future__ import annotations

import signal
import sys
from types import FrameType

from agents.evaluation.command import main
from worldmodel.errors import InputError, MissingExtraError


def interrupt(number: int, frame: FrameType | None) -> None:
    """End on SIGTERM as on Ctrl-C."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupt)
    try:
        main()
    except (InputError, MissingExtraError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; policies that were played to the end are kept: the same command goes on", file=sys.stderr)
        sys.exit(130)
