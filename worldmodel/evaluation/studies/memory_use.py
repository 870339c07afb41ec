"""Is the past used? The next frame predicted from all history against that from the last few frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import Clips, EpisodeStore
from lssvwm.worldmodel.evaluation.models import Model
from lssvwm.worldmodel.evaluation.protocols.clips import IntArray
from lssvwm.worldmodel.evaluation.protocols.figures import plain_band
from lssvwm.worldmodel.evaluation.protocols.rollout import SEGMENT, observe
from lssvwm.worldmodel.evaluation.studies.study import Settings, Study, cell, predicted
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.model import WorldModel
from lssvwm.worldmodel.reporting.plots import Line, Plot, constant
from lssvwm.worldmodel.reporting.statistics import FloatArray, student_band

AGES = (64, 128, 256, 512, 900)
"""Where the next frame is predicted, as far as episodes go, unless something else is asked for."""


@dataclass(frozen=True)
class MemoryUse:
    """The next frame after a whole past, against the same frame after the last few alone."""

    last: int = 16
    """Frames that the short memory has seen."""
    ages: tuple[int, ...] = ()
    """Frames since the episode began at which the next ones are predicted; none: 64, 128, 256, 512 and 900, as far as
    episodes go."""
    frames: int = 4
    """Frames predicted from each age on, every one after the true ones."""
    episodes: int = 16
    """Episodes that are read, at most."""

    def __post_init__(self) -> None:
        for name in ("last", "frames", "episodes"):
            if getattr(self, name) < 1:
                raise InputError(f"memory.{name}={getattr(self, name)}: give at least 1")
        if any(age < 1 for age in self.ages):
            raise InputError(f"memory.ages={self.ages}: an age is the number of frames before, at least 1")


def memory_use(models: Sequence[Model], config: MemoryUse, settings: Settings) -> Study | None:
    """The study. None where nothing was asked for and no episode is longer than the short memory."""
    lengths = models[0].store.lengths
    ages = ages_of(config, lengths)
    if not ages:
        return None
    able = np.flatnonzero(lengths > ages[0])
    drawn = np.random.default_rng(settings.seed).permutation(able)[: config.episodes]
    table = [("model", "age", "all history, dB", f"last {config.last}, dB", "difference, dB", "episodes")]
    figures: dict[str, Any] = {}
    lines: list[Line] = []
    for model in models:
        chunk = model.checkpoint.model.config.chunk
        starts = [age - age % chunk for age in ages]
        steps = np.arange(config.frames) * chunk
        times = [np.unique([t for at in starts for t in at + steps if t + chunk <= lengths[e] and t]) for e in drawn]
        found = next_frames(
            model.checkpoint.model, model.store, drawn, times, last=config.last, settings=settings, name=model.name
        )
        values = np.stack([[of_age(f, t, at, steps) for at in starts] for f, t in zip(found, times, strict=True)])
        both, gain = student_band(values), student_band(values[..., 0] - values[..., 1])
        for i, age in enumerate(ages):
            sides = (cell(both, (i, 0)), cell(both, (i, 1)))
            table.append((model.name, str(age), *sides, cell(gain, i), str(gain.count[i])))
        figures[model.name] = {"ages": ages, "both": plain_band(both), "difference": plain_band(gain)}
        lines.append(Line(model.name, ages, gain))
    lines.append(constant("no use", ages, 0.0))
    about = (
        f"PSNR of the next frame, {settings.steps} denoising steps, {config.frames} frames from each age on, the same "
        f"noise for both memories. {len(models)} model(s), {len(drawn)} of {len(lengths)} episodes, read from their "
        "beginning; means and 95 % intervals (Student's t) over episodes. Difference: all history minus the last "
        f"{config.last} frames, above 0 where the longer past helps."
    )
    plot = Plot(lines, "frames since the episode began", f"all history minus last {config.last}, dB")
    return Study("memory", "Use of memory", about, table, figures, plot)


def ages_of(config: MemoryUse, lengths: IntArray) -> list[int]:
    """The ages that episodes of these lengths have; an InputError where one that was asked for fits none."""
    longest = int(lengths.max())
    for age in config.ages:
        if age >= longest:
            raise InputError(
                f"--memory.ages {age}: the next frame would be number {age}, but the longest episode has {longest} "
                "(0 to the last): give a smaller age, or record longer episodes"
            )
    if config.ages:
        return sorted(set(config.ages))
    fits = [age for age in AGES if config.last < age < longest]
    late = longest - config.frames
    return fits or ([late] if late > config.last else [])


def of_age(found: FloatArray, times: IntArray, start: int, steps: IntArray) -> FloatArray:
    """Mean (2,) of what was predicted from frame `start` on; NaN where the episode has no such frame."""
    here = found[np.isin(times, start + steps)]
    return here.mean(0) if len(here) else np.full(2, np.nan)


@torch.no_grad()
def next_frames(
    model: WorldModel,
    store: EpisodeStore,
    episodes: IntArray,
    times: Sequence[IntArray],
    *,
    last: int,
    settings: Settings,
    name: str = "",
) -> list[FloatArray]:
    """PSNR of frames `times[i]` of episode `episodes[i]`, predicted from all before and from the `last` before: (n, 2).

    Episodes are read once, a segment at a time, so memory does not grow with their length. Times are whole chunks.
    """
    chunk, found = model.config.chunk, [np.full((len(each), 2), np.nan) for each in times]
    last = max(chunk, last - last % chunk)
    total = sum(len(each) for each in times)
    with tqdm(total=total, desc=f"next frame: {name}", unit="frame", disable=not settings.progress) as bar:
        for begin in range(0, len(episodes), settings.rows):
            here, wanted = episodes[begin : begin + settings.rows], times[begin : begin + settings.rows]
            memory, done = model.empty(len(here)), 0
            for time in sorted({int(t) for each in wanted for t in each}):
                memory = _read_on(model, store, here, memory, done, time)
                done = time
                which = [row for row, each in enumerate(wanted) if time in each]
                told = _gather(model, store, here[which], time, chunk)
                short = _gather(model, store, here[which], max(0, time - last), min(last, time))
                recent = observe(model, short, model.empty(len(which))).memory
                for side, known in enumerate((memory.select(torch.tensor(which, device=model.device)), recent)):
                    values = predicted(model, told, known, settings, time, here[which].tolist())
                    for row, value in zip(which, values.tolist(), strict=True):
                        found[begin + row][wanted[row] == time, side] = value
                bar.update(len(which))
    return found


def _read_on(
    model: WorldModel, store: EpisodeStore, episodes: IntArray, memory: Memory, begin: int, end: int
) -> Memory:
    """Memory after frames `begin` to `end` - 1; what lies past an episode's end is observed and never asked for."""
    segment = max(1, SEGMENT // model.config.chunk) * model.config.chunk
    for at in range(begin, end, segment):
        memory = observe(model, _gather(model, store, episodes, at, min(segment, end - at)), memory).memory
    return memory


def _gather(model: WorldModel, store: EpisodeStore, episodes: IntArray, start: int, length: int) -> Clips:
    return store.gather(episodes, np.full(len(episodes), start), length).to(model.device)
