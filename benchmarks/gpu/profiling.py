"""Where the time of a training step and of a dream step goes on the device: what to mend next."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.sheet import Setting, Sheet
from benchmarks.gpu.speed import frames, trainer_of
from benchmarks.gpu.timing import settle
from benchmarks.gpu.worlds import config_of, model_of
from lssvwm.worldmodel import Runtime, Sampler, Sampling
from lssvwm.worldmodel.layers.runtime import ScanChoice, ScanKind

STEPS = 2


def look(setting: Setting, sheet: Sheet, *, scan: ScanKind) -> None:
    """Busy time, number of kernels and the most expensive ones; the tables are in the log."""
    sizes = [("memory-maze", 16, 128), ("small", 16, 64)]
    for name, batch, length in [("small", 2, 8)] if setting.rehearse else sizes:
        training(name, batch, length, sheet, setting, scan=scan)
    if scan == "triton":
        return
    rows = 2 if setting.rehearse else 256
    model = model_of(config_of("memory-maze", setting), setting)
    sampler = Sampler(model, Sampling(2, precision="bfloat16" if setting.cuda else "float32"))
    stream = frames(sampler, torch.zeros(rows, dtype=torch.int64, device=setting.device), setting.device)
    tell(sheet, f"dreaming memory-maze, {rows} rows, 2 steps", lambda: next(stream), setting)


def compiled(setting: Setting, sheet: Sheet) -> None:
    """The same with the layers compiled."""
    training("memory-maze", 16, 8 if setting.rehearse else 128, sheet, setting, compile=True)


def training(
    name: str, batch: int, length: int, sheet: Sheet, setting: Setting, *, scan: ScanChoice = "auto", **changes: Any
) -> None:
    """How long the first step takes, and a profile of later ones."""
    begin = time.monotonic()
    trainer = trainer_of(name, length, batch, setting, **changes)
    trainer.model.backbone.use(Runtime(scan=scan))
    trainer.train_step()
    settle(setting.device)
    sheet.note(f"first step of {name}", time.monotonic() - begin, "s")
    tell(sheet, f"training {name}, {batch} x {length} frames", trainer.train_step, setting)


def tell(sheet: Sheet, what: str, step: Callable[[], object], setting: Setting) -> None:
    """Profile a few steps."""
    for _ in range(3):
        step()
    settle(setting.device)
    begin = time.perf_counter()
    for _ in range(STEPS):
        step()
    settle(setting.device)
    wall = (time.perf_counter() - begin) / STEPS
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setting.cuda else [])]
    with profile(activities=activities) as found:
        for _ in range(STEPS):
            step()
        settle(setting.device)
    sheet.note(f"{what}: wall", 1e3 * wall, "ms")
    averages = found.key_averages()
    kernels = [event for event in averages if event.device_type == DeviceType.CUDA]
    if kernels:
        busy = sum(event.self_device_time_total for event in kernels) / STEPS
        sheet.note(f"{what}: device busy", busy / 1e3, "ms")
        sheet.note(f"{what}: kernels", sum(event.count for event in kernels) / STEPS)
        show(f"{what}, on the device", [(each.self_device_time_total, each.count, each.key) for each in kernels])
    show(f"{what}, on the host", [(each.self_cpu_time_total, each.count, each.key) for each in averages])


def show(title: str, rows: list[tuple[float, int, str]]) -> None:
    """Print the most expensive ones, per step."""
    print(f"==== {title}: ms and calls per step")
    for micro, count, key in sorted(rows, reverse=True)[:40]:
        print(f"{micro / 1e3 / STEPS:9.3f} {count / STEPS:7.0f}  {key[:110]}")
