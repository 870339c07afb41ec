"""Which files of a folder are episodes of one store, which are left out, and why."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes.files import Header, is_episode, names_in, read_header
from lssvwm.worldmodel.episodes.index import Index, Seen, load, note

_log = logging.getLogger(__name__)


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
