"""Are rewards dreamt? What dreams along recorded actions pay at frames that were rewarded, by where they began.

What a dream pays too little cannot be learned in it, what it pays too much will be: this tells before any policy is
trained whether dreams can pay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.evaluation.models import Model
from lssvwm.worldmodel.evaluation.protocols.clips import Windows, draw_windows, read_windows
from lssvwm.worldmodel.evaluation.protocols.figures import plain_band
from lssvwm.worldmodel.evaluation.protocols.running import roll
from lssvwm.worldmodel.evaluation.protocols.trials import make_trial
from lssvwm.worldmodel.evaluation.studies.study import Settings, Study, cell
from lssvwm.worldmodel.reporting.plots import Line, Plot, constant
from lssvwm.worldmodel.reporting.statistics import Band, FloatArray, by_unit, student_band


class Paid(NamedTuple):
    """Rewards (clips, horizon) of dreams along recorded actions, and those that were recorded."""

    dreamt: FloatArray
    recorded: FloatArray


def rewarded(models: Sequence[Model], settings: Settings) -> Windows:
    """Windows of context and horizon whose last frame brought a reward, `settings.clips` at most.

    Raises InputError where there is none, or where context and horizon are no whole chunks of all models.
    """
    store, length, chunk = models[0].store, settings.context + settings.horizon, together(models)
    if settings.context % chunk or settings.horizon % chunk:
        raise InputError(
            f"--context {settings.context} and --horizon {settings.horizon} must be whole chunks of {chunk} frames, "
            "which the models denoise jointly"
        )
    found = [
        (episode, last - length + 1)
        for episode, name in enumerate(store.names)
        for last in np.flatnonzero(store.read_array(name, "reward"))  # type: ignore[arg-type]
        if last >= length - 1
    ]
    if not found:
        raise InputError(
            f"{store.root}: no reward comes after {length - 1} frames or more (--context {settings.context}, --horizon "
            f"{settings.horizon}): name episodes with rewards, or give fewer frames"
        )
    drawn = np.random.default_rng(settings.seed).permutation(len(found))[: settings.clips]
    episodes, starts = np.array(found, np.int64)[np.sort(drawn)].T
    return Windows(episodes, starts, length)


def rewards(models: Sequence[Model], settings: Settings) -> Study:
    """The study: at rewarded frames by how many dreamt frames led there, and all that is paid, from anywhere."""
    at, chunk = rewarded(models, settings), together(models)
    anywhere = draw_windows(models[0].store, settings.clips, at.length, np.random.default_rng(settings.seed))
    ahead = [chunk * 2**k for k in range(settings.horizon.bit_length()) if chunk * 2**k <= settings.horizon]
    titles = [f"dreamt / recorded, {n} ahead" for n in ahead]
    table = [("model", *titles, "a frame anywhere: recorded", "dreamt", "rewards", "episodes")]
    figures: dict[str, Any] = {}
    lines: list[Line] = []
    for model in models:
        shares = [paid(model, last(at, settings.context + n), n, settings) for n in ahead]
        share = student_band(np.stack([slope(each, at) for each in shares], 1))
        whole = paid(model, anywhere, settings.horizon, settings)
        recorded, dreamt = (band(part.mean(1), anywhere) for part in (whole.recorded, whole.dreamt))
        cells = (*(cell(share, k) for k in range(len(ahead))), cell(recorded), cell(dreamt))
        table.append((model.name, *cells, str(len(at.episodes)), str(len(set(at.episodes.tolist())))))
        parts = {"share": share, "recorded": recorded, "dreamt": dreamt}
        figures[model.name] = {"ahead": ahead, **{name: plain_band(part) for name, part in parts.items()}}
        lines.append(Line(model.name, ahead, share))
    lines.append(constant("as recorded", ahead, 1.0))
    about = (
        f"After {settings.context} real frames dreams go on along the recorded actions, {settings.steps} denoising "
        "steps. At frames that were rewarded: the reward dreamt there over the recorded one (of an episode the slope "
        "through zero, so that large ones count), by how many frames were dreamt up to it. Anywhere: rewards a frame "
        f"over {settings.horizon} dreamt frames, in as many clips. {len(models)} model(s); means and 95 % intervals "
        "over episodes, Student's t."
    )
    plot = Plot(lines, "dreamt frames up to the reward", "dreamt / recorded reward")
    return Study("rewards", "Rewards in dreams", about, table, figures, plot)


def together(models: Sequence[Model]) -> int:
    """Frames of the smallest whole chunks of all models."""
    return math.lcm(*(model.checkpoint.model.config.chunk for model in models))


def slope(found: Paid, windows: Windows) -> FloatArray:
    """Of every episode: what the last frames of its windows pay in a dream, for each unit that they paid."""
    dreamt, recorded = found.dreamt[:, -1], found.recorded[:, -1]
    share: FloatArray = by_unit(dreamt * recorded, windows.episodes) / by_unit(recorded**2, windows.episodes)
    return share


def last(windows: Windows, length: int) -> Windows:
    """The last `length` frames of windows."""
    return Windows(windows.episodes, windows.starts + windows.length - length, length)


def band(values: FloatArray, windows: Windows) -> Band:
    """Mean and interval over the episodes that the windows are from."""
    return student_band(by_unit(values, windows.episodes))


def paid(model: Model, windows: Windows, horizon: int, settings: Settings) -> Paid:
    """What the last `horizon` frames of the windows pay, dreamt and recorded."""
    found: list[torch.Tensor] = []
    for begin in range(0, len(windows.episodes), settings.rows):
        clips = read_windows(model.store, windows.rows(slice(begin, begin + settings.rows)))
        trial = make_trial(
            "reasoning", clips, context=settings.context, horizon=horizon, chunk=model.checkpoint.model.config.chunk
        )
        found.append(torch.stack([roll(settings, model, trial, begin).rewards.cpu(), trial.ahead.rewards]))
    dreamt, recorded = torch.cat(found, 1).double().numpy()
    return Paid(dreamt, recorded)
