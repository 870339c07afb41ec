"""What the card of a world says of its model: figures on episodes that it was not trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import Clips, EpisodeStore
from lssvwm.worldmodel.evaluation.metrics.frames import Curve
from lssvwm.worldmodel.evaluation.metrics.heads import judge_heads_on_real
from lssvwm.worldmodel.evaluation.models import load_models
from lssvwm.worldmodel.evaluation.options import Options
from lssvwm.worldmodel.evaluation.protocols.figures import figures_of, has_curve
from lssvwm.worldmodel.evaluation.protocols.judging import Judged, judge
from lssvwm.worldmodel.evaluation.protocols.running import held, rolled_out, trials, windows_of
from lssvwm.worldmodel.reporting.results import plain


@dataclass(frozen=True)
class ScoreConfig:
    """How a packed model is judged."""

    context: int = 32
    """Frames that it is shown."""
    horizon: int = 32
    """Frames that it continues, under the recorded actions."""
    clips: int = 64
    """Clips, at most."""
    ends: int = 64
    """Episodes on which reward and end are judged, at most: their last `end_frames` frames."""
    end_frames: int = 1024
    """Frames of each, at most."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise InputError(f"--scores.{name.replace('_', '-')} {value}: give at least 1")


def score(folder: Path, episodes: Path, config: ScoreConfig, device: str = "cpu") -> dict[str, Any]:
    """PSNR and SSIM by distance from the context, beside the last frame held; reward and end on real frames.

    Everything is that of `worldmodel.evaluation`, with the model's usual number of denoising steps.
    """
    (model,) = load_models((folder,), episodes, (), device)
    steps = model.checkpoint.model.config.usual_steps
    shape: dict[str, Any] = {
        "context": config.context,
        "horizon": config.horizon,
        "clips": config.clips,
        "steps": steps,
    }
    options = replace(Options((folder,), episodes, folder, shown=0, progress=False), **shape)
    windows = windows_of(options, "reasoning", model.store)
    judged = judge(rolled_out(options, "reasoning", model, windows, []), windows.episodes)
    still = Curve.cat([held(trial) for trial in trials(options, "reasoning", model, windows, options.rows)])
    heads = judge_heads_on_real(model.checkpoint.model, endings(model.store, config))
    found = {"model": judged, "last frame held": Judged(windows.episodes, still)}
    scores: dict[str, Any] = plain(
        {
            "episodes": len(model.store),
            "frames": model.store.frames,
            **shape,
            "continued": {name: _curves(figures_of(each)) for name, each in found.items()},
            "heads": heads.to_dict(),
        }
    )
    return scores


def endings(store: EpisodeStore, config: ScoreConfig, rows: int = 8) -> Iterator[Clips]:
    """The last frames of episodes evenly spread over the store, a few episodes at a time."""
    length = min(config.end_frames, int(store.lengths.max()))
    chosen = np.unique(np.linspace(0, len(store) - 1, min(config.ends, len(store))).round().astype(int))
    for begin in range(0, len(chosen), rows):
        part = chosen[begin : begin + rows]
        yield store.gather(part, np.maximum(store.lengths[part] - length, 0), length)


def _curves(figures: dict[str, Any]) -> dict[str, Any]:
    """Of every metric the mean with its interval, and the means by distance."""
    return {
        metric: {
            **{key: found[key] for key in ("mean", "low", "high", "clips", "episodes")},
            "by_distance": {label: at["mean"] for label, at in found["by_log_distance"].items()},
        }
        for metric, found in figures.items()
        if has_curve(found)
    }
