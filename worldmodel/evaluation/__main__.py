"""`python -m worldmodel.evaluation`: bad input is one line on standard error, exit status 2."""

from __future__ import annotations

import sys

from worldmodel.errors import InputError, MissingExtraError
from worldmodel.evaluation.command import main

if __name__ == "__main__":
    try:
        main()
    except (InputError, MissingExtraError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted: nothing but finished plots and videos is written", file=sys.stderr)
        sys.exit(130)
