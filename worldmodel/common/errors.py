"""The one error for bad input, and the one way to import an optional package."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


class InputError(ValueError):
    """What the caller gave cannot be used. The message names the file, key or id, and the fix.

    The scripts print it as one line without a traceback.
    """


class MissingExtraError(ImportError):
    """A package that an optional extra brings is not installed. The message names the `pip install` that brings it."""


def check_fields(config: Any, prefix: str = "") -> None:
    """Raise an `InputError` for the first field of a dataclass whose value is not what its annotation says.

    What comes from a file may be anything. Numbers have to be finite.
    """
    for name, wanted in get_type_hints(type(config)).items():
        check_value(f"{prefix}{name}", getattr(config, name), wanted)


def check_least(config: Any, least: int, *names: str, prefix: str = "") -> None:
    """Raise an `InputError` for the first of these fields of a dataclass that is below `least`; None is not."""
    for name in names:
        if (value := getattr(config, name)) is not None and value < least:
            raise InputError(f"{prefix}{name}={value}: give at least {least}")


def check_value(name: str, value: Any, wanted: Any) -> None:
    """Raise an `InputError` that names `name` for a value that is not what the type hint `wanted` says."""
    if not _fits(value, wanted):
        kind = f"one of {get_args(wanted)}" if get_origin(wanted) is Literal else _WORDS.get(wanted, str(wanted))
        raise InputError(f"{name}={value!r:.80}: give {kind}")


_WORDS: dict[Any, str] = {int: "a whole number (int)", float: "a finite number", bool: "True or False", str: "text"}


def _fits(value: Any, wanted: Any) -> bool:
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        inner = inner[:1] * len(value) if inner[-1] is ... else inner
        return len(value) == len(inner) and all(map(_fits, value, inner))
    if wanted is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and -sys.float_info.max <= value <= sys.float_info.max
    return type(value) is int if wanted is int else isinstance(value, wanted)


def one_line(told: object, most: int | None = 200) -> str:
    """What somebody else says, in a line of at most `most` characters (None: all), for a message of ours."""
    return " ".join(str(told).split())[:most]


def read_parts(kind: type[Any], values: Any, name: str, needed: str) -> Any:
    """A list of dataclasses `kind` as JSON has them, read; what is no list is left to whoever checks it.

    Raises InputError, which says `name`, for a part without the key `needed` or with one that `kind` does not know.
    """
    if not isinstance(values, list | tuple):
        return values
    known = {field.name for field in fields(kind)}

    def read(part: Mapping[str, Any]) -> Any:
        if not {needed} <= part.keys() <= known:
            raise InputError(f"{name}: a part has the keys {sorted(part)}, known are {sorted(known)}")
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in part.items()})

    return tuple(read(part) if isinstance(part, Mapping) else part for part in values)


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
