"""How near imagined frames are to the real ones, by distance from the context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from lssvwm.worldmodel.common.errors import InputError, require
from lssvwm.worldmodel.reporting.statistics import FloatArray, student_band

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
        return student_band(self.psnr_by_clip).mean

    @property
    def ssim(self) -> FloatArray:
        """Mean over the clips, (horizon,)."""
        return student_band(self.ssim_by_clip).mean

    @staticmethod
    def cat(curves: Sequence[Curve]) -> Curve:
        """The clips of several, all with the same horizon, as one."""
        return Curve(*(np.concatenate([getattr(each, item.name) for each in curves]) for item in fields(Curve)))


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
