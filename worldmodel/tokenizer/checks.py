"""What every tokenizer refuses, in the same words."""

from __future__ import annotations

import torch
from torch import Tensor

from worldmodel.errors import InputError


def check_frames(frames: Tensor, size: tuple[int, int]) -> None:
    """Frames must be (..., h, w, 3) uint8 with (h, w) = `size`."""
    if frames.dtype != torch.uint8 or frames.shape[-3:] != (*size, 3):
        raise InputError(
            f"frames must be uint8 (..., {size[0]}, {size[1]}, 3), got {frames.dtype} {tuple(frames.shape)}"
        )


def check_fitted(fitted: Tensor) -> None:
    """A tokenizer is of no use before `fit`."""
    if not bool(fitted):
        raise InputError("the tokenizer is not fitted: call tokenizer.fit(frames) on real frames, or load a checkpoint")
