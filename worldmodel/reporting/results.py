"""Results as JSON, and what they were made with."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from lssvwm import __version__
from lssvwm.worldmodel.common.errors import InputError


def versions(*packages: str) -> dict[str, str]:
    """What figures are made with: Python, ours, torch, numpy and `packages`."""
    found = {"python": platform.python_version(), "lssvwm": __version__}
    for name in ("torch", "numpy", *packages):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def plain(value: Any) -> Any:
    """Numbers and arrays as JSON has them; what is not defined as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def exact(value: Any, where: str = "results") -> Any:
    """`value` with nothing in it but what JSON has; an `InputError` names the first entry that does not fit."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(f"{where} is {value}, which JSON cannot hold: find where it comes from, or put None")
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InputError(f"{where} has the key {key!r}, which is no string: use str({key!r})")
        return {key: exact(entry, f"{where}[{key!r}]") for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [exact(entry, f"{where}[{index}]") for index, entry in enumerate(value)]
    raise InputError(f"{where} is a {type(value).__name__}, which JSON does not have: make it a number, text or list")
