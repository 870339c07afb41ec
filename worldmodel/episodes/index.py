"""Which files of a folder are episodes of one store, and what is known of them without opening them.

A `Catalogue` keeps an `Index` in memory, and a file beside the episodes that any writer adds to (`INDEX`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import zlib
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lssvwm.worldmodel.common.atomic import replace
from lssvwm.worldmodel.common.errors import InputError, check_fields
from lssvwm.worldmodel.episodes.files import Header, is_episode, names_in, read_header

INDEX = ".index.jsonl"
"""A line that names the columns, then one for each file: its name, size and time of change, and its header; each line
is the CRC-32 of the rest in eight digits, a space, and JSON.

It is a cache. A line counts only while the file has that size and time; whatever is missing is read from the files and
added. A line is added by one write to the end, so that writers need no lock; one that is cut off or lost costs opening
its file once. It is written anew, as a whole, when most of its lines are of no use any more.
"""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Seen:
    """A file as it was when its header was read."""

    size: int
    changed: int  # nanoseconds

    @classmethod
    def of(cls, path: Path | os.DirEntry[str]) -> Seen | None:
        """Size and time of a file that is there."""
        try:
            found = path.stat()
        except OSError:  # gone, or a link to nowhere
            return None
        return cls(found.st_size, found.st_mtime_ns)


@dataclass
class Index:
    """The headers by name, sorted; adding the file that is written last takes the same time in any store."""

    headers: dict[str, Header] = field(default_factory=dict)
    _names: list[str] = field(default_factory=list)
    _lengths: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    _ends: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    _tuple: tuple[str, ...] | None = ()
    _kinds: dict[Header, Header] = field(default_factory=dict)  # each once: of a million episodes most are alike

    @classmethod
    def of(cls, headers: Mapping[str, Header]) -> Index:
        """The index of these files."""
        index = cls(_names=sorted(headers), _tuple=None)
        index.headers = {name: index._kinds.setdefault(header, header) for name, header in headers.items()}
        return index

    def copy(self) -> Index:
        """An index to which others add nothing."""
        return Index.of(self.headers)

    def add(self, name: str, header: Header) -> None:
        """Add a file."""
        if name in self.headers or (self._names and name < self._names[-1]):
            self._lengths = np.zeros(0, np.int64)
        if name not in self.headers:
            insort(self._names, name)
        self.headers[name], self._tuple = self._kinds.setdefault(header, header), None

    def row(self, name: str) -> int:
        """Where `name` stands among the names."""
        return bisect_left(self._names, name)

    @property
    def names(self) -> tuple[str, ...]:
        """The names, sorted."""
        if self._tuple is None:
            self._tuple = tuple(self._names)
        return self._tuple

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Frames of each episode, in the order of the names."""
        if len(self._lengths) < len(self._names):
            more = (self.headers[name].frames for name in self._names[len(self._lengths) :])
            self._lengths = np.concatenate((self._lengths, np.fromiter(more, np.int64)))
            self._lengths.flags.writeable = False
            self._ends = self._lengths.cumsum()
        return self._lengths

    @property
    def ends(self) -> NDArray[np.int64]:
        """Frames up to the end of each episode, one after the other."""
        return self._ends if len(self.lengths) else self._lengths


_COLUMNS = ["name", "size", "changed", *(item.name for item in fields(Header))]


def load(root: Path, seen: Mapping[str, Seen]) -> dict[str, Header]:
    """What the index file of `root` tells of files that are still as it says; if most of it is old, it is rewritten."""
    try:
        lines = (root / INDEX).read_bytes().splitlines()
    except OSError:
        return {}
    if not lines or _parsed(lines[:1]) != [_COLUMNS]:
        return _anew(root, {}, seen)  # of another version
    known: dict[str, Header] = {}
    kinds: dict[str, Header | None] = {}
    for line in _parsed(lines[1:]):
        if not isinstance(line, list) or len(line) != len(_COLUMNS):
            continue
        name, size, changed, *told = line
        now = seen.get(name) if isinstance(name, str) else None
        if now is not None and (now.size, now.changed) == (size, changed):
            if (kind := repr(told)) not in kinds:
                kinds[kind] = _header(told)
            if (header := kinds[kind]) is not None:
                known[name] = header
    if len(lines) > 2 * len(known) + 100:
        return _anew(root, known, seen)
    return known


def note(root: Path, headers: Mapping[str, Header], seen: Mapping[str, Seen]) -> None:
    """Add lines to the index file of `root`, as far as the folder can be written to."""
    if headers:
        try:
            with (root / INDEX).open("ab", buffering=0) as file:
                file.write(_lines(headers, seen, head=file.tell() == 0))
        except OSError as error:
            _log.debug("%s is left as it is: %s", root / INDEX, error)


def _anew(root: Path, headers: dict[str, Header], seen: Mapping[str, Seen]) -> dict[str, Header]:
    try:
        replace(root / INDEX, lambda path: path.write_bytes(_lines(headers, seen, head=True)))
    except OSError as error:
        _log.debug("%s is left as it is: %s", root / INDEX, error)
    return headers


