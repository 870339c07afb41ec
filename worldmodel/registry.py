"""Mixers and tokenizers that others add to a world model, by the name that a config gives them (docs/architecture.md).

A file names them and no more: nothing is imported because a checkpoint says so. Whoever loads one that needs an
addition has run the code that adds it, or is told to.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from lssvwm.worldmodel.common.errors import InputError

MIXERS: dict[str, Callable[..., Any]] = {}
"""By `scan`: what makes the `layers.mixer.Mixer` of a layer, from the config and the number of the layer."""

TOKENIZERS: dict[str, Callable[..., Any]] = {}
"""By `tokenizer`: what makes the `tokenizer.Tokenizer`, a module too, from the config."""


def check_known(name: str, value: str, known: Collection[str], table: str) -> None:
    """Raise an InputError for a `value` that is not `known`, some of which others may have added to `table`."""
    if value not in known:
        raise InputError(f"{name}={value!r:.80}: give one of {(*known,)}, or run what adds it to {table} first")
