"""Copy a folder of episodes into one of chunked files, whose clips are read faster, or of `.npz` files for others.

    python -m lssvwm.worldmodel.episodes.repack SRC DST [--npz]

Files keep their names but for the suffix, and so their order: the same seed draws the same clips from both folders.
Published episodes come out as they are read here, with integer actions and end flags. What is in DST already is left as
it is, so a copy that was cut short goes on. Damaged files are named and left out, and the exit status is then 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tqdm import tqdm

from lssvwm.worldmodel.common.command_line import run_main, started_as
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes.files import NPZ, SUFFIX, write_episode
from lssvwm.worldmodel.episodes.store import EpisodeStore

SKIPPED = 3
"""Exit status when some files were left out."""


@dataclass(frozen=True)
class RepackOptions:
    """Copy a folder of episodes into one of chunked files, of which clips are read faster."""

    src: Annotated[Path, tyro.conf.Positional]
    """Folder of episodes."""
    dst: Annotated[Path, tyro.conf.Positional]
    """Folder to copy them to."""
    npz: bool = False
    """Write .npz files instead, as the published ones are: any NumPy reads them, a clip costs reading a whole one."""
    strict: bool = False
    """Stop at the first damaged file instead of leaving it out."""
    progress: bool = True
    """Show a progress bar."""


@dataclass(frozen=True)
class Repacked:
    """What `repack` did: how many episodes it copied, and why others could not be read."""

    copied: int
    broken: dict[str, str]


def repack(src: Path, dst: Path, *, npz: bool = False, strict: bool = False, progress: bool = False) -> Repacked:
    """Copy the episodes in `src` that `dst` lacks, one at a time.

    Raises InputError where there are none, and with `strict` for the first that is damaged.
    """
    source = EpisodeStore(src, cache_bytes=0, strict=strict)
    target = EpisodeStore(dst, create=True, strict=strict)
    if source.root.resolve() == target.root.resolve():
        raise InputError(f"{dst} is the folder to copy from: name another one")
    present = {Path(name).stem for name in target.names}
    names = [name for name in source.names if Path(name).stem not in present]
    broken = source.broken
    for name in tqdm(names, unit="episode", disable=not progress):
        try:
            episode = source.read(name)
        except InputError as error:
            if strict:
                raise
            broken[name] = str(error)
        else:
            write_episode(target.root, episode, name=Path(name).stem + (NPZ if npz else SUFFIX))
    target.refresh()
    return Repacked(len(names) - len(broken.keys() & set(names)), broken)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = tyro.cli(RepackOptions, args=args, prog=started_as("lssvwm.worldmodel.episodes.repack"))
    done = repack(options.src, options.dst, npz=options.npz, strict=options.strict, progress=options.progress)
    print(f"{done.copied} episodes copied to {options.dst}")
    for reason in done.broken.values():
        print(f"left out: {reason}")
    return SKIPPED if done.broken else 0


if __name__ == "__main__":
    run_main(main, "interrupted; what is copied stays: the same command goes on")
