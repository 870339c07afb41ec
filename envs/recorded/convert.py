"""Convert a folder of recordings into a folder of episodes: one recording at a time, none of them by halves."""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from lssvwm.envs.recorded.interface import NONE, RECORDED, VIDEOS, ReadOptions, Recording, Source
from lssvwm.envs.recorded.journal import Done, Journal, opened
from lssvwm.envs.recorded.reader import PATIENCE, Reader
from lssvwm.worldmodel.common.atomic import sync_folder
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.common.stepping import deferred_interrupts
from lssvwm.worldmodel.episodes.data import check_episode
from lssvwm.worldmodel.episodes.files import SUFFIX, header_of, write_episode

STAGING = ".converting"
"""In the folder of the episodes: those of the source at hand. Readers of the folder do not look into it."""


@dataclass(frozen=True)
class Broken:
    """A source that could not be converted, and why."""

    source: str
    reason: str


@dataclass(frozen=True)
class Summary:
    """What `convert` did.

    Of `sources` in the folder, `before` were done already, `converted` now, and `broken` are not in the store.
    `episodes` and `frames` were written in this call, in `seconds`.
    """

    sources: int
    before: int
    converted: int
    broken: tuple[Broken, ...]
    episodes: int
    frames: int
    seconds: float

    def __str__(self) -> str:
        rate = self.frames / self.seconds if self.seconds else 0.0
        broken = len(self.broken)
        lines = [
            f"{self.sources} recordings: {self.converted} converted, {self.before} done before, {broken} skipped",
            f"{self.episodes} episodes with {self.frames} frames in {self.seconds:.1f} s, {rate:.0f} frames/s",
        ]
        return "\n".join(lines + [f"  skipped {broken.source}: {broken.reason}" for broken in self.broken])


def convert(
    recording: Recording,
    folder: Path,
    store: Path,
    options: ReadOptions,
    *,
    limit: int | None = None,
    strict: bool = False,
    progress: bool = True,
    patience: float = PATIENCE,
) -> Summary:
    """Append the episodes of every source in `folder` to the folder `store`, which is made where it is missing.

    Sources that are done are left as they are, so an interrupted conversion goes on where it stood, and has lost the
    source at hand; its episodes appear together when it is done. A broken source is skipped and named in the summary.
    `limit`: no more than so many sources, the first. They are read in another process (`Reader`): one of which no
    episode comes for `patience` seconds, or that crashes a library, is a broken one too.

    Raises InputError where nothing can be converted: a folder without sources, one that was converted with other
    options; and for the first broken source with `strict`. What was done until then stays.
    """
    if options.actions not in (RECORDED, NONE) and not recording.minecraft:
        raise InputError(f"'{recording.name}' has actions of its own: leave out --actions {options.actions}")
    if options.fps is not None and recording.name != VIDEOS:
        raise InputError(f"--fps is for videos without actions: thin '{recording.name}' with --every")
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}: use 1 or more")
    if not folder.is_dir():
        raise InputError(f"folder {folder} does not exist: name the one that holds {recording.files}")
    with Reader(recording, options, patience) as reader:
        sources = reader.find(folder)[:limit]
        if not sources:
            raise InputError(f"{folder} holds nothing of the format '{recording.name}', which is {recording.files}")
        settings = {"format": recording.name, "from": str(folder.resolve()), **options.told()}
        began, broken, episodes, frames = time.perf_counter(), [], 0, 0
        with opened(store, settings) as journal:
            waiting = [source for source in sources if source.name not in journal.done]
            before = len(sources) - len(waiting)
            with tqdm(total=len(sources), initial=before, unit="recording", disable=not progress) as bar:
                for source in waiting:
                    try:
                        done = _convert(reader, source, store, journal)
                    except InputError as error:
                        if strict:
                            raise
                        broken.append(Broken(source.name, str(error)))
                    else:
                        episodes, frames = episodes + done.episodes, frames + done.frames
                    rate = frames / (time.perf_counter() - began)
                    bar.set_postfix({"frames/s": f"{rate:.0f}", "skipped": len(broken)}, refresh=False)
                    bar.update()
    return Summary(
        sources=len(sources),
        before=before,
        converted=len(waiting) - len(broken),
        broken=tuple(broken),
        episodes=episodes,
        frames=frames,
        seconds=time.perf_counter() - began,
    )


def _convert(reader: Reader, source: Source, store: Path, journal: Journal) -> Done:
    sizes = {done.action_size for done in journal.done.values()}
    count = frames = 0
    with _staging(store) as staging:
        for episode in reader.read(source):
            check_episode(episode, source.name)
            header = header_of(episode)
            if sizes - {header.action_size}:
                raise InputError(
                    f"{source.name} has actions of {header.action_size} numbers (0: discrete or none), others in "
                    f"{store} have {min(sizes)}: convert it into a folder of its own"
                )
            sizes.add(header.action_size)
            write_episode(staging, episode, name=f"{_stem(source)}-{count:05d}{SUFFIX}")
            count, frames = count + 1, frames + header.frames
        done = Done(source.name, count, frames, next(iter(sizes)))
        with deferred_interrupts() as interrupt:  # the episodes of a source appear together, and are noted
            for path in sorted(staging.iterdir()):
                path.replace(store / path.name)
            sync_folder(store)
            journal.add(done)
        interrupt()
    return done


@contextmanager
def _staging(store: Path) -> Iterator[Path]:
    staging = store / STAGING
    shutil.rmtree(staging, ignore_errors=True)  # a killed process may have left it; the journal's lock is ours
    staging.mkdir()
    try:
        yield staging
    finally:
        shutil.rmtree(staging)


def _stem(source: Source) -> str:
    """A file name that follows from the source's name, so that a source that is done again is not there twice."""
    plain = re.sub(r"[^\w.-]+", "_", source.name)[-100:].lstrip(".")
    return f"{plain}-{hashlib.sha256(source.name.encode()).hexdigest()[:8]}"
