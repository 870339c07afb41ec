"""The short help of scripts with a hundred options: those that a newcomer needs, and where the others are."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn, get_type_hints

import tyro

HELP_ALL = "--help-all"
"""The flag that lists every option."""


def print_help(kind: type[Any], first: Sequence[str], default: Any) -> NoReturn:
    """Print the help of `kind`, of its fields only those in `first`, with the values of `default`; exit."""
    hints = get_type_hints(kind, include_extras=True)
    rest = [field for field in dataclasses.fields(kind) if field.name not in first]
    parts = [f.name for f in rest if dataclasses.is_dataclass(getattr(default, f.name))]
    hidden = [(f.name, Annotated[hints[f.name], tyro.conf.Suppress], dataclasses.field(default=None)) for f in rest]
    short = dataclasses.make_dataclass(kind.__name__, hidden, bases=(kind,), frozen=True)
    values = {field.name: getattr(default, field.name) for field in dataclasses.fields(kind)}
    groups = ", ".join(f"--{part}.*" for part in parts)
    said = f"{kind.__doc__}\n\nThese are the first options. {HELP_ALL} lists all, in groups: {groups}."
    tyro.cli(short, args=["--help"], default=short(**values), description=said)
    raise AssertionError("tyro exits after its help")
