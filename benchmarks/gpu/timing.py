"""Wall seconds of work on a device, and the rate of the product that all rates are compared with."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

from benchmarks.gpu.sheet import Setting
from lssvwm.worldmodel.common.precision import use_policy


def settle(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], object], device: str, *, repeats: int = 3, least: float = 0.05) -> float:
    """Least seconds of a call, of `repeats` turns that take at least `least` seconds each; wall time."""
    work()
    settle(device)
    begin = time.perf_counter()
    work()
    settle(device)
    times = max(1, math.ceil(least / max(1e-6, time.perf_counter() - begin)))
    best = math.inf
    for _ in range(repeats):
        begin = time.perf_counter()
        for _ in range(times):
            work()
        settle(device)
        best = min(best, (time.perf_counter() - begin) / times)
    return best


def product_rate(setting: Setting) -> float:
    """Operations per second of a bfloat16 product of square matrices: what every rate is compared with."""
    use_policy()
    side = 8192 if setting.cuda else 192
    a, b = (torch.randn(side, side, device=setting.device).bfloat16() for _ in range(2))
    return 2 * side**3 / seconds_of(lambda: a @ b, setting.device)
