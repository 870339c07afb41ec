"""Convert recorded play to episodes: `python -m lssvwm.envs.recorded FORMAT FROM --to STORE`.

Exit status: 0 when every recording was converted, 3 when some were skipped because they are broken, 2 when nothing
could be done (or with `--strict` at the first broken one), 130 when it was interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from lssvwm.envs.recorded.convert import convert
from lssvwm.envs.recorded.formats.registry import recording
from lssvwm.envs.recorded.interface import ReadOptions
from lssvwm.envs.recorded.reader import PATIENCE
from lssvwm.worldmodel.common.command_line import run_main, started_as

SKIPPED = 3
"""Exit status when some recordings were skipped."""
INTERRUPTED = "interrupted: what is done stays, and the same command goes on from there"


@dataclass(frozen=True)
class ConvertOptions:
    """Convert recorded play to episodes. An interrupted conversion goes on when it is started again."""

    format: Annotated[
        Literal["memory-maze", "teco-dmlab", "teco-minecraft", "minerl", "vpt", "minari", "lerobot", "rlds", "videos"],
        tyro.conf.Positional,
    ]
    """What was recorded."""
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FROM")]
    """Folder of recordings; folders in it are searched too."""
    to: Path
    """Folder of episodes. It takes one format with one set of options."""
    read: Annotated[ReadOptions, tyro.conf.OmitArgPrefixes]
    """How recordings are read."""
    limit: int | None = None
    """Convert no more than so many recordings, the first."""
    strict: bool = False
    """Stop at the first broken recording instead of skipping it."""
    progress: bool = True
    """Show a progress bar."""
    patience: float = PATIENCE
    """Seconds without an episode until a recording is given up as damaged; with --every n, n times as long."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = tyro.cli(ConvertOptions, args=args, prog=started_as("lssvwm.envs.recorded"))
    summary = convert(
        recording(options.format),
        options.folder,
        options.to,
        options.read,
        limit=options.limit,
        strict=options.strict,
        progress=options.progress,
        patience=options.patience,
    )
    print(summary)
    return SKIPPED if summary.broken else 0


if __name__ == "__main__":
    run_main(main, INTERRUPTED)
