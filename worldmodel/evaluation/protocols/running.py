"""Protocols run for all models on the same clips, a few at a time, whatever the horizon."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.evaluation.metrics.frames import Curve, compare
from lssvwm.worldmodel.evaluation.metrics.fvd import VideoFeatures
from lssvwm.worldmodel.evaluation.metrics.perceptual import Perceptual
from lssvwm.worldmodel.evaluation.models import Model
from lssvwm.worldmodel.evaluation.options import Options
from lssvwm.worldmodel.evaluation.protocols.clips import Windows, draw_windows, read_windows
from lssvwm.worldmodel.evaluation.protocols.figures import metrics_of, plot_drift, summary, write_grid
from lssvwm.worldmodel.evaluation.protocols.judging import Judged, judge, judge_cold_start, trial_for
from lssvwm.worldmodel.evaluation.protocols.rollout import Rollout, rollout
from lssvwm.worldmodel.evaluation.protocols.trials import CORRUPTED, Protocol, Trial
from lssvwm.worldmodel.evaluation.studies.study import Settings

STILL, REAL = "last frame held", "real frames"
"""What the models are seen beside: the frame before the first one asked for, held; and, after a cold start, reality."""


def run_protocol(
    options: Options, protocol: Protocol, models: Sequence[Model], lpips: Perceptual | None, fvd: VideoFeatures | None
) -> dict[str, Judged]:
    """Judge all models in one protocol, and what they are to be seen beside; write its plot and its videos."""
    judged: dict[str, Judged] = {}
    imagined: dict[str, Tensor] = {}
    for model in models:
        if options.progress:
            print(f"{protocol}: {model.name}", file=sys.stderr)
        windows, shown = windows_of(options, protocol, model.store), list[Tensor]()
        if protocol == "cold-start":  # every frame is compared with those of all other clips
            trial = next(trials(options, protocol, model, windows, len(windows.episodes)))
            rolled = roll(options, model, trial, 0)
            judged[model.name] = judge_cold_start(rolled.frames, trial.ahead, windows.episodes)
            shown.append(rolled.frames[: options.shown])
        else:
            with_heads = protocol in ("reasoning", "one-step")
            batches = rolled_out(options, protocol, model, windows, shown)
            judged[model.name] = judge(batches, windows.episodes, heads=with_heads, lpips=lpips, fvd=fvd)
        if options.shown:
            imagined[model.name] = torch.cat(shown)
    model = models[-1]
    windows = windows_of(options, protocol, model.store)
    if protocol == "cold-start":
        ahead = read_windows(model.store, windows)
        reference = {REAL: judge_cold_start(ahead.frames, ahead, windows.episodes)}
    else:
        kept = (held(trial) for trial in trials(options, protocol, model, windows, options.rows))
        reference = {STILL: Judged(windows.episodes, Curve.cat(list(kept)))}
    judged |= reference
    plot_drift(options.out / f"drift-{protocol}.png", protocol, judged, list(reference))
    if options.shown > 0:
        first = windows.rows(slice(options.shown))
        trial = next(trials(options, protocol, model, first, options.shown))
        write_grid(options.out, protocol, trial, imagined, model.store.fps)
    return judged


def trials(options: Options, protocol: Protocol, model: Model, windows: Windows, rows: int) -> Iterator[Trial]:
    """The trials of these windows, read `rows` at a time: no more frames than that are held."""
    for begin in range(0, len(windows.episodes), rows):
        part = slice(begin, begin + rows)
        yield trial_for(
            model.checkpoint.model,
            read_windows(model.store, windows.rows(part)),
            protocol,
            context=options.context,
            horizon=options.horizon,
            corruption=options.corruption,
            seed=options.seed,
            first=begin,
        )


def roll(options: Options | Settings, model: Model, trial: Trial, first: int) -> Rollout:
    """What a model imagines in a trial whose rows are numbered from `first` on."""
    return rollout(
        model.checkpoint.model,
        trial,
        steps=options.steps,
        seed=options.seed,
        rows=options.rows,
        first=first,
        progress=options.progress,
    )


def rolled_out(
    options: Options, protocol: Protocol, model: Model, windows: Windows, shown: list[Tensor]
) -> Iterator[tuple[Trial, Rollout]]:
    """All trials run; the frames of the first `options.shown` clips are added to `shown`."""
    for number, trial in enumerate(trials(options, protocol, model, windows, options.rows)):
        first = number * options.rows
        rolled = roll(options, model, trial, first)
        if first < options.shown:
            shown.append(rolled.frames[: options.shown - first])
        yield trial, rolled


def held(trial: Trial) -> Curve:
    """What holding the last real frame would give: that of the context, or with a teacher the one before."""
    ahead, last = trial.ahead.frames, trial.context.frames[:, -1:]
    frames = torch.cat([last, ahead[:, :-1]], 1) if trial.teacher else last.expand_as(ahead)
    return compare(frames, ahead, trial.ahead.mask)


def losses(clean: Judged, corrupted: Judged) -> dict[str, Any]:
    """What each metric loses against the clean context, clip by clip: clean minus corrupted."""
    before, after = metrics_of(clean), metrics_of(corrupted)
    return {name: summary(before[name] - after[name], clean.episodes) for name in after}


def protocols_of(options: Options) -> tuple[Protocol, ...]:
    """The protocols asked for, once each, and reasoning first where corrupted contexts are compared with it."""
    first: tuple[Protocol, ...] = ("reasoning",) if set(options.protocols) & set(CORRUPTED) else ()
    return tuple(dict.fromkeys((*first, *options.protocols)))


def windows_of(options: Options, protocol: Protocol, store: EpisodeStore) -> Windows:
    """The clips of a protocol: the same windows for every model, and for all protocols after a context."""
    generator = np.random.default_rng(options.seed)
    if protocol == "cold-start":
        return draw_windows(store, options.clips, options.horizon, generator, start="episode")
    return draw_windows(store, options.clips, options.context + options.horizon, generator)
