"""What a folder of episodes was converted from, and which sources are done: so that a conversion can go on."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes.files import is_episode

JOURNAL = ".converted.jsonl"
"""In the folder of the episodes: one line with the settings, then one for each source that is done."""


@dataclass(frozen=True)
class Done:
    """A source whose episodes are all in the folder."""

    source: str
    episodes: int
    frames: int
    action_size: int
    """As in the store's headers: 0 where actions are discrete or unknown."""


class Journal:
    """The sources that are done, in a file that only one process writes at a time."""

    def __init__(self, file: BinaryIO, done: Mapping[str, Done]) -> None:
        self._file = file
        self.done = dict(done)

    def add(self, done: Done) -> None:
        """Note a source; it is on disk when this returns."""
        self._write(asdict(done))
        self.done[done.source] = done

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


@contextmanager
def opened(store: Path, settings: Mapping[str, Any]) -> Iterator[Journal]:
    """The journal of the folder `store`, which is made where it is missing.

    Raises InputError where another process converts into the folder, where it was begun with other `settings`, and
    where it holds episodes that no conversion wrote.
    """
    store.mkdir(parents=True, exist_ok=True)
    path = store / JOURNAL
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # given back with the file, even by a killed process
        except BlockingIOError as error:
            raise InputError(f"another process converts into {store}: wait for it, or choose another --to") from error
        lines = _whole_lines(file, path)
        if not lines:
            if any(map(is_episode, os.listdir(store))):
                raise InputError(f"{store} holds episodes that were not converted: choose another folder for --to")
            journal = Journal(file, {})
            journal._write(settings)
        else:
            _check_same(lines[0], settings, path)
            journal = Journal(file, {line["source"]: Done(**line) for line in lines[1:]})
        yield journal


def _whole_lines(file: BinaryIO, path: Path) -> list[dict[str, Any]]:
    """The lines that were written to their end. A process that was killed may leave half a line, which is cut off."""
    file.seek(0)
    text = file.read()
    whole = text[: text.rfind(b"\n") + 1]
    file.truncate(len(whole))
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is damaged ({error}): delete the folder and convert again") from error


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            raise InputError(
                f"{path.parent} was converted with {key}={before.get(key)}, not {now.get(key)}: use that again, or "
                "choose another folder for --to"
            )
