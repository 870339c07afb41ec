"""Uncertainty beside the real error of the same frames, and every figure that says how the two go together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from lssvwm.worldmodel.common.rng import row_generators
from lssvwm.worldmodel.evaluation.metrics.frames import psnr
from lssvwm.worldmodel.evaluation.metrics.heads import auroc
from lssvwm.worldmodel.evaluation.protocols.rollout import observe
from lssvwm.worldmodel.evaluation.protocols.trials import Trial, window
from lssvwm.worldmodel.reporting.resampling import ranks
from lssvwm.worldmodel.reporting.statistics import FloatArray
from lssvwm.worldmodel.sampling import Sampler
from lssvwm.worldmodel.uncertainty import DRAWS, Uncertainty, uncertainty

KINDS: tuple[Uncertainty, ...] = get_args(Uncertainty)
CUTS = (0.05, 0.1, 0.25, 0.5)
"""Shares of dreams that the thresholds on offer end before the horizon."""


@dataclass(frozen=True)
class Watched:
    """What a model said of the frames it dreamt, and how wrong these were: all (clips, horizon)."""

    scores: Mapping[Uncertainty, FloatArray]
    frame: FloatArray  # root mean square error of the pixels, 0..1 of the whole range
    psnr: FloatArray  # dB
    reward: FloatArray  # absolute error
    termination: FloatArray  # distance of the probability from what happened, 0..1

    @property
    def errors(self) -> dict[str, FloatArray]:
        """The errors that uncertainty may foretell, by name."""
        return {"frame": self.frame, "reward": self.reward, "termination": self.termination}


@torch.no_grad()
def watch(
    sampler: Sampler, trial: Trial, *, draws: int = DRAWS, seed: int = 0, rows: int = 16, progress: bool = False
) -> Watched:
    """Let the model dream along `trial`, and note every kind of uncertainty beside the errors of the same frames."""
    model, found = sampler.model, []
    count, horizon, chunk = *trial.ahead.mask.shape, sampler.model.config.chunk
    with tqdm(total=count * horizon, desc="dream", unit="frame", disable=not progress) as bar:
        for begin in range(0, count, rows):
            part = trial.rows(begin, begin + rows).to(model.device)
            here = len(part.ahead.mask)
            generators = row_generators(seed, 0, range(begin, begin + here), model.device)
            memory, columns = observe(model, part.context, model.empty(here)).memory, []
            for t in range(0, horizon, chunk):
                told = window(part.ahead, t, t + chunk)
                actions, pose = told.actions, told.pose if model.config.pose_size else None
                if chunk == 1:
                    actions, pose = actions[:, 0], None if pose is None else pose[:, 0]
                new = sampler.imagine(actions, memory, generator=generators, pose=pose)
                step = (sampler, actions, memory, new, generators)
                scores = [uncertainty(kind, *step, pose=pose, draws=draws).view(here, chunk) for kind in KINDS]
                frames = new.frame.view(told.frames.shape)
                square = (frames.double() - told.frames.double()).div(255).square().mean((-1, -2, -3))
                reward = (new.reward.view(here, chunk) - told.rewards).double().abs()
                termination = (new.termination.view(here, chunk) - told.terminated.to(new.termination.dtype)).abs()
                errors = (square.sqrt(), psnr(frames, told.frames), reward, termination.double())
                columns.append(torch.stack([*scores, *errors]).cpu())
                memory = observe(model, told, memory).memory if trial.teacher else new.memory
                bar.update(here * chunk)
            found.append(torch.cat(columns, 2))
    parts = [part.numpy() for part in torch.cat(found, 1)]
    return Watched(dict(zip(KINDS, parts, strict=False)), *parts[len(KINDS) :])


def calibrate(observed: Watched, kind: Uncertainty, *, wrong_below: float = 30.0, seed: int = 0) -> dict[str, Any]:
    """Every figure of one kind: correlations, how well it finds wrong frames, reliability, and thresholds."""
    score, wrong = observed.scores[kind], observed.psnr < wrong_below
    correlations = {
        name: {measure.__name__: banded(measure, score, error, seed) for measure in (pearson, spearman, at_fixed_step)}
        for name, error in observed.errors.items()
    }
    finds = {
        "psnr_below": wrong_below,
        "share": float(wrong.mean()),
        "auroc": banded(finding, score, wrong, seed),
        "auroc_so_far": banded(finding, np.maximum.accumulate(score, 1), wrong, seed),
    }
    return {
        "correlations": correlations,
        "wrong_frames": finds,
        "reliability": reliability(score, observed.frame, wrong),
        "thresholds": [threshold(score, observed.frame, wrong, cut) for cut in CUTS],
    }


def pearson(score: FloatArray, error: FloatArray) -> float | None:
    """Linear correlation over all frames; None where either does not vary."""
    a, b = score.ravel(), error.ravel()
    return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) > 0 and np.ptp(b) > 0 else None


def spearman(score: FloatArray, error: FloatArray) -> float | None:
    """Correlation of ranks over all frames."""
    return pearson(ranks(score), ranks(error))


def at_fixed_step(score: FloatArray, error: FloatArray) -> float | None:
    """Correlation of ranks over the clips at one distance from the context, averaged over distances.

    What two quantities that merely both grow with the distance do not have.
    """
    found = [spearman(a, b) for a, b in zip(score.T, error.T, strict=True)]
    known = [value for value in found if value is not None]
    return float(np.mean(known)) if known else None


def finding(score: FloatArray, wrong: NDArray[np.bool_]) -> float | None:
    """Chance that a wrong frame has a higher score than one that is not."""
    return auroc(torch.from_numpy(score.ravel()), torch.from_numpy(wrong.ravel()))


def banded(
    measure: Callable[..., float | None],
    score: FloatArray,
    error: NDArray[Any],
    seed: int,
    resamples: int = 200,
) -> dict[str, float | None]:
    """A measure with its 95 % interval over clips, which are drawn anew: the frames of one depend on each other."""
    generator = np.random.default_rng(seed)
    again = [generator.integers(len(score), size=len(score)) for _ in range(resamples)]
    found = [value for rows in again if (value := measure(score[rows], error[rows])) is not None]
    low, high = np.quantile(found, [0.025, 0.975]).tolist() if found else (None, None)
    return {"value": measure(score, error), "low": low, "high": high}


def reliability(
    score: FloatArray, error: FloatArray, wrong: NDArray[np.bool_], bins: int = 10
) -> list[dict[str, float]]:
    """Frames in `bins` groups of rising uncertainty, about as many in each: what was said, and what was so."""
    order = np.argsort(score.ravel(), kind="stable")
    return [
        {
            "frames": len(group),
            "uncertainty": float(score.ravel()[group].mean()),
            "error": float(np.sqrt(np.square(error.ravel()[group]).mean())),
            "wrong": float(wrong.ravel()[group].mean()),
        }
        for group in np.array_split(order, bins)
        if len(group)
    ]


def threshold(score: FloatArray, error: FloatArray, wrong: NDArray[np.bool_], cut: float) -> dict[str, float | None]:
    """The `truncate_above` that would end the share `cut` of these dreams within the horizon, and what remains of them.

    wrong_at_cut: share of wrong frames among those that end a dream; frames_kept: share of frames before; wrong_kept:
    share of wrong ones among these; error_kept: their root mean square error.
    """
    limit = float(np.quantile(score.max(1), 1 - cut))
    above = score > limit
    first = above & (np.cumsum(above, 1) == 1)
    kept = np.cumsum(above, 1) == 0
    return {
        "cut": float(above.any(1).mean()),
        "truncate_above": limit,
        "wrong_at_cut": float(wrong[first].mean()) if first.any() else None,
        "frames_kept": float(kept.mean()),
        "wrong_kept": float(wrong[kept].mean()) if kept.any() else None,
        "error_kept": float(np.sqrt(np.square(error[kept]).mean())) if kept.any() else None,
    }
