"""How fast it is: dreaming, training and the scan, each as a share of a plain bfloat16 product in the same stage."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from benchmarks.gpu.sheet import CUDA, Setting, Sheet
from benchmarks.gpu.timing import product_rate, seconds_of
from benchmarks.gpu.worlds import config_of, model_of, noise_episodes
from benchmarks.kernels import forward_backward
from benchmarks.scaling import history as remembered
from benchmarks.throughput.works import counted
from lssvwm.agents.running.presets import PRESETS
from lssvwm.worldmodel import Runtime, Sampler, Sampling, Trainer, TrainingConfig, WorldModel
from lssvwm.worldmodel.common.philox import Counted
from lssvwm.worldmodel.common.rng import Noise, normal
from lssvwm.worldmodel.cuda_graphs import GraphSampler
from lssvwm.worldmodel.layers.scan import even_chunk, scan_chunked
from lssvwm.worldmodel.layers.triton_scan import scan_triton

ROWS = (256, 1, 32, 1024)
FRAMES = {"memory-maze": 4096, "small": 1024, "base": 512, "paper": 256}
"""Of one training step."""
SHARE_OF_MEMORY = 0.3
"""Largest share of the device that the memory of all rows may take: a step holds it two or three times."""


@torch.no_grad()
def dreams(setting: Setting, sheet: Sheet) -> None:
    """Imagined frames per second by rows, steps and size, plain and as CUDA graphs, in bfloat16 on CUDA."""
    rate = product_rate(setting)
    sheet.note("bfloat16 product", rate / 1e12, "TFLOP/s")
    draw_noise(setting, sheet)
    rows = (2, 4) if setting.rehearse else ROWS
    for name in ("memory-maze",) if setting.rehearse else ("memory-maze", "small", "base"):
        model = model_of(config_of(name, setting), setting)
        for count, steps in itertools.product(rows, (1, 2)):
            if setting.left < 3:
                sheet.not_run(f"{name}, {count} rows, {steps} steps, and what follows", "no time was left")
                return
            need = count * model.empty(1).nbytes
            if setting.cuda and need > SHARE_OF_MEMORY * torch.cuda.get_device_properties(0).total_memory:
                sheet.not_run(f"{name}, {count} rows, {steps} steps", f"{need / 2**30:.0f} GiB of memory")
                continue
            dream(model, name, count, steps, rate, setting, sheet)


def draw_noise(setting: Setting, sheet: Sheet) -> None:
    """Noise for 256 rows of 16 tokens: by a generator for each, and by counting."""
    rows, like = 256, torch.zeros((), device=setting.device)
    ways: dict[str, Noise] = {
        "a generator for each": [torch.Generator(setting.device).manual_seed(row) for row in range(rows)],
        "counted": Counted(rows, torch.device(setting.device)),
    }
    for way, source in ways.items():
        work = functools.partial(normal, (rows, 1, 16, 64), source, like)
        sheet.note(f"noise of {rows} rows, {way}", 1e3 * seconds_of(work, setting.device), "ms")


def dream(model: WorldModel, name: str, rows: int, steps: int, rate: float, setting: Setting, sheet: Sheet) -> None:
    """One line for plain calls, one for graphs."""
    precision = "bfloat16" if setting.cuda else "float32"
    sampler = Sampler(model, Sampling(steps, precision=precision))
    actions = torch.zeros(rows, dtype=torch.int64, device=setting.device)
    operations = operations_of(model, lambda: one_dreamt(model, steps))
    plain = functools.partial(frames, sampler, actions, setting.device)
    ways: dict[str, Callable[[], Iterator[object]]] = {"plain": plain}
    if setting.cuda:
        graph = GraphSampler(sampler, rows)
        ways["graph"] = functools.partial(frames, graph, actions, setting.device)
    else:
        sheet.not_run(f"{name}, {rows} rows, {steps} steps, graph", CUDA)
    for way, make in ways.items():
        stream = make()
        per_second = rows / seconds_of(lambda stream=stream: next(stream), setting.device)
        what = f"{name}, {rows} rows, {steps} steps, {way}"
        if setting.cuda and name == "memory-maze" and rows == 256 and way == "graph":
            sheet.at_least(what, per_second, 20_000, "frames/s")
        else:
            sheet.note(what, per_second, "frames/s")
        sheet.note(f"{what}: of the product's rate", per_second * operations / rate)


def frames(sampler: Sampler | GraphSampler, actions: torch.Tensor, device: str) -> Iterator[object]:
    """Dream on and on, one frame per row at a time."""
    memory, generator = sampler.model.empty(len(actions)), torch.Generator(device).manual_seed(0)
    while True:
        imagined = sampler.imagine(actions, memory, generator=generator, in_place=True)
        memory = imagined.memory
        yield imagined


def one_dreamt(model: WorldModel, steps: int) -> None:
    actions = torch.zeros(1, dtype=torch.int64, device=model.device)
    model.imagine(actions, model.empty(1), steps=steps, generator=torch.Generator(model.device))


def operations_of(model: WorldModel | None, work: Callable[[], Any]) -> float:
    """Multiplications and additions of the products inside, as plain torch computes them: kernels are not counted."""
    if model is not None:
        model.backbone.use(Runtime(scan="torch", attention="sdpa"))
    with counted() as found:
        work()
    if model is not None:
        model.backbone.use(Runtime())
    return float(found[0])


def history(setting: Setting, sheet: Sheet) -> None:
    """A dreamt frame after 100, 1,000 and 10,000 frames, in turns."""
    config = config_of("memory-maze", setting)
    model = model_of(config, setting)
    sampler = Sampler(model, Sampling(2, precision="bfloat16" if setting.cuda else "float32"))
    actions, generator = torch.zeros(1, dtype=torch.int64, device=setting.device), torch.Generator(setting.device)
    lengths = (100, 200) if setting.rehearse else (100, 1_000, 10_000)
    memories = {length: remembered(model, length) for length in lengths}
    best = dict.fromkeys(lengths, math.inf)
    for _ in range(7):
        for length, memory in memories.items():
            work = functools.partial(sampler.imagine, actions, memory, generator=generator)
            best[length] = min(best[length], seconds_of(work, setting.device, repeats=1, least=0.1))
    for length, seconds in best.items():
        sheet.note(f"a frame after {length} frames", 1e3 * seconds, "ms")
    ratio = best[lengths[-1]] / best[lengths[0]]
    what = f"cost after {lengths[-1]} over after {lengths[0]}"
    sheet.at_most(what, ratio, 1.05) if setting.cuda else sheet.note(what, ratio)


def scans(setting: Setting, sheet: Sheet) -> None:
    """Forward and backward by length, 8 heads of 64 channels, state 64, as many tokens in all."""
    rate, dtype = product_rate(setting), torch.bfloat16 if setting.cuda else torch.float32
    heads, size, state, tokens = (2, 16, 16, 256) if setting.rehearse else (8, 64, 64, 2**17)
    for length in (64, 128) if setting.rehearse else (1600, 400, 6400, 96, 16):
        if setting.left < 3:
            sheet.not_run(f"{length} tokens, and what follows", "no time was left")
            return
        b = max(1, tokens // length)
        x = torch.randn(b, length, heads, size, device=setting.device, dtype=dtype)
        B, C = (torch.randn(b, length, state, device=setting.device, dtype=dtype) for _ in range(2))
        dt = torch.rand(b, length, heads, device=setting.device)
        A, start = -torch.rand(heads, device=setting.device), torch.randn(b, state, heads, size, device=setting.device)

        def plain(*given: torch.Tensor, length: int = length) -> torch.Tensor:
            *rest, before = given
            return scan_chunked(*rest, None, before, chunk=even_chunk(length)).y

        def kernel(*given: torch.Tensor) -> torch.Tensor:
            *rest, before = given
            return scan_triton(*rest, None, before).y

        work = forward_backward(plain, [x, dt, A, B, C, start])
        operations = operations_of(None, work)
        slow = seconds_of(work, setting.device)
        sheet.note(f"{b} sequences of {length} tokens, torch", 1e3 * slow, "ms")
        sheet.note(f"{b} sequences of {length} tokens, torch: of the product's rate", operations / slow / rate)
        if not setting.cuda:
            sheet.not_run(f"{b} sequences of {length} tokens, Triton", CUDA)
            continue
        fast = seconds_of(forward_backward(kernel, [x, dt, A, B, C, start]), setting.device)
        sheet.note(f"{b} sequences of {length} tokens, Triton", 1e3 * fast, "ms")
        what = f"{b} sequences of {length} tokens: torch over Triton"
        sheet.at_least(what, slow / fast, 5) if length >= 400 else sheet.note(what, slow / fast)


def training(setting: Setting, sheet: Sheet) -> None:
    """Trained frames per second, and their operations as a share of the product's rate (MFU), optimiser included."""
    rate = product_rate(setting)
    sheet.note("bfloat16 product", rate / 1e12, "TFLOP/s")
    asked = [
        ("memory-maze", 128),
        ("small", 64),
        ("base", 128),
        ("small", 400),
        ("base", 64),
        ("paper", 64),
        ("small", 128),
        ("paper", 400),
    ]
    for name, length in [("small", 8)] if setting.rehearse else asked:
        if setting.left < 6:
            sheet.not_run(f"{name}, {length} frames, and what follows", "no time was left")
            return
        batch = 2 if setting.rehearse else max(1, FRAMES[name] // length)
        while batch:
            try:
                train(name, length, batch, rate, setting, sheet)
                break
            except torch.OutOfMemoryError:
                sheet.note(f"{name}, {batch} x {length} frames", "does not fit the memory")
                batch //= 2
            torch.cuda.empty_cache()


def trainer_of(name: str, length: int, batch: int, setting: Setting, **changes: Any) -> Trainer:
    """A preset's training on episodes of noise, `batch` clips of `length` frames, always the same ones."""
    config = config_of(name, setting)
    store = noise_episodes(setting.shared / f"noise-{config.height}", config, 512 if setting.cuda else 32, 2)
    options = {k: v for k, v in vars(PRESETS[name].training).items() if k not in ("workers", "curriculum")}
    chosen: dict[str, Any] = {"batch": batch, "length": length, "workers": 0, "save_seconds": 1e9}
    chosen |= {"precision": "bfloat16" if setting.cuda else "float32", "checkpoint_layers": name == "paper"}
    training = replace(TrainingConfig(**options), **chosen | changes)
    trainer = Trainer(model_of(config, setting), store, training, setting.shared / "never-saved", world={})
    trainer.prepare()
    clips = trainer.loader.clips(0)
    trainer.loader.clips = lambda step: clips  # type: ignore[method-assign]  # what reading costs is another matter
    return trainer


def train(name: str, length: int, batch: int, rate: float, setting: Setting, sheet: Sheet) -> None:
    """One size and length."""
    trainer = trainer_of(name, length, batch, setting)
    changes = {"precision": "float32", "checkpoint_layers": False}
    part = trainer_of(name, min(length, 64), 1, setting, **changes)
    operations = operations_of(part.model, lambda: part.backward(part.parts())) / part.config.length
    seconds = seconds_of(trainer.train_step, setting.device, least=0.2)
    what = f"{name}, {batch} x {length} frames"
    sheet.note(what, batch * length / seconds, "frames/s")
    share = batch * length / seconds * operations / rate
    goal = setting.cuda and name in ("small", "base")
    sheet.at_least(f"{what}: MFU", share, 0.4) if goal else sheet.note(f"{what}: MFU", share)
    if setting.cuda:
        sheet.note(f"{what}: most memory", torch.cuda.max_memory_allocated() / 2**30, "GiB")
        torch.cuda.reset_peak_memory_stats()