def _lines(headers: Mapping[str, Header], seen: Mapping[str, Seen], *, head: bool) -> bytes:
    rows: list[list[object]] = [_COLUMNS] if head else []  # type: ignore[list-item]
    rows += [[name, seen[name].size, seen[name].changed, *astuple(header)] for name, header in headers.items()]
    texts = (json.dumps(row, separators=(",", ":")).encode() for row in rows)
    return b"".join(b"%08x %s\n" % (zlib.crc32(text), text) for text in texts)


def _parsed(lines: list[bytes]) -> list[object]:
    """The lines as JSON; those that are damaged, or half of one by a process that was killed, are left out."""
    whole = [line[9:] for line in lines if b"%08x" % zlib.crc32(line[9:]) == line[:8]]
    with contextlib.suppress(ValueError, RecursionError):  # written so
        return list(json.loads(b"[" + b",".join(whole) + b"]"))
    return []


def _header(told: list[object]) -> Header | None:
    values = [tuple(value) if isinstance(value, list) else value for value in told]
    header = Header(*values)  # type: ignore[arg-type]
    try:
        check_fields(header)
    except InputError:
        return None
    sides = header.image_shape
    fits = 2 <= header.frames < 1 << 40 and min(sides) > 0 and max(sides) < 1 << 16
    return header if fits and max(header.max_action, header.action_size) < 1 << 40 else None


class Catalogue:
    """The episodes of `root` that are whole and alike. With `strict` any other file there is an InputError."""

    def __init__(self, root: Path, *, strict: bool) -> None:
        self.root, self.strict = root, strict
        self.packed = root.is_file()
        """Whether it is one file of several episodes."""
        self.index = Index()
        self.broken: dict[str, tuple[Seen | None, str]] = {}
        """What was left out, as it was then, and why."""
        self._loaded = False

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process or thread needs: an index to which this one adds nothing."""
        return self.__dict__ | {"index": self.index.copy(), "broken": dict(self.broken)}

    def names(self) -> set[str]:
        """The names of all episodes that are there now."""
        if self.packed:
            return names_in(self.root)
        return {name for name in os.listdir(self.root) if is_episode(name)}

    def refresh(self) -> int:
        """As `EpisodeStore.refresh`."""
        found = self.names()
        unseen = sorted(found - self.index.headers.keys())
        seen = {name: now for name in unseen if (now := self._seen(name))}
        listed = load(self.root, seen) if unseen and not self._loaded else {}
        read = self._read([name for name in unseen if name not in listed], seen)
        if not self._loaded:  # later ones are those of writers, who note them
            note(self.root, read, seen)
        kept = self.index.headers.keys() & found
        if len(kept) < len(self.index.headers):
            self.index = Index.of({name: self.index.headers[name] for name in kept})
        added = self._alike(listed | read, seen)
        if len(added) > len(self.index.headers):
            self.index = Index.of(self.index.headers | added)
        else:
            for name, header in added.items():
                self.index.add(name, header)
        self.broken = {name: why for name, why in self.broken.items() if name in found - self.index.headers.keys()}
        self._loaded = True
        return len(added)

    def add(self, name: str, header: Header) -> None:
        """Add a file that was just written, also to the index file."""
        if seen := self._seen(name):
            note(self.root, {name: header}, {name: seen})
        self.index.add(name, header)

    def check(self, source: str, header: Header) -> None:
        """Raise InputError, naming `source`, unless its frames and actions are as those of the other episodes."""
        name, first = next(iter(self.index.headers.items()), (source, header))
        if header.image_shape != first.image_shape:
            raise InputError(
                f"{source} has frames of {header.image_shape}, but {name} in {self.root} has {first.image_shape}: "
                "keep one frame size per folder"
            )
        if header.action_size != first.action_size:
            raise InputError(
                f"{source} has actions of {header.action_size} numbers (0: discrete), but {name} in {self.root} has "
                f"{first.action_size}: keep one action space per folder"
            )

    def _seen(self, name: str) -> Seen | None:
        return Seen.of(self.root if self.packed else self.root / name)

    def _read(self, names: Sequence[str], seen: Mapping[str, Seen]) -> dict[str, Header]:
        headers = {}
        for name in names:
            now = seen.get(name)
            if name in self.broken and self.broken[name][0] == now:
                continue  # as it was when it was left out
            try:
                header = read_header(self.root / name)
            except InputError as error:
                self._leave_out(name, now, error)
            else:
                if now is not None and now == self._seen(name):
                    headers[name] = header
        return headers

    def _alike(self, headers: Mapping[str, Header], seen: Mapping[str, Seen]) -> dict[str, Header]:
        """Those that fit the store; where it is empty, those that fit most of the others."""
        names = sorted(headers)
        if names and not self.index.headers:
            kinds = Counter((headers[name].image_shape, headers[name].action_size) for name in names)
            (shape, size), _ = kinds.most_common(1)[0]
            first = next(n for n in names if (headers[n].image_shape, headers[n].action_size) == (shape, size))
            self.index.add(first, headers[first])
        added = {}
        for name in names:
            try:
                self.check(str(self.root / name), headers[name])
                added[name] = headers[name]
            except InputError as error:
                self._leave_out(name, seen.get(name), error)
        return added

    def _leave_out(self, name: str, seen: Seen | None, error: InputError) -> None:
        if self.strict:
            raise error
        if self.broken.get(name) != (seen, str(error)):
            _log.warning("left out: %s", error)
        self.broken[name] = seen, str(error)
