"""Coherence under noise: some frames go wrong; how much worse are the next ones predicted, and for how long?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.common.rng import normal
from lssvwm.worldmodel.episodes import Clips, EpisodeStore
from lssvwm.worldmodel.evaluation.clips import IntArray, Windows, draw_windows, read_windows
from lssvwm.worldmodel.evaluation.models import Model
from lssvwm.worldmodel.evaluation.report import number
from lssvwm.worldmodel.evaluation.rollout import observe
from lssvwm.worldmodel.evaluation.studies.study import Line, Settings, Study, cell, generators_of, plain_band, predicted
from lssvwm.worldmodel.evaluation.trials import window
from lssvwm.worldmodel.model import WorldModel
from lssvwm.worldmodel.reporting.statistics import FloatArray, by_unit, rate_interval, student_band

Disturbance = Literal["dropped", "noised", "jumped"]
MEMORIES = ("all history", "window")


@dataclass(frozen=True)
class Recovery:
    """What goes wrong after the context, and when a model counts as recovered from it."""

    kinds: tuple[Disturbance, ...] = get_args(Disturbance)
    """dropped: the frames are missing; noised: Gaussian noise on every pixel; jumped: they show another place of the
    episode, while actions go on."""
    frames: int = 8
    """Frames that go wrong."""
    noise: float = 0.3
    """Deviation of the noise, in units of the whole range."""
    last: int = 16
    """Frames that the limited window sees, of those that there are."""
    within: float = 1.0
    """A clip has recovered at the first frame that is predicted no more than this many dB worse than undisturbed."""

    def __post_init__(self) -> None:
        for name in ("frames", "last"):
            if getattr(self, name) < 1:
                raise InputError(f"recovery.{name}={getattr(self, name)}: give at least 1")
        if self.noise <= 0 or self.within <= 0:
            raise InputError(f"recovery.noise={self.noise}, recovery.within={self.within}: give numbers above 0")


def disturbed_windows(models: Sequence[Model], config: Recovery, settings: Settings) -> Windows:
    """The clips, the same for all models; an InputError says what a study of these models lacks."""
    if settings.context < 1:
        raise InputError("--context 0: frames go wrong after at least 1 that is right")
    chunk = {model.checkpoint.model.config.chunk for model in models}
    if any(n % c for c in chunk for n in (settings.context, settings.horizon, config.frames)):
        raise InputError(
            f"--context {settings.context}, --horizon {settings.horizon} and --recovery.frames {config.frames} must be "
            f"whole chunks of {max(chunk)} frames, which a model denoises jointly"
        )
    length, store = settings.context + config.frames + settings.horizon, models[0].store
    windows = draw_windows(store, settings.clips, length, np.random.default_rng(settings.seed))
    other_places(store, windows, config.frames, settings.context, settings.seed)
    return windows


def recovery(models: Sequence[Model], config: Recovery, settings: Settings) -> Study:
    """The study: every frame after the disturbance is predicted from all true ones between, and from a window."""
    windows = disturbed_windows(models, config, settings)
    near = sorted({1, min(4, settings.horizon), settings.horizon})
    titles = ("undisturbed, dB", *(f"lost at frame {n}, dB" for n in near), "frames until recovered", "recovered")
    table = [("model", "disturbance", "memory", *titles, "clips", "episodes")]
    figures: dict[str, Any] = {}
    lines: list[Line] = []
    for model in models:
        found = disturbed(model, windows, config, settings)
        figures[model.name] = {}
        for kind in config.kinds:
            for m, memory in enumerate((MEMORIES[0], f"last {config.last}")):
                clean, lost = found["clean"][..., m], found["clean"][..., m] - found[kind][..., m]
                until, share = frames_until(lost, config.within), (lost <= config.within).any(1)
                bands = [student_band(by_unit(each, windows.episodes)) for each in (clean.mean(1), lost, until)]
                hits = by_unit(share.astype(float), windows.episodes)
                rate = rate_interval(float(hits.sum()), len(hits))
                ends = (cell(bands[1], n - 1) for n in near)
                told = f"{number(rate.mean)} [{number(rate.low)}, {number(rate.high)}]"
                sizes = (str(len(clean)), str(len(hits)))
                table.append((model.name, kind, memory, cell(bands[0]), *ends, cell(bands[2]), told, *sizes))
                parts = dict(zip(("undisturbed", "lost", "until"), map(plain_band, bands), strict=True))
                figures[model.name].setdefault(kind, {})[MEMORIES[m]] = {**parts, "recovered": rate.to_dict()}
                if m == 0:
                    lines.append(Line(f"{model.name}, {kind}", range(1, settings.horizon + 1), bands[1]))
    about = (
        f"After {settings.context} true frames {config.frames} go wrong (noise of {config.noise} of the range); then "
        f"every one of {settings.horizon} frames is predicted after the true ones before it, {settings.steps} "
        "denoising steps, the same noise with and without. Lost: undisturbed minus disturbed PSNR. Recovered: no more "
        f"than {config.within} dB lost, after how many true frames, {settings.horizon} where never. Last "
        f"{config.last}: the same model with a memory of no more frames. {len(models)} model(s); means and 95 % "
        "intervals over episodes, Student's t and for rates Wilson's."
    )
    axes = ("frames after the disturbance", "undisturbed minus disturbed, dB")
    return Study("recovery", "Coherence under noise", about, tuple(table), figures, tuple(lines), axes)


def frames_until(lost: FloatArray, within: float) -> FloatArray:
    """True frames since the disturbance before the loss (clips, horizon) is first within bounds; horizon: never."""
    recovered = lost <= within
    first: FloatArray = np.where(recovered.any(1), recovered.argmax(1), lost.shape[1]).astype(np.float64)
    return first


def disturbed(model: Model, windows: Windows, config: Recovery, settings: Settings) -> Mapping[str, FloatArray]:
    """PSNR (clips, horizon, 2) of the frames after the disturbance, by memory: `clean` and of every kind."""
    world, found = model.checkpoint.model, {}
    begin = settings.context
    elsewhere = other_places(model.store, windows, config.frames, begin, settings.seed)
    parts = range(0, len(windows.episodes), settings.rows)
    for kind in ("clean", *config.kinds):
        rows: list[Tensor] = []
        for first in tqdm(parts, desc=f"{kind}: {model.name}", unit="batch", disable=not settings.progress):
            part = slice(first, first + settings.rows)
            clips = read_windows(model.store, windows.rows(part))
            if kind == "jumped":
                instead = model.store.gather(windows.episodes[part], elsewhere[part], config.frames).frames
                clips = replaced(clips, begin, instead)
            elif kind == "noised":
                numbers = range(first, first + len(clips.mask))
                generators = generators_of(settings.seed, 1, numbers, clips.frames.device)
                bad = clips.frames[:, begin : begin + config.frames]
                noise = normal(tuple(bad.shape), generators, clips.rewards) * (255 * config.noise)
                clips = replaced(clips, begin, (bad + noise).round().clamp(0, 255).to(torch.uint8))
            elif kind == "dropped":
                kept = [t for t in range(windows.length) if not begin <= t < begin + config.frames]
                clips = clips.map(lambda part, kept=kept: part[:, kept])
            rows.append(stream(world, clips.to(world.device), settings, config.last, first))
        found[kind] = torch.cat(rows).numpy()
    return found


@torch.no_grad()
def stream(model: WorldModel, clips: Clips, settings: Settings, last: int, first: int) -> Tensor:
    """PSNR (B, horizon, 2) of the last `horizon` frames, each predicted after all before and after the `last` before.

    A chunk has the mean of its frames at each of them.
    """
    chunk, frames = model.config.chunk, clips.mask.shape[1]
    last, rows = max(chunk, last - last % chunk), range(first, first + len(clips.mask))
    memory, found = observe(model, window(clips, 0, frames - settings.horizon), model.empty(len(rows))).memory, []
    for t in range(frames - settings.horizon, frames, chunk):
        told = window(clips, t, t + chunk)
        short = observe(model, window(clips, max(0, t - last), t), model.empty(len(rows))).memory
        sides = [
            predicted(model, told, known, generators_of(settings.seed, frames - t, rows, model.device), settings.steps)
            for known in (memory, short)
        ]
        found += [torch.stack(sides, 1)] * chunk
        memory = observe(model, told, memory).memory
    return torch.stack(found, 1)


def other_places(store: EpisodeStore, windows: Windows, frames: int, begin: int, seed: int) -> IntArray:
    """For every window the start of `frames` frames of its episode that do not overlap those that they replace."""
    generator, found = np.random.default_rng(seed), []
    for episode, start in zip(windows.episodes, windows.starts, strict=True):
        able = np.arange(store.lengths[episode] - frames + 1)
        able = able[abs(able - (start + begin)) >= frames]
        if not len(able):
            raise InputError(
                f"{store.root / store.names[episode]}: {frames} frames of another place of the episode are wanted, it "
                f"has {store.lengths[episode]} in all: fewer --recovery.frames, or longer episodes"
            )
        found.append(generator.choice(able))
    return np.array(found, np.int64)


def replaced(clips: Clips, begin: int, frames: Tensor) -> Clips:
    """The clips with other pixels from frame `begin` on; actions and poses as recorded."""
    shown = clips.frames.clone()
    shown[:, begin : begin + frames.shape[1]] = frames
    return replace(clips, frames=shown)
