"""The one error for bad input, and the one way to import an optional package."""

from __future__ import annotations

import importlib
from typing import Any


class InputError(ValueError):
    """What the caller gave cannot be used. The message names the file, key or id, and the fix.

    The scripts print it as one line without a traceback.
    """


class MissingExtraError(ImportError):
    """A package that an optional extra brings is not installed. The message names the `pip install` that brings it."""


def require(module: str, extra: str, purpose: str) -> Any:
    """Import `module`, or say which extra brings it.

    `purpose` reads as the subject of the message: "recording videos", "MiniGrid environments".
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or module.split(".")[0] != error.name.split(".")[0]:
            raise
        raise MissingExtraError(
            f"{purpose} need the package '{error.name}', which is not installed: pip install 'lssvwm[{extra}]'"
        ) from error
