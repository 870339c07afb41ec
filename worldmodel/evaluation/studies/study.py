"""What all studies share: how they are run, what they find, and the figure that they leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lssvwm.worldmodel.common.atomic import replace
from lssvwm.worldmodel.common.errors import require
from lssvwm.worldmodel.common.rng import row_generators
from lssvwm.worldmodel.episodes import Clips
from lssvwm.worldmodel.evaluation.metrics import psnr
from lssvwm.worldmodel.evaluation.page import Section
from lssvwm.worldmodel.evaluation.report import COLORS, REFERENCE, Table, number
from lssvwm.worldmodel.evaluation.rollout import continue_clip
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.model import WorldModel
from lssvwm.worldmodel.reporting.statistics import Band


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
class Line:
    """One curve of a figure; a reference is dashed and grey."""

    label: str
    at: Sequence[float]
    band: Band
    reference: bool = False


@dataclass(frozen=True)
class Study:
    """What was found: a table, figures for JSON, and one figure of curves."""

    name: str
    title: str
    about: str
    """How many models, episodes and clips it is of, and what its intervals are over."""
    table: Table
    figures: Mapping[str, Any]
    lines: tuple[Line, ...]
    axes: tuple[str, str]
    """What runs along x and y."""
    log: bool = False
    """Whether x is logarithmic."""

    @property
    def picture(self) -> str:
        """Name of the file with the curves."""
        return f"{self.name}.png"

    def section(self) -> Section:
        """Its place on the page."""
        return Section(self.title, self.about, self.table, (self.picture,))


def predicted(
    model: WorldModel, told: Clips, memory: Memory, generators: Sequence[torch.Generator], steps: int | None
) -> Tensor:
    """PSNR (B,) of the frames that the model predicts next, one or a chunk: told (B, c), whose frames are the truth."""
    new = continue_clip(model, told, memory, steps=steps, generators=generators)
    return psnr(new.frames, told.frames).mean(1).cpu()


def generators_of(seed: int, step: int, rows: Sequence[int], device: torch.device) -> list[torch.Generator]:
    """Generators that follow from (seed, step, row): what is compared draws the same noise."""
    return [row_generators(seed, step, range(row, row + 1), device)[0] for row in rows]


def cell(band: Band, at: int | tuple[int, ...] = ()) -> str:
    """Mean and interval of one entry as text."""
    mean, low, high = (float(part[at]) for part in (band.mean, band.low, band.high))
    if np.isnan(mean):
        return "-"
    return number(mean) if np.isnan(low) else f"{number(mean)} [{number(low)}, {number(high)}]"


def plain_band(band: Band) -> dict[str, Any]:
    """For JSON."""
    return {"mean": band.mean, "low": band.low, "high": band.high, "episodes": band.count}


def plot_study(path: Path, study: Study) -> None:
    """Write a PNG: the curves of a study with their intervals."""
    figure_module = require("matplotlib.figure", "video", "plots")
    figure = figure_module.Figure((6.4, 3.8), layout="constrained", dpi=150)
    axes = figure.subplots()
    colors = iter(COLORS * (1 + len(study.lines) // len(COLORS)))
    for line in study.lines:
        color, style = (REFERENCE, "--") if line.reference else (next(colors), "-")
        marker = "o" if len(line.at) <= 12 else ""
        axes.fill_between(line.at, line.band.low, line.band.high, color=color, alpha=0.15, linewidth=0)
        axes.plot(
            line.at, line.band.mean, style, color=color, linewidth=1.5, marker=marker, markersize=3, label=line.label
        )
    axes.set_xlabel(study.axes[0])
    if study.log:
        axes.set_xscale("log")
    axes.set_ylabel(study.axes[1])
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.suptitle(study.title, fontsize=11)
    replace(path, lambda temporary: figure.savefig(temporary, format="png"))
