"""What all studies share: how they are run, what they find, and the figure that they leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lssvwm.worldmodel.common.rng import row_generators
from lssvwm.worldmodel.episodes import Clips
from lssvwm.worldmodel.evaluation.metrics.frames import psnr
from lssvwm.worldmodel.evaluation.protocols.rollout import continue_clip
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.model import WorldModel
from lssvwm.worldmodel.reporting.page import Section
from lssvwm.worldmodel.reporting.plots import Plot, plotted, write_plot
from lssvwm.worldmodel.reporting.statistics import Band
from lssvwm.worldmodel.reporting.tables import Table, estimate


@dataclass(frozen=True)
class Settings:
    """How studies are run: the options of the command that they have in common."""

    context: int = 48
    horizon: int = 48
    clips: int = 64
    steps: int | None = 4
    rows: int = 16
    seed: int = 0
    progress: bool = False


@dataclass(frozen=True)
class Study:
    """What was found: a table, figures for JSON, and a plot."""

    name: str
    title: str
    about: str
    """How many models, episodes and clips it is of, and what its intervals are over."""
    table: Table
    figures: Mapping[str, Any]
    plot: Plot

    @property
    def picture(self) -> str:
        """Name of the file with the plot."""
        return f"{self.name}.png"

    def section(self) -> Section:
        """Its place on the page."""
        return Section(self.title, self.about, self.table, (self.picture,))


def predicted(
    model: WorldModel, told: Clips, memory: Memory, settings: Settings, step: int, rows: Sequence[int]
) -> Tensor:
    """PSNR (B,) of the frames that the model predicts next, one or a chunk: told (B, c), whose frames are the truth.

    The noise follows from `step` and the number of the row, whatever the memory is.
    """
    generators = row_generators(settings.seed, step, rows, model.device)
    new = continue_clip(model, told, memory, steps=settings.steps, generators=generators)
    return psnr(new.frames, told.frames).mean(1).cpu()


def cell(band: Band, at: int | tuple[int, ...] = ()) -> str:
    """Mean and interval of one entry as text."""
    return estimate(*(float(part[at]) for part in (band.mean, band.low, band.high)))


def plot_study(path: Path, study: Study) -> None:
    """Write a PNG: the curves of a study with their intervals."""
    write_plot(path, plotted([study.plot], study.title, width=6.4, height=3.8))
