"""A logger of your own: where curves and videos of a run go. This one writes RUN/csv/PART.csv, and GIFs beside it.

python examples/extending/logger.py runs/logged
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import train_wm
from lssvwm.agents.running.trackers import TRACKERS
from lssvwm.worldmodel.reporting.video import Pixels, encode_gif


class CsvFile:
    """One part of a run, such as `world_model` or `policy`."""

    def __init__(self, path: Path, step: int) -> None:
        lines = path.read_text().splitlines() if path.exists() else []
        # It goes on after `step`: what a process that was killed logged later will be logged again.
        self.lines, self.path = [line for line in lines if int(line.split(",")[0]) <= step], path

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """One point of a curve."""
        self.lines.append(f"{global_step},{tag},{scalar_value}")

    def add_clip(self, tag: str, frames: Pixels, step: int) -> None:
        """A video, uint8 (T, h, w, 3)."""
        self.path.with_name(f"{tag.replace('/', '-')}-{step}.gif").write_bytes(encode_gif(frames))

    def close(self) -> None:
        """The part has come to its end, or was interrupted."""
        self.path.write_text("\n".join([*self.lines, ""]))


class Csv:
    """Made when a run starts or goes on, with its folder and its settings."""

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.folder = out / "csv"
        self.folder.mkdir(parents=True, exist_ok=True)

    def part(self, name: str, step: int) -> CsvFile:
        """The logger of a part, which goes on after `step`."""
        return CsvFile(self.folder / f"{name}.csv", step)

    def close(self) -> None:
        """The process ends; nothing is open."""


TRACKERS["csv"] = Csv


if __name__ == "__main__":
    train_wm.main(["--preset", "smoke", "--log", "csv", "tensorboard", "--out", *sys.argv[1:]])
