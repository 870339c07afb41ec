"""What a world model is told beside frames and actions (goal conditioning): words or a few numbers, with every frame.

Words become whole numbers by a vocabulary that is collected from the recordings and travels with the model, so the same
text is the same numbers everywhere; numbers are taken as they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lssvwm.worldmodel.common.errors import InputError, check_fields, read_parts

MOST = 64
"""Words of a text, or numbers of a vector, that can be told."""
VOCABULARY = 4096
"""Different words that a model can learn."""

_WORD = re.compile(r"[\w'-]+|[^\w\s]")
_BEFORE_POINT = re.compile(r" (?=[,.;:!?])")


@dataclass(frozen=True)
class ToldPart:
    """One thing that is told, under the key that the environment and its recordings have it under."""

    key: str
    shape: tuple[int, ...] = ()
    """Of its numbers; of a text (W,), the most words that it has."""
    words: tuple[str, ...] | None = None
    """The words that a text is made of, sorted: the first is number 1, and 0 is none. None for numbers."""

    def __post_init__(self) -> None:
        check_fields(self, "told.")
        what = "numbers" if self.words is None else "words"
        if min(self.shape, default=1) < 1 or self.size > MOST:
            raise InputError(f"'{self.key}' cannot be told: it has {self.size} {what} {self.shape}, give 1 to {MOST}")
        if self.words is not None and (len(self.shape) != 1 or not len(set(self.words)) == len(self.words) > 0):
            raise InputError(f"told '{self.key}' is no text: it needs a number of words, and each known one once")
        if self.words is not None and len(self.words) > VOCABULARY:
            raise InputError(
                f"'{self.key}' cannot be told: it has {len(self.words)} different words, give {VOCABULARY}"
            )

    @property
    def size(self) -> int:
        """Numbers that stand for it."""
        return math.prod(self.shape)

    def encode(self, value: Any, where: str) -> NDArray[np.float32]:
        """The numbers (size,) of a text or an array. Raises InputError, naming `where`, for what cannot be told."""
        if self.words is None:
            return self._numbers(value, where)
        if not isinstance(value, str):
            raise InputError(f"{where}: '{self.key}' must be a text, got {value!r:.80}")
        index = {word: number for number, word in enumerate(self.words, 1)}
        found = words_of(value)
        for word in found:
            if word not in index:
                raise InputError(
                    f"{where}: '{self.key}' is {value!r}, but the world model has learned no word '{word}', only "
                    f"{', '.join(self.words)}: record episodes with that word before it is made"
                )
        if len(found) > self.size:
            raise InputError(
                f"{where}: '{self.key}' is {value!r}, which has {len(found)} words; the world model has learned texts "
                f"of {self.size} at most: record episodes with longer ones before it is made"
            )
        return np.array([index[word] for word in found] + [0] * (self.size - len(found)), np.float32)

    def decode(self, numbers: NDArray[np.float32]) -> str | NDArray[np.float32]:
        """What `numbers` (size,) stand for; a text has single spaces between its words, and none before its points."""
        if self.words is None:
            return numbers.reshape(self.shape)
        return _BEFORE_POINT.sub("", " ".join(self.words[int(number) - 1] for number in numbers if number > 0))

    def _numbers(self, value: Any, where: str) -> NDArray[np.float32]:
        try:
            numbers = np.asarray(value)
        except ValueError:  # lists of different lengths
            numbers = np.asarray(None)
        if numbers.dtype.kind not in "biuf" or numbers.shape != self.shape:
            raise InputError(f"{where}: '{self.key}' must be numbers of shape {self.shape}, got {value!r:.80}")
        with np.errstate(over="ignore"):  # said below
            flat = numbers.astype(np.float32).reshape(-1)
        if not np.isfinite(flat).all():
            raise InputError(f"{where}: '{self.key}' is not finite: {value!r:.80}")
        return flat


def size_of(parts: Sequence[ToldPart]) -> int:
    """G, the numbers that stand for all of them."""
    return sum(part.size for part in parts)


def read_told(values: Any) -> Any:
    """The parts of a configuration as JSON has them (`read_parts`)."""
    return read_parts(ToldPart, values, "told", "key")


def words_of(text: str) -> list[str]:
    """Words and points of a text, as they are written."""
    return _WORD.findall(text)


class _Store(Protocol):
    @property
    def names(self) -> tuple[str, ...]: ...

    def read_array(self, name: str, key: str) -> NDArray[Any] | None: ...


def told_parts(store: _Store, keys: Sequence[str]) -> tuple[ToldPart, ...]:
    """What the recordings of `store` have under `keys`, with all words that come up in them.

    Reads these arrays of every episode. Raises InputError where one is missing, of different shapes, or too large.
    """
    return tuple(_collected(store, key) for key in keys)


def _collected(store: _Store, key: str) -> ToldPart:
    texts, shapes = set[str](), set[tuple[int, ...]]()
    for name in store.names:
        found = store.read_array(name, key)
        if found is None or found.dtype.kind not in "Ubiuf" or (found.ndim == 0 and found.dtype.kind != "U"):
            raise InputError(
                f"--tell {key}: {name} has no such extra, a text or numbers with one entry per frame; the world may "
                "not observe it, or the episode was recorded by an earlier version"
            )
        if found.dtype.kind == "U":
            texts |= set(found.reshape(-1).tolist())
        else:
            shapes.add(found.shape[1:])
    if len(shapes) + bool(texts) != 1:
        raise InputError(f"--tell {key}: episodes have it as {'text, ' * bool(texts)}numbers of {sorted(shapes)}")
    if shapes:
        return ToldPart(key, shapes.pop())
    split = [words_of(text) for text in texts]
    words = tuple(sorted({word for one in split for word in one}))
    if not words:
        raise InputError(f"--tell {key}: no episode has a word there")
    return ToldPart(key, (max(map(len, split)),), words)


def told_in(
    extras: Mapping[str, NDArray[Any]], frames: int, parts: Sequence[ToldPart], where: str
) -> NDArray[np.float32]:
    """What an episode of so many frames tells with each, (frames, G), all `parts` side by side."""
    columns = []
    for part in parts:
        found = extras.get(part.key)
        if found is None or (found.ndim == 0) > (part.words is not None) or found.shape[:1] not in ((), (frames,)):
            raise InputError(f"{where}: '{part.key}' is told to the model, but there is no such extra with every frame")
        if found.ndim == 0 or part.words is not None:
            values, at = np.unique(found.reshape(-1), return_inverse=True)
            known = np.stack([part.encode(value.item(), where) for value in values])[at]
            columns.append(np.broadcast_to(known, (frames, part.size)))
        else:
            columns.append(np.stack([part.encode(value, where) for value in found]))
    return np.concatenate(columns, 1)


def told_now(
    info: Mapping[str, Any], rows: int, parts: Sequence[ToldPart], last: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """What the environment tells N rows now, (N, G), from the info of a vector environment.

    Of rows that it tells nothing, `last` (N, G) holds; without that, an InputError that names the key.
    """
    told = np.zeros((rows, size_of(parts)), np.float32) if last is None else np.array(last)
    begin = 0
    for part in parts:
        has = np.asarray(info[f"_{part.key}"] if f"_{part.key}" in info else [part.key in info] * rows, bool)
        if last is None and not has.all():
            raise InputError(
                f"the world model is told '{part.key}', which the environment does not tell in its info, only "
                f"{sorted(key for key in info if not key.startswith('_'))}: play it in the world that it has learned"
            )
        for row in np.flatnonzero(has).tolist():
            told[row, begin : begin + part.size] = part.encode(info[part.key][row], "the environment")
        begin += part.size
    return told


def told_apart(numbers: NDArray[np.float32], parts: Sequence[ToldPart]) -> dict[str, NDArray[Any]]:
    """What numbers (N, G) stand for, by key: N texts, as objects, or N arrays of numbers, (N, ...) float32."""
    found: dict[str, NDArray[Any]] = {}
    begin = 0
    for part in parts:
        values = [part.decode(row) for row in numbers[:, begin : begin + part.size]]
        text = part.words is not None
        found[part.key] = np.array(values, object if text else np.float32).reshape(len(values), *part.shape[text:])
        begin += part.size
    return found
