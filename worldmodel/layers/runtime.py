"""How a model is computed, as opposed to what it is: chosen anew wherever it runs, never part of a checkpoint."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch

from lssvwm.worldmodel.common.errors import InputError, MissingExtraError
from lssvwm.worldmodel.layers import triton_scan

ScanKind = Literal["torch", "triton"]
AttentionKind = Literal["sdpa", "flex"]
ScanChoice = Literal["auto", ScanKind]
AttentionChoice = Literal["auto", AttentionKind]

FLEX_HEAD = 16
"""Smallest head that FlexAttention computes on CUDA."""

SHAPES = 64
"""Shapes that one piece of code may be compiled for. Past torch's own limit, 8, it is not any more: FlexAttention is
then computed without a kernel, which on one H100 came to be minutes."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Runtime:
    """Implementations of the two mixers, and how far back to look. Give it to `Backbone.use`.

    All implementations compute the same up to rounding. One that is asked for by name and cannot run is an error.
    """

    scan: ScanChoice = "auto"
    """`triton`: the kernel of mamba-ssm (`make cuda`). `auto`: that one for CUDA tensors where it is installed, but for
    calls of a single chunk, as in dreams."""
    attention: AttentionChoice = "auto"
    """`flex`: FlexAttention with a block mask. `auto`: that one for CUDA tensors, but for calls of few tokens,
    which have nothing to skip. Calls of a single chunk of frames, as in dreams, are one dense call whatever is
    chosen."""
    window: int | None = None
    """Frames before its own chunk that a frame attends to, at most as many as the model was trained with; None: just
    as many. Fewer are cheaper. The memory keeps what the model's config says, so one may go back at any time."""

    def __post_init__(self) -> None:
        for name, choices in (("scan", ScanChoice), ("attention", AttentionChoice)):
            if getattr(self, name) not in get_args(choices):
                raise InputError(f"{name}={getattr(self, name)!r} is not one of {get_args(choices)}")
        if self.window is not None and self.window < 0:
            raise InputError(f"window={self.window}: give 0 or more frames, or None for as many as in training")


class Chosen(NamedTuple):
    """What the choices of a `Runtime` come to on one device."""

    scan: ScanKind
    attention: AttentionKind


def allow_shapes() -> None:
    """Let torch compile for `SHAPES` shapes at least."""
    torch.compiler.config.recompile_limit = max(torch.compiler.config.recompile_limit, SHAPES)


def choose_scan(choice: ScanChoice, device: str, dtype: torch.dtype) -> ScanKind:
    """The scan for tensors of `dtype` on a kind of device ("cpu", "cuda"); logged once for each.

    Raises InputError or MissingExtraError where `triton` is asked for by name and cannot run.
    """
    return _scan(choice, device, dtype)


def choose_attention(choice: AttentionChoice, device: str, dtype: torch.dtype, head_size: int) -> AttentionKind:
    """The attention for heads of `head_size` channels in `dtype` on a kind of device; logged once for each.

    Raises InputError where `flex` is asked for by name and cannot run.
    """
    return _attention(choice, device, dtype, head_size)


# What torch.compiler.assume_constant_result does, which would import the compiler, two seconds, for everyone. What is
# installed does not change while a process runs.
choose_scan._dynamo_marked_constant = True  # type: ignore[attr-defined]
choose_attention._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def _scan(choice: ScanChoice, device: str, dtype: torch.dtype) -> ScanKind:
    chosen: ScanKind = "torch"
    if choice == "triton":
        triton_scan.check_device(device, dtype)
        triton_scan.load_kernel()
        chosen = "triton"
    elif choice == "auto" and device == "cuda" and dtype != torch.float64:
        try:
            triton_scan.load_kernel()
            chosen = "triton"
        except MissingExtraError as error:
            logger.warning("the scan runs in plain torch on CUDA: %s", error)
    logger.info("scan on %s in %s: %s (asked for: %s)", device, dtype, chosen, choice)
    return chosen


@functools.cache
def _attention(choice: AttentionChoice, device: str, dtype: torch.dtype, head_size: int) -> AttentionKind:
    able = device == "cpu" or (head_size >= FLEX_HEAD and dtype != torch.float64)
    if choice == "flex" and not able:
        raise InputError(
            f"attention='flex' on {device} wants heads of at least {FLEX_HEAD} channels in 32 bits or fewer, got "
            f"{head_size} in {dtype}; choose attention='sdpa', or fewer heads"
        )
    auto: AttentionKind = "flex" if device == "cuda" and able else "sdpa"
    chosen = auto if choice == "auto" else choice
    logger.info("attention on %s in %s: %s (asked for: %s)", device, dtype, chosen, choice)
    return chosen
