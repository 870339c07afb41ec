"""What is measured, in the process of one checkout: `python works.py PRESET STEPS [EPISODES]` answers requests.

It stands for itself, so that another checkout of this project can be measured by it, whatever benchmarks that one has.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from lssvwm.agents.running.presets import PRESETS
from lssvwm.envs.dream import DreamVectorEnv
from lssvwm.worldmodel import Checkpoint, Episode, EpisodeStore, Trainer, TrainingConfig, WorldModel, WorldModelConfig

KINDS = {
    "products": ("mm", "addmm", "bmm", "baddbmm", "baddbmm_"),
    "copies": ("copy_", "cat", "clone", "index", "fill_", "zero_", "repeat_interleave", "masked_fill_"),
    "reductions": ("sum", "mean", "norm", "linalg_vecdot", "cumsum", "softmax", "max", "min"),
}


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Least CPU time of a call: what else the machine does only ever adds."""
    best = float("inf")
    for _ in range(repeats):
        begin = time.process_time()
        work()
        best = min(best, time.process_time() - begin)
    return best


@contextmanager
def counted() -> Iterator[list[int]]:
    """Operations of the products inside; convolutions, which are counted wrongly by groups, are left out."""

    ops = torch.ops.aten
    mapping = {
        ops._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
        ops._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: sdpa_backward_flop_count(
            g, q, k, v
        ),
        ops.convolution: lambda *_, **__: 0,
        ops.convolution_backward: lambda *_, **__: 0,
    }
    found: list[int] = []
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        yield found
    found.append(counter.get_total_flops())


class Works:
    """What is measured, for one preset: made once, called many times."""

    def __init__(self, preset: str, folder: Path, steps: int, episodes: Path | None = None) -> None:

        torch.manual_seed(0)
        torch.set_num_threads(1)
        settings = PRESETS[preset]
        # The frames that the preset is recorded in: of MiniGrid 56 pixels (the carpet 24), of everything else 64.
        pixels = settings.size or (settings.model.height if settings.actions else 64)
        patch = settings.model.patch or pixels // 4
        patch = pixels // 4 if pixels % patch else patch  # "default" of older checkouts has 14
        own = {"height": pixels, "width": pixels, "patch": patch, "num_actions": len(settings.actions or range(6))}
        config = WorldModelConfig.from_dict({**settings.model.to_dict(), **own, "pose_size": 0})
        options = {k: v for k, v in vars(settings.training).items() if k not in ("precision", "workers")}
        self.training = TrainingConfig(**options | {"save_seconds": 1e9})
        if preset in ("small", "base", "paper"):  # what fits one thread; rates hardly depend on it
            self.training = replace(self.training, batch=2, length=32)
        self.model, self.folder, self.steps = WorldModel(config), folder, steps
        self.model.tokenizer.fit(torch.randint(256, (512, pixels, pixels, 3), dtype=torch.uint8))
        self.episodes = episodes or self.record(config, max(64, 2 * self.training.length))

    def record(self, config: Any, length: int) -> Path:
        """Episodes of noise: what they show costs nothing."""

        source, store = np.random.default_rng(0), EpisodeStore(self.folder / "episodes", create=True)
        for _ in range(8):
            last = np.arange(length) == length - 1
            store.append(
                Episode(
                    image=source.integers(256, size=(length, config.height, config.width, 3), dtype=np.uint8),
                    action=np.concatenate([[-1], source.integers(config.num_actions, size=length - 1)]),
                    reward=np.zeros(length, np.float32),
                    terminated=last,
                    truncated=np.zeros_like(last),
                )
            )
        return self.folder / "episodes"

    def train(self) -> Callable[[], object]:
        """One step of training; what it gives are its figures."""

        store = EpisodeStore(self.episodes)
        trainer = Trainer(self.model, store, self.training, self.folder / "model", world={})
        trainer.prepare()
        return trainer.train_step

    def dream(self, rows: int) -> Callable[[], object]:
        """One step of a dream environment of so many rows, whose windows are full."""

        checkpoint = Checkpoint(self.model.eval(), {}, 0, Path("benchmark"))
        settings: dict[str, Any] = {"max_episode_steps": None, "terminate": "never", "output": "torch"}
        settings |= {"contexts": self.episodes, "context_length": 16, "steps": self.steps}
        env = DreamVectorEnv(rows, checkpoint=checkpoint, **settings)
        env.reset(seed=0)
        actions = torch.zeros(rows, dtype=torch.int64)
        return lambda: env.step(actions)


def spent(work: Callable[[], object]) -> dict[str, float]:
    """Milliseconds of one call by kind of operation, under the profiler."""

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        begin = time.perf_counter()
        work()
        whole = time.perf_counter() - begin
    by_kind: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        name = event.key.removeprefix("aten::").removeprefix("_")
        kinds = (kind for kind, names in KINDS.items() if name in names)
        if event.key.startswith("aten::"):
            known = "products" if name.startswith("scaled_dot_product") else next(kinds, None)
            known = "reductions" if "layer_norm" in name else known
            by_kind[known or "element by element, and views"] += event.self_cpu_time_total / 1e3
    by_kind["outside of torch's operations"] = 1e3 * whole - sum(by_kind.values())
    return dict(by_kind)


def serve(preset: str, steps: int, episodes: Path | None) -> None:
    """Answer lines of JSON on standard input: what to measure, one line back each."""
    works: dict[str, Callable[[], object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        source = Works(preset, Path(folder), steps, episodes)
        for line in sys.stdin:
            asked = json.loads(line)
            name, what = asked["work"], asked["what"]
            if name not in works:
                works[name] = source.train() if name == "train" else source.dream(int(name.split()[1]))
                if what != "loss":
                    works[name]()
            answer: Any = None
            if what == "count":
                with counted() as found:
                    works[name]()
                answer = found[0]
            elif what == "time":
                answer = seconds(works[name], 1)
            elif what == "loss":
                answer = float(works[name]()["diffusion"])  # type: ignore[index]
            elif what == "spent":
                answer = spent(works[name])
            elif what == "forget":
                works.pop(name)
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)
