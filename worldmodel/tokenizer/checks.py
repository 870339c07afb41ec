"""What every tokenizer refuses, in the same words."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from lssvwm.worldmodel.common.errors import InputError

_known = WeakTensorKeyDictionary()
"""Flags that were found to be set, with the version in which they were: looking at one waits for its device."""


def check_frames(frames: Tensor, size: tuple[int, int]) -> None:
    """Frames must be (..., h, w, 3) uint8 with (h, w) = `size`."""
    if frames.dtype != torch.uint8 or frames.shape[-3:] != (*size, 3):
        raise InputError(
            f"frames must be uint8 (..., {size[0]}, {size[1]}, 3), got {frames.dtype} {tuple(frames.shape)}"
        )


def check_fitted(fitted: Tensor) -> None:
    """A tokenizer is of no use before `fit`."""
    version = 0 if fitted.is_inference() else fitted._version  # inference tensors count none
    if _known.get(fitted) == version:
        return
    if not bool(fitted):
        raise InputError("the tokenizer is not fitted: call tokenizer.fit(frames) on real frames, or load a checkpoint")
    _known[fitted] = version
