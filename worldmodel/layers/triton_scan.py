"""The scan by the Triton kernels of mamba-ssm: what has to be minded between their interface and ours."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
import os
import sys
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lssvwm.worldmodel.common.errors import InputError, MissingExtraError

GRID_LIMIT = 65_535
"""CUDA's limit of a grid's second axis, on which the kernels lay sequences times chunks."""
INDEX_LIMIT = 2**31 - 1
"""The kernels compute addresses in 32 bits: elements that any tensor of one call may reach over."""
CHUNK = 128
"""Tokens per chunk, whatever the length: every other size would cost its own minute of autotuning."""


class Scanned(NamedTuple):
    """Outputs y (b, l, h, p) and the state (b, n, h, p) after the last token, or as it was given (`advance=False`)."""

    y: Tensor
    state: Tensor


@functools.cache
def load_kernel() -> Callable[..., Any]:
    """`mamba_chunk_scan_combined` of mamba-ssm. Raises MissingExtraError that names what is missing and the fix."""
    names = ("mamba_ssm", "triton", "einops", "packaging")
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"the Triton scan needs the packages {', '.join(missing)}, which are not installed: make cuda"
        )
    module = "mamba_ssm.ops.triton.ssd_combined"
    try:
        if "mamba_ssm" in sys.modules:  # a complete install, in use
            return _function_of(importlib.import_module(module))
        return _function_of(_import_past_init(module))
    except ImportError as error:
        raise MissingExtraError(f"the Triton scan of mamba-ssm cannot be imported ({error}): make cuda") from error


def check_device(device: str, dtype: torch.dtype) -> None:
    """Raise InputError where the kernels cannot run: in float64, and elsewhere than on CUDA or in the interpreter."""
    if device != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise InputError(f"scan='triton' runs on CUDA, the tensors are on {device}; choose scan='auto' or 'torch'")
    if dtype == torch.float64:
        raise InputError("scan='triton' computes in 32 bits, the tensors are float64; choose scan='auto' or 'torch'")


def scan_triton(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    state: Tensor,
    *,
    advance: bool = True,
    chunk: int | None = None,
    grid_limit: int = GRID_LIMIT,
) -> Scanned:
    """`worldmodel.layers.scan.scan` by the kernels, shapes as there; y in the dtype of x, the state in its own.

    x, B and C may be float32, bfloat16 or float16; decays and states are computed in float32. Sequences are split into
    as many calls as the grid and 32-bit addresses ask for; InputError where one sequence alone is too long.
    """
    kernel, (b, length, h, p), n = load_kernel(), x.shape, B.shape[-1]
    chunk = chunk or CHUNK
    B, C = B.to(x.dtype), C.to(x.dtype)
    dt, A = dt.float().contiguous(), A.float()
    # (b, n, h, p) -> (b, h, p, n), the kernels' order.
    start = state.float().permute(0, 2, 3, 1)

    count = math.ceil(length / chunk)
    reach = max(x.stride(0), B.stride(0), C.stride(0), length * h * n, count * max(h * p * n, chunk * chunk))
    rows = min(grid_limit // count, INDEX_LIMIT // reach)
    if rows == 0:
        raise InputError(f"sequences of {length} tokens are too long for the Triton scan; choose scan='torch'")
    ys: list[Tensor] = []
    states: list[Tensor] = []
    for begin in range(0, b, rows):
        part = slice(begin, begin + rows)
        out = kernel(
            x[part],
            dt[part],
            A,
            B[part, :, None],
            C[part, :, None],
            chunk,
            D=None if D is None else D.float(),
            initial_states=start[part].contiguous(),
            return_final_states=advance,
        )
        if advance:
            out, after = out
            states.append(after)
        ys.append(out)
    if advance:
        state = joined(states).permute(0, 3, 1, 2).contiguous().to(state.dtype)
    return Scanned(joined(ys), state)


def joined(parts: list[Tensor]) -> Tensor:
    """One tensor of all rows, without a copy where it is one already."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _import_past_init(name: str) -> types.ModuleType:
    """A module of mamba_ssm without running the package's `__init__`, which wants the compiled extension.

    The modules are taken out of `sys.modules` again, so that a later `import mamba_ssm` is what it would have been.
    """
    spec = importlib.util.find_spec("mamba_ssm")
    assert spec is not None
    package = types.ModuleType("mamba_ssm")
    package.__path__ = list(spec.submodule_search_locations or ())
    before = set(sys.modules)
    sys.modules["mamba_ssm"] = package
    try:
        return importlib.import_module(name)
    finally:
        for added in set(sys.modules) - before:
            if added.partition(".")[0] == "mamba_ssm":
                del sys.modules[added]


def _function_of(module: types.ModuleType) -> Callable[..., Any]:
    # torch.compile calls the kernels as they are: they are compiled already.
    function: Callable[..., Any] = torch.compiler.disable(module.mamba_chunk_scan_combined)
    return function
