"""Do actions count? The error of frames predicted under wrong actions over that under the right ones.

1.0: actions are ignored. Genie (Bruce et al. 2024, section 3) measures the same as a difference of PSNR.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.episodes.data import led_here
from lssvwm.worldmodel.evaluation.metrics.frames import per_frame, psnr
from lssvwm.worldmodel.evaluation.models import Model
from lssvwm.worldmodel.evaluation.protocols.clips import Windows, draw_windows, read_windows
from lssvwm.worldmodel.evaluation.protocols.figures import plain_band
from lssvwm.worldmodel.evaluation.protocols.running import roll
from lssvwm.worldmodel.evaluation.protocols.trials import Trial, make_trial
from lssvwm.worldmodel.evaluation.studies.study import Settings, Study, cell
from lssvwm.worldmodel.reporting.plots import Line, Plot, constant
from lssvwm.worldmodel.reporting.statistics import Band, FloatArray, by_unit, student_band

KINDS = ("next frame", "dream")


def wrong_of(model: Model, settings: Settings) -> tuple[Windows, Tensor]:
    """The clips, and wrong actions for each; an InputError says what they lack."""
    length = settings.context + settings.horizon
    windows = draw_windows(model.store, settings.clips, length, np.random.default_rng(settings.seed))
    shown, chunk = read_windows(model.store, windows.rows(slice(1))), model.checkpoint.model.config.chunk
    make_trial("one-step", shown, context=settings.context, horizon=settings.horizon, chunk=chunk)
    actions = actions_of(model.store, windows)
    return windows, shuffled(actions, torch.Generator().manual_seed(settings.seed), model.name)


def wrong_actions(models: Sequence[Model], settings: Settings) -> Study:
    """The study: next frames after true ones, and dreams, both under right and wrong actions."""
    table = [("model", "frames", "error, right", "error, wrong", "wrong / right", "clips", "episodes")]
    figures: dict[str, Any] = {}
    lines: list[Line] = []
    for model in models:
        windows, wrong = wrong_of(model, settings)
        figures[model.name] = {}
        for kind in KINDS:
            right, other = errors(model, windows, wrong, kind == "next frame", settings)
            ratio, by_step = ratio_of(right, other, windows), ratio_of(right, other, windows, by_step=True)
            values = (f"{right.mean():.1f}", f"{other.mean():.1f}", cell(ratio))
            table.append((model.name, kind, *values, str(len(right)), str(int(ratio.count))))
            figures[model.name][kind] = {"ratio": plain_band(ratio), "by_distance": plain_band(by_step)}
            lines.append(Line(f"{model.name}, {kind}", range(1, settings.horizon + 1), by_step))
    lines.append(constant("actions ignored", range(1, settings.horizon + 1), 1.0))
    about = (
        "Mean squared error (grey levels of 255) of frames under the recorded actions and under others, each drawn "
        "from all recorded ones that differ from it; the same noise for both. Next frame: after all true frames and "
        f"true actions before it; dream: {settings.horizon} frames on, after {settings.context} real ones. 1.0: "
        f"actions are ignored. {settings.steps} denoising steps, {len(models)} model(s). The ratio is the geometric "
        "mean over episodes of the ratio of mean errors, with its 95 % interval (Student's t on logarithms)."
    )
    plot = Plot(lines, "frames after the context", "error under wrong / right actions")
    return Study("actions", "Action-shuffle ratio", about, table, figures, plot)


def actions_of(store: EpisodeStore, windows: Windows) -> Tensor:
    """The recorded actions of all windows, without their frames: what wrong ones are drawn from."""
    recorded = (store.read(store.names[episode]).action for episode in windows.episodes)
    spans = (slice(start, start + windows.length) for start in windows.starts)
    return torch.from_numpy(np.stack([action[span] for action, span in zip(recorded, spans, strict=True)]))


def shuffled(actions: Tensor, generator: torch.Generator, name: str = "") -> Tensor:
    """For every action (B, T) or (B, T, A) another one that was recorded, never the same; none stays none."""
    known = led_here(actions)
    pool = actions[known]
    kinds, which = torch.unique(pool, dim=0, return_inverse=True)
    if len(kinds) < 2:
        raise InputError(
            f"{name}: the clips have {'one action' if len(kinds) else 'no action'} only, so there is no wrong one: "
            "name episodes with more, or leave --studies actions out"
        )
    order = which.argsort(stable=True)
    counts = torch.bincount(which)
    # From the pool sorted by kind, a draw that skips the kind's own block.
    begin = counts.cumsum(0) - counts
    drawn = (torch.rand(len(which), generator=generator) * (len(which) - counts[which])).long()
    drawn = torch.minimum(drawn, len(which) - counts[which] - 1)
    drawn = drawn + torch.where(drawn >= begin[which], counts[which], 0)
    other = actions.clone()
    other[known] = pool[order[drawn]]
    return other


def errors(
    model: Model, windows: Windows, wrong: Tensor, teacher: bool, settings: Settings
) -> tuple[FloatArray, FloatArray]:
    """Mean squared errors (clips, horizon), at least `metrics.MSE_FLOOR`, under right and under wrong actions."""
    world, found = model.checkpoint.model, []
    for begin in range(0, len(windows.episodes), settings.rows):
        part = slice(begin, begin + settings.rows)
        clips = read_windows(model.store, windows.rows(part))
        trial = make_trial(
            "one-step" if teacher else "reasoning",
            clips,
            context=settings.context,
            horizon=settings.horizon,
            chunk=world.config.chunk,
        )
        other = replace(trial, told=wrong[part, settings.context :])
        found.append(torch.stack([_errors(model, each, begin, settings) for each in (trial, other)]))
    right, misled = torch.cat(found, 1).numpy()
    return right, misled


def _errors(model: Model, trial: Trial, first: int, settings: Settings) -> Tensor:
    rolled = roll(settings, model, trial, first)
    return 255**2 / 10 ** (per_frame(psnr, rolled.frames, trial.ahead.frames) / 10)


def ratio_of(right: FloatArray, wrong: FloatArray, windows: Windows, *, by_step: bool = False) -> Band:
    """Geometric mean over episodes of the ratio of mean errors, as a whole or by step, with its interval."""
    both = [each if by_step else each.mean(1) for each in (right, wrong)]
    mean_right, mean_wrong = (by_unit(each, windows.episodes) for each in both)
    band = student_band(np.log(mean_wrong / mean_right))
    return Band(np.exp(band.mean), np.exp(band.low), np.exp(band.high), band.count)
