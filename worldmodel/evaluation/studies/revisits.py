"""Return to a place seen before: is a view known again that was in sight long ago?

The frames say themselves where that is, so recordings without actions and poses (free-form video) can be judged too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.evaluation.metrics.frames import MSE_FLOOR, psnr
from lssvwm.worldmodel.evaluation.models import Model
from lssvwm.worldmodel.evaluation.protocols.clips import IntArray
from lssvwm.worldmodel.evaluation.protocols.figures import plain_band
from lssvwm.worldmodel.evaluation.studies.memory_use import next_frames
from lssvwm.worldmodel.evaluation.studies.study import Settings, Study, cell
from lssvwm.worldmodel.reporting.plots import Line, Plot, constant
from lssvwm.worldmodel.reporting.statistics import FloatArray, student_band


@dataclass(frozen=True)
class Revisits:
    """Frames that look like one seen long ago and like none of the last: what each memory makes of them."""

    last: int = 16
    """Frames of the short memory, none of which may look alike."""
    alike: float = 28.0
    """PSNR in dB from which on two frames of a recording count as the same view."""
    frames: int = 16
    """Frames of either kind, returned to and new, that are predicted in each episode, at most."""
    episodes: int = 16
    """Episodes that are read, at most."""

    def __post_init__(self) -> None:
        for name in ("last", "frames", "episodes"):
            if getattr(self, name) < 1:
                raise InputError(f"revisits.{name}={getattr(self, name)}: give at least 1")


KINDS = ("returned to", "new")


def looked_at(store: EpisodeStore, config: Revisits, settings: Settings) -> tuple[IntArray, list[Sights]]:
    """Episodes, and what is seen again in each; an InputError where none returns to anything."""
    able = np.flatnonzero(store.lengths > config.last + 1)
    drawn = np.random.default_rng(settings.seed).permutation(able)[: config.episodes]
    seen = [sights(store.read(store.names[e]).image, config) for e in drawn]
    if not any(len(each.returned) for each in seen):
        raise InputError(
            f"{store.root}: no frame of {len(drawn)} episodes looks like one more than {config.last} frames before "
            f"({config.alike} dB) and like none since: lower --revisits.alike, or record longer episodes"
        )
    return drawn, seen


def revisits(models: Sequence[Model], config: Revisits, settings: Settings) -> Study:
    """The study; an InputError where no episode returns to anything."""
    store = models[0].store
    drawn, seen = looked_at(store, config, settings)
    table = [("model", "view", "all history, dB", f"last {config.last}, dB", "difference, dB", "frames", "episodes")]
    figures: dict[str, Any] = {}
    lines: list[Line] = []
    ages = [1.5 * low for low in spans(seen, config.last)]
    for model in models:
        chunk = model.checkpoint.model.config.chunk
        times = [np.unique(np.concatenate([each.returned, each.new]) // chunk * chunk) for each in seen]
        times = [each[each > 0] for each in times]
        found = next_frames(
            model.checkpoint.model, model.store, drawn, times, last=config.last, settings=settings, name=model.name
        )
        figures[model.name], curve = {}, []
        for label, chosen in groups_of(seen, config.last, chunk).items():
            parts = [f[np.isin(t, c)] for f, t, c in zip(found, times, chosen, strict=True)]
            values = np.stack([_mean(part) for part in parts])
            both, gain = student_band(values), student_band(values[:, 0] - values[:, 1])
            count = sum(map(len, parts))
            sizes = (str(count), str(int(gain.count)))
            table.append((model.name, label, cell(both, 0), cell(both, 1), cell(gain), *sizes))
            figures[model.name][label] = {"frames": count, "both": plain_band(both), "difference": plain_band(gain)}
            if label not in KINDS:
                curve.append(values[:, 0] - values[:, 1])
        lines.append(Line(model.name, ages[: len(curve)], student_band(np.stack(curve, 1))))
    lines.append(constant("no use", ages, 0.0))
    copies = student_band(np.array([_mean(each.copy[:, None])[0] for each in seen]))
    count = sum(len(each.returned) for each in seen)
    table.append(("the view as seen before", KINDS[0], cell(copies), "", "", str(count), str(int(copies.count))))
    about = (
        f"PSNR of the next frame, {settings.steps} denoising steps, after all frames before it and after the last "
        f"{config.last} alone. Returned to: a frame before those is within {config.alike} dB of it, none of the last "
        f"{config.last} is; new: none is. {len(models)} model(s), {len(drawn)} of {len(store)} episodes, at most "
        f"{config.frames} frames of either kind in each; means and 95 % intervals (Student's t) over episodes."
    )
    plot = Plot(lines, "frames since the view was last seen", f"all history minus last {config.last}, dB", log=True)
    return Study("revisits", "Return to a place seen before", about, table, figures, plot)


@dataclass(frozen=True)
class Sights:
    """Frames of an episode that show a view again, with the PSNR of its best earlier sight, and frames that do not."""

    returned: IntArray
    ago: IntArray  # frames since a view like it was last seen
    copy: FloatArray
    new: IntArray


def groups_of(seen: Sequence[Sights], last: int, chunk: int) -> dict[str, list[IntArray]]:
    """Frames of every episode by kind, and those returned to by how long ago their view was seen; ends double."""
    groups = {KINDS[0]: [each.returned for each in seen], KINDS[1]: [each.new for each in seen]}
    for low in spans(seen, last):
        inside = [(each.ago >= low) & (each.ago < 2 * low) for each in seen]
        chosen = [each.returned[here] for each, here in zip(seen, inside, strict=True)]
        groups[f"{KINDS[0]}, {low} to {2 * low - 1} frames ago"] = chosen
    return {label: [times // chunk * chunk for times in chosen] for label, chosen in groups.items()}


def spans(seen: Sequence[Sights], last: int) -> list[int]:
    """Where each group by time ago begins."""
    longest = max((int(each.ago.max()) for each in seen if len(each.ago)), default=0)
    return [(last + 1) * 2**n for n in range(32) if (last + 1) * 2**n <= longest]


def sights(image: NDArray[np.uint8], config: Revisits) -> Sights:
    """Frames (T, h, w, 3) sorted by whether their view was seen before, at most `frames` of a kind, evenly spread."""
    likeness = psnr_between(image)
    time = np.arange(len(image))
    ago = time[:, None] - time
    before = np.where(ago > config.last, likeness, -np.inf).max(1)
    lately = np.where((ago > 0) & (ago <= config.last), likeness, -np.inf).max(1)
    known, new = before >= config.alike, before < config.alike
    fresh = (time > config.last) & (lately < config.alike)
    returned = _spread(np.flatnonzero(fresh & known), config.frames)
    best = np.where(ago > config.last, likeness, -np.inf).argmax(1)[returned]
    since = np.where((ago > config.last) & (likeness >= config.alike), ago, len(image)).min(1)[returned]
    copies = psnr(torch.from_numpy(image[best]), torch.from_numpy(image[returned])).numpy()  # exact, unlike the product
    return Sights(returned, since, copies, _spread(np.flatnonzero(fresh & new), config.frames))


def psnr_between(image: NDArray[np.uint8]) -> FloatArray:
    """PSNR of every pair of frames (T, h, w, 3), in dB: (T, T)."""
    flat = image.reshape(len(image), -1).astype(np.float32) / 255
    squares = (flat * flat).sum(1, dtype=np.float64)
    error = (squares[:, None] + squares - 2.0 * (flat @ flat.T)) / flat.shape[1]
    return np.asarray(-10 * np.log10(np.maximum(error, MSE_FLOOR / 255**2)))


def _spread(times: IntArray, count: int) -> IntArray:
    return times if len(times) <= count else times[np.linspace(0, len(times) - 1, count).round().astype(int)]


def _mean(values: FloatArray) -> FloatArray:
    return values.mean(0) if len(values) else np.full(values.shape[1:], np.nan)
