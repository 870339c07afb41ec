"""Copy a folder of episodes into one whose clips are read faster, or with `--compress` into a smaller one.

    python -m worldmodel.episodes.repack SRC DST

Files keep their names, and so their order: the same seed draws the same clips from both folders. Published episodes
come out as they are read here, with integer actions and end flags. What is in DST already is left as it is, so a copy
that was cut short goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tqdm import tqdm

from worldmodel.command_line import run_main, started_as
from worldmodel.episodes.files import write_episode
from worldmodel.episodes.store import EpisodeStore
from worldmodel.errors import InputError


@dataclass(frozen=True)
class RepackOptions:
    """Copy a folder of episodes into one without compression, of which clips are read faster."""

    src: Annotated[Path, tyro.conf.Positional]
    """Folder of episodes."""
    dst: Annotated[Path, tyro.conf.Positional]
    """Folder to copy them to."""
    compress: bool = False
    """Compress instead: smaller files, of which a clip costs reading a whole one."""
    progress: bool = True
    """Show a progress bar."""


def repack(src: Path, dst: Path, *, compress: bool = False, progress: bool = False) -> int:
    """Copy the episodes in `src` that `dst` lacks, one at a time; returns how many.

    Raises InputError for damaged episodes and for others in `dst` that do not fit.
    """
    source, target = EpisodeStore(src, cache_bytes=0), EpisodeStore(dst, create=True)
    if source.root.resolve() == target.root.resolve():
        raise InputError(f"{dst} is the folder to copy from: name another one")
    present = set(target.names)
    names = [name for name in source.names if name not in present]
    for name in tqdm(names, unit="episode", disable=not progress):
        write_episode(target.root, source.read(name), compress=compress, name=name)
    target.refresh()
    return len(names)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = tyro.cli(RepackOptions, args=args, prog=started_as("worldmodel.episodes.repack"))
    copied = repack(options.src, options.dst, compress=options.compress, progress=options.progress)
    print(f"{copied} episodes copied to {options.dst}")


if __name__ == "__main__":
    run_main(main, "interrupted; what is copied stays: the same command goes on")
