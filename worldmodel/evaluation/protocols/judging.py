"""One protocol, one model: the trial run and every figure of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import Clips
from lssvwm.worldmodel.evaluation.metrics.frames import Curve, compare, nearest_psnr, per_frame
from lssvwm.worldmodel.evaluation.metrics.fvd import VideoFeatures, frechet_distance
from lssvwm.worldmodel.evaluation.metrics.heads import HeadFigures, judge_heads, without_frames
from lssvwm.worldmodel.evaluation.protocols.clips import IntArray
from lssvwm.worldmodel.evaluation.protocols.rollout import Rollout, rollout
from lssvwm.worldmodel.evaluation.protocols.trials import Corruption, Protocol, Trial, make_trial
from lssvwm.worldmodel.model import WorldModel
from lssvwm.worldmodel.reporting.statistics import FloatArray


@dataclass(frozen=True)
class Judged:
    """Every figure of one model in one protocol. None: not asked for, or not defined there."""

    episodes: IntArray
    """(clips,): the episode that each clip is from, which is what intervals are over."""
    curve: Curve | None
    """Against the true frames; None for a cold start, which has none."""
    nearest: FloatArray | None = None
    """Cold start: PSNR (clips, horizon) of every frame to the nearest real frame of other clips."""
    lpips: FloatArray | None = None  # (clips, horizon)
    fvd: float | None = None
    heads: HeadFigures | None = None


def evaluate_clips(
    model: WorldModel,
    clips: Clips,
    *,
    protocol: Protocol,
    context: int,
    horizon: int,
    steps: int,
    seed: int = 0,
    rows: int = 16,
    corruption: Corruption | None = None,
    progress: bool = False,
) -> Curve:
    """The drift curve of a model on recorded clips (B, T), by the metrics that need no network.

    Clips of `context` + `horizon` frames serve every protocol; retrieval needs no more than the context. The seed
    decides about the model's noise and what a corruption takes. A cold start has no true frames to compare with: see
    `judge_cold_start`.
    """
    if protocol == "cold-start":
        raise InputError("a cold start has no true frames to compare with: use judge_cold_start")
    trial = trial_for(model, clips, protocol, context=context, horizon=horizon, corruption=corruption, seed=seed)
    imagined = rollout(model, trial, steps=steps, seed=seed, rows=rows, progress=progress)
    return compare(imagined.frames, trial.ahead.frames, trial.ahead.mask)


def trial_for(
    model: WorldModel,
    clips: Clips,
    protocol: Protocol,
    *,
    context: int,
    horizon: int,
    corruption: Corruption | None = None,
    seed: int = 0,
    first: int = 0,
) -> Trial:
    """The trial of a protocol for this model, as `make_trial`.

    Retrieval with a model that is not told the pose is an `InputError`.
    """
    if protocol == "retrieval" and not model.config.pose_size:
        raise InputError(
            "retrieval plays a path backwards, where only the agent's pose says where it goes, and this model is not "
            "told it: train one with --pose agent_pos,agent_dir"
        )
    asked = {"context": context, "horizon": horizon, "chunk": model.config.chunk}
    return make_trial(protocol, clips, **asked, corruption=corruption, seed=seed, first=first)


def judge(
    batches: Iterable[tuple[Trial, Rollout]],
    episodes: IntArray,
    *,
    heads: bool = False,
    lpips: Callable[[Tensor, Tensor], Tensor] | None = None,
    fvd: VideoFeatures | None = None,
) -> Judged:
    """All figures of trials with a truth, of whose frames no more than one batch is held at a time.

    `episodes` (clips,): which one each clip is from. `lpips`: distance of frames (n, h, w, 3) uint8 x 2 -> (n,).
    """
    curves: list[Curve] = []
    distances: list[Tensor] = []
    videos: list[tuple[Tensor, Tensor]] = []
    told: list[tuple[Tensor, Tensor, Clips]] = []
    for trial, imagined in batches:
        truth = trial.ahead
        curves.append(compare(imagined.frames, truth.frames, truth.mask))
        if lpips is not None:
            found = per_frame(lpips, imagined.frames, truth.frames)
            distances.append(found.masked_fill(~truth.mask, torch.nan))
        if fvd is not None:
            videos.append((fvd(truth.frames), fvd(imagined.frames)))
        told.append((imagined.rewards, imagined.terminations, without_frames(truth)))
    rewards, terminations, truths = zip(*told, strict=True)
    return Judged(
        episodes,
        Curve.cat(curves),
        lpips=torch.cat(distances).numpy() if distances else None,
        fvd=frechet_distance(*map(torch.cat, zip(*videos, strict=True))) if videos else None,
        heads=judge_heads(torch.cat(rewards), torch.cat(terminations), Clips.cat(truths)) if heads else None,
    )


def judge_cold_start(frames: Tensor, real: Clips, episodes: IntArray) -> Judged:
    """How near frames (B, T, h, w, 3) from no context lie to real ones: PSNR to the nearest frame of other clips.

    What is near is looked for among the frames of `real` (B, T) but those of the same row. So the real frames can be
    judged by the same measure, which gives the figure to compare with.
    """
    if len(frames) < 2:
        raise InputError("a cold start is judged by the frames of other clips: use 2 clips or more")
    bank = real.frames.flatten(0, 1)
    owner = torch.arange(len(frames)).repeat_interleave(real.mask.shape[1])
    nearest: FloatArray = nearest_psnr(frames, bank, owner == torch.arange(len(frames))[:, None]).numpy()
    return Judged(episodes, None, nearest=nearest)
