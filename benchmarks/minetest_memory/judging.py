"""What the finished runs of one task came to, on the unseen clips, beside what a model without any learning would."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.minetest_memory.sights import Bands, FloatArray, IntArray, bands, gaps, windows_of_return
from benchmarks.minetest_memory.tasks import CONTEXT, POSE, MemoryTask
from lssvwm.worldmodel import Clips, EpisodeStore
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.evaluation import Trial, compare, make_trial, read_windows

Frames = NDArray[np.uint8]


class Scores(NamedTuple):
    """Both (seeds, clips, horizon); NaN where there is nothing to compare."""

    psnr: FloatArray
    ssim: FloatArray


@dataclass(frozen=True)
class Result:
    """One task: the clips, what every model made of them, and what it is to be measured against."""

    ago: IntArray  # (clips, horizon), see `sights.gaps`
    reach: int
    runs: Mapping[str, Sequence[Mapping[str, Any]]]  # by model and seed, `figures.json`
    models: Mapping[str, Scores]
    references: Mapping[str, Scores]
    truth: Frames  # (clips, horizon, h, w, 3)
    imagined: Mapping[str, Frames]  # by model, of its first seed

    @property
    def bands(self) -> Bands:
        return bands(self.ago, self.reach)


def unseen_clips(out: Path, task: MemoryTask, reach: int) -> Clips:
    store = EpisodeStore(out / "unseen", pose=POSE)
    windows = windows_of_return(store, CONTEXT, task.horizon, reach)
    if not len(windows.episodes):
        raise InputError(
            f"{store.root}: no episode turns with {CONTEXT} frames before and {task.horizon} after: record more"
        )
    return read_windows(store, windows)


def unseen_trial(out: Path, task: MemoryTask, reach: int) -> Trial:
    """Context up to the turning point, then the recorded actions."""
    return make_trial("reasoning", unseen_clips(out, task, reach), context=CONTEXT, horizon=task.horizon)


def collect(out: Path, task: MemoryTask, names: Sequence[str], seeds: int, reach: int) -> Result:
    """Read the runs and compare everything with the truth."""
    clips = unseen_clips(out, task, reach)
    assert clips.pose is not None
    frames = clips.frames.numpy()
    truth, ago = frames[:, CONTEXT:], gaps(clips.pose.double().numpy(), CONTEXT)
    imagined: dict[str, list[Frames]] = {name: [] for name in names}
    tokenized, runs = [], {}
    for name in names:
        folders = [out / "runs" / f"{name}-{seed}" for seed in range(seeds)]
        runs[name] = [json.loads((folder / "figures.json").read_text()) for folder in folders]
        for folder in folders:
            with np.load(folder / "frames.npz", allow_pickle=False) as saved:
                imagined[name].append(saved["imagined"])
                tokenized.append(saved["tokenized"])
    mean = np.broadcast_to(mean_frame(EpisodeStore(out / "episodes")), truth.shape)
    still = np.broadcast_to(frames[:, CONTEXT - 1, None], truth.shape)
    references = {
        "mean frame": score([mean], truth),
        "last frame, repeated": score([still], truth),
        "through the tokenizer": score(tokenized, truth),
        "view as last seen": blanked(score([last_sights(frames, ago, CONTEXT)], truth), ago == 0),
    }
    models = {name: score(each, truth) for name, each in imagined.items()}
    return Result(ago, reach, runs, models, references, truth, {name: each[0] for name, each in imagined.items()})


def score(by_seed: Sequence[Frames], truth: Frames) -> Scores:
    """Frames of each seed and truth (clips, horizon, h, w, 3)."""
    everywhere = torch.ones(truth.shape[:2], dtype=torch.bool)
    curves = [compare(torch.tensor(each), torch.tensor(truth), everywhere) for each in by_seed]
    return Scores(*(np.stack([getattr(c, key) for c in curves]) for key in ("psnr_by_clip", "ssim_by_clip")))


def blanked(scores: Scores, where: NDArray[np.bool_]) -> Scores:
    return Scores(*(np.where(where, np.nan, values) for values in scores))


def last_sights(frames: Frames, ago: IntArray, context: int) -> Frames:
    """For every frame after the context the one of `ago` frames before it; itself where that is 0."""
    at = np.arange(context, frames.shape[1]) - ago
    return frames[np.arange(len(frames))[:, None], at]


def mean_frame(store: EpisodeStore) -> Frames:
    """The mean of all frames, (h, w, 3)."""
    total = sum(store.read(name).image.sum(0, dtype=np.int64) for name in store.names)
    mean: Frames = np.round(total / store.frames).astype(np.uint8)
    return mean
