"""How near imagined frames are to the real ones, by distance from the context."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.errors import InputError, require

FloatArray = NDArray[np.float64]

MSE_FLOOR = 1e-3
"""Least mean squared error counted, in squared grey levels of 255: equal frames get 78.1 dB instead of infinity."""
AT_ONCE = 256
"""Frames compared at once."""


@dataclass(frozen=True)
class Curve:
    """Metrics of every clip (row) at every step of the horizon (column); NaN past a clip's end."""

    psnr_by_clip: FloatArray  # (clips, horizon), dB
    ssim_by_clip: FloatArray  # (clips, horizon), at most 1

    @property
    def psnr(self) -> FloatArray:
        """Mean over the clips, (horizon,), dB: the drift curve. A mean of decibels, as the paper's tables."""
        return mean_over_clips(self.psnr_by_clip)

    @property
    def ssim(self) -> FloatArray:
        """Mean over the clips, (horizon,)."""
        return mean_over_clips(self.ssim_by_clip)


@dataclass(frozen=True)
class Band:
    """Means and the intervals around them, all of one shape."""

    mean: FloatArray
    low: FloatArray
    high: FloatArray


def compare(frames: Tensor, truth: Tensor, mask: Tensor) -> Curve:
    """Frames and truth (B, T, h, w, 3) uint8, mask (B, T) bool: where there is a truth."""
    if frames.shape != truth.shape or frames.shape[:2] != mask.shape:
        shapes = [tuple(each.shape) for each in (frames, truth, mask)]
        raise ValueError(f"want frames and truth of one shape and their mask, got {shapes}")

    def by_clip(metric: Callable[[Tensor, Tensor], Tensor]) -> FloatArray:
        values: FloatArray = per_frame(metric, frames, truth).masked_fill(~mask, torch.nan).numpy()
        return values

    return Curve(by_clip(psnr), by_clip(ssim))


def per_frame(metric: Callable[[Tensor, Tensor], Tensor], frames: Tensor, truth: Tensor) -> Tensor:
    """A metric (n, h, w, 3) x 2 -> (n,) on frames (B, T, h, w, 3), a few at a time: (B, T) float64."""
    pairs = zip(frames.flatten(0, 1).split(AT_ONCE), truth.flatten(0, 1).split(AT_ONCE), strict=True)
    return torch.cat([metric(a, b).double() for a, b in pairs]).view(frames.shape[:2])


def psnr(frames: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of frames (..., h, w, 3) uint8, in dB, capped by `MSE_FLOOR` at 78.1: (...)."""
    error = (frames.double() - truth.double()).square().mean((-1, -2, -3))
    return 10 * torch.log10(255**2 / error.clamp(min=MSE_FLOOR))


def ssim(frames: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004: Gaussian window of deviation 1.5) of frames (n, h, w, 3) uint8: (n,)."""
    similarity = require("torchmetrics.functional.image", "evaluation", "structural similarities")
    if min(frames.shape[-3:-1]) < 6:
        raise InputError(f"frames of {tuple(frames.shape[-3:-1])} pixels are too small for SSIM: use 6x6 or more")
    images = [each.movedim(-1, 1).float() / 255 for each in (frames, truth)]
    values: Tensor = similarity.structural_similarity_index_measure(*images, data_range=1.0, reduction="none")
    return values.reshape(len(frames))


def nearest_psnr(frames: Tensor, real: Tensor, own: Tensor) -> Tensor:
    """PSNR of every frame to the nearest of the real ones: frames (B, T, h, w, 3), real (N, h, w, 3), both uint8.

    `own` (B, N) bool marks real frames that do not count for a row, those of its own clip. Returns (B, T).
    """
    bank = real.flatten(1).float() / 255
    squares = bank.square().sum(1)
    results = []
    for row, excluded in zip(frames, own, strict=True):
        flat = row.flatten(1).float() / 255
        distance = (squares - 2 * flat @ bank.T).masked_fill(excluded, torch.inf)
        results.append(psnr(row, real[distance.argmin(1)]))  # measured exactly: the product is good for the order only
    return torch.stack(results)


def mean_over_clips(values: FloatArray) -> FloatArray:
    """Mean over rows of what is not NaN: (clips, ...) -> (...)."""
    exists = ~np.isnan(values)
    total = np.where(exists, values, 0.0).sum(0)
    count = exists.sum(0)
    mean: FloatArray = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return mean


def bootstrap(values: FloatArray, *, seed: int = 0, level: float = 0.95, resamples: int = 2000) -> Band:
    """Percentile intervals of the mean over models and clips: values (models, clips, ...) -> bands (...).

    Models (trained with different seeds) and clips are both drawn anew, each resample the same clips for all models
    (Owen 2007, the pigeonhole bootstrap), so that the interval covers other seeds and other clips. With a single model
    it covers other clips only; with two or three it is too narrow. NaNs are left out.
    """
    if values.ndim < 2 or 0 in values.shape:
        raise InputError(f"intervals need values (models, clips, ...), got shape {values.shape}")
    if not 0 < level < 1 or resamples < 1:
        raise InputError(f"level={level} must lie between 0 and 1, resamples={resamples} be 1 or more")
    generator = np.random.default_rng(seed)
    models, clips, *rest = values.shape
    flat = values.reshape(models, clips, -1)
    exists = ~np.isnan(flat)
    known = np.where(exists, flat, 0.0)
    drawn = [generator.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64) for n in (models, clips)]
    total, count = (np.einsum("rm,rc,mcx->rx", *drawn, each, optimize=True) for each in (known, exists.astype(float)))
    means = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    mean = mean_over_clips(flat.reshape(models * clips, -1))
    low, high = np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    known_at = ~np.isnan(mean)
    low[known_at], high[known_at] = np.nanquantile(means[:, known_at], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Band(*(each.reshape(rest) for each in (mean, low, high)))
