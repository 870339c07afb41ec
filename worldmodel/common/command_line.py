"""What every command does alike: errors as one line, SIGTERM as Ctrl-C, and the name under which it was started."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

from lssvwm.worldmodel.common.errors import InputError, MissingExtraError

Main = Callable[[Sequence[str] | None], int | None]
"""Reads these arguments, or those of the process, and returns the exit status; None is 0."""

MENDABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EADDRINUSE}
"""What the system refuses and the user can mend. Anything else is a fault of ours, whose traceback is wanted."""


WAITING = ("OMP_WAIT_POLICY", "PASSIVE")
"""How OpenMP's threads wait, unless told otherwise. Threads that spin take a third less time on cores of their
own, and on shared ones twice as long (`python -m benchmarks.threads`). Read when torch is loaded."""


INTERRUPTED = "interrupted"
"""Said of commands that say nothing themselves of what is left."""

RESUMABLE = "interrupted; everything so far is saved: add --resume to continue"
"""Said of runs."""


def run_main(main: Main, interrupted: str = INTERRUPTED, args: Sequence[str] | None = None) -> None:
    """Run a command and exit where its status is not 0.

    Bad input, a missing extra, a folder that may not be written and a full disk are one line on standard error and
    exit status 2. SIGTERM interrupts as Ctrl-C does: `interrupted` is said, exit status 130.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    os.environ.setdefault(*WAITING)
    try:
        status = main(args)
    except (InputError, MissingExtraError) as error:
        _fail(str(error))
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        _fail(str(error))
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        sys.exit(130)
    else:
        if status:
            sys.exit(status)


def started_as(module: str) -> str:
    """What the user typed to start `module`: `lssvwm COMMAND`, or else `python -m MODULE`."""
    name = sys.argv[0]
    return name if name.startswith("lssvwm ") else f"python -m {module}"


def typed(module: str | None = None) -> str:
    """The command line of this process, to be typed again; `module` as for `python -m`, None for a script."""
    start = ["python", sys.argv[0]] if module is None else ["python", "-m", module]
    return shlex.join([*(sys.argv[0].split() if sys.argv[0].startswith("lssvwm ") else start), *sys.argv[1:]])


def _fail(said: str) -> None:
    print(f"error: {said}", file=sys.stderr)
    sys.exit(2)
