"""What long videos cost: training per frame by clip length, dreaming per frame by length of the history.

    python -m benchmarks.scaling [--preset tiny] [--device cpu] [--threads 1]

LSSVWM beside causal attention over the whole history, both with as many parameters, in turns within one run. Times are
CPU seconds on a CPU and wall seconds on a GPU, best of several; compare only within a run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import torch

from lssvwm.worldmodel import Memory, WorldModel, WorldModelConfig
from lssvwm.worldmodel.episodes import Clips
from lssvwm.worldmodel.presets import SIZES, parameters, variant

LENGTHS = (100, 200, 400, 800, 1600)
HISTORIES = (100, 1_000, 10_000)
SEGMENT = 100
"""Frames that enter memory at once while a history is built up."""


def make(config: WorldModelConfig, device: torch.device) -> WorldModel:
    model = WorldModel(config).to(device).eval()
    shape = (64, config.height, config.width, 3)
    model.tokenizer.fit(torch.randint(0, 256, shape, dtype=torch.uint8).to(device))
    return model


def spent(work: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        begin = time.process_time()
        work()
        return time.process_time() - begin
    torch.cuda.synchronize()
    begin = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def train(model: WorldModel, length: int) -> None:
    config, device = model.config, model.device
    clips = Clips(
        frames=torch.randint(0, 256, (1, length, config.height, config.width, 3), dtype=torch.uint8, device=device),
        actions=torch.zeros(1, length, dtype=torch.int64, device=device),
        rewards=torch.zeros(1, length, device=device),
        terminated=torch.zeros(1, length, dtype=torch.bool, device=device),
        mask=torch.ones(1, length, dtype=torch.bool, device=device),
    )
    torch.autograd.backward(model.loss(clips, torch.Generator(device).manual_seed(0)).total)
    model.zero_grad(set_to_none=True)


@torch.no_grad()
def history(model: WorldModel, frames: int) -> Memory:
    config, memory = model.config, model.empty(1)
    shape = (1, SEGMENT, config.height, config.width, 3)
    actions = torch.zeros(1, SEGMENT, dtype=torch.int64, device=model.device)
    for _ in range(frames // SEGMENT):
        segment = torch.randint(0, 256, shape, dtype=torch.uint8, device=model.device)
        _, memory = model.observe(segment, actions, memory)
    return memory


@torch.no_grad()
def dream(model: WorldModel, memory: Memory, frames: int = 10) -> None:
    actions, generator = torch.zeros(1, dtype=torch.int64, device=model.device), torch.Generator(model.device)
    for _ in range(frames):
        memory = model.imagine(actions, memory, steps=2, generator=generator).memory


def training_costs(models: dict[str, WorldModel], lengths: tuple[int, ...], repeats: int) -> None:
    device = next(iter(models.values())).device
    best: dict[tuple[str, int], float] = {}
    for model in models.values():
        train(model, lengths[0])
    for _ in range(repeats):
        for length in lengths:
            for name, model in models.items():
                # Short clips several times, so that every measurement lasts as long.
                times = lengths[-1] // length

                def work(model: WorldModel = model, length: int = length, times: int = times) -> None:
                    for _ in range(times):
                        train(model, length)

                seconds = spent(work, device) / (times * length)
                best[name, length] = min(best.get((name, length), seconds), seconds)
    row("training, ms per frame", lengths, "9d", "frames in a clip")
    for name in models:
        row(name, [1e3 * best[name, length] for length in lengths], "9.3f")
        row("  over the shortest", [best[name, length] / best[name, lengths[0]] for length in lengths], "9.2f")


def row(label: str, values: Sequence[float], form: str, unit: str = "") -> None:
    print(f"{label:28s}" + "".join(f"{value:{form}}" for value in values) + f"   {unit}")


def dreaming_costs(model: WorldModel, histories: tuple[int, ...], repeats: int) -> None:
    memories = {frames: history(model, frames) for frames in histories}
    best = dict.fromkeys(histories, float("inf"))
    dream(model, memories[histories[0]])
    for _ in range(repeats):
        for frames, memory in memories.items():
            best[frames] = min(best[frames], spent(lambda memory=memory: dream(model, memory), model.device) / 10)
    first = histories[0]
    row("\ndreaming, lssvwm", histories, "9d", "frames of history")
    row("ms per frame", [1e3 * best[n] for n in histories], "9.2f")
    row("  over the shortest", [best[n] / best[first] for n in histories], "9.3f")
    row("kB of memory", [memories[n].nbytes / 1e3 for n in histories], "9.1f")
    row("  over the shortest", [memories[n].nbytes / memories[first].nbytes for n in histories], "9.3f")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=SIZES, default="tiny")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--longest", type=int, default=LENGTHS[-1], help="leave out longer clips")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config, device = SIZES[options.preset], torch.device(options.device)
    models = {name: make(variant(config, name), device) for name in ("lssvwm", "causal-full")}
    print(
        f"preset {options.preset} on {device}, {options.threads} thread(s), {config.tokens} tokens per frame, "
        + ", ".join(f"{name} {parameters(model.config) / 1e6:.2f} M" for name, model in models.items())
    )
    training_costs(models, tuple(n for n in LENGTHS if n <= options.longest), options.repeats)
    dreaming_costs(models["lssvwm"], HISTORIES, options.repeats + 2)


if __name__ == "__main__":
    main()
