"""Does a world model remember a voxel world? Fills its section of docs/results.md.

    python -m benchmarks.minetest_memory --out runs/minetest-memory [--seeds 3] [--seconds 900] [--jobs 2]

Records scripted episodes of Minetest's memory tasks, trains LSSVWM and the limited window on them for as much CPU time,
told the pose and nothing else, and lets each continue unseen episodes from the moment of turning back. What is done
already is not done again, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from benchmarks.minetest_memory.judging import collect, unseen_trial
from benchmarks.minetest_memory.report import write_section
from benchmarks.minetest_memory.tasks import CONTEXT, POSE, POSE_SIZE, SIZE, TASKS, MemoryTask, record_episodes
from benchmarks.shared.training import seconds_per_step, spawn
from lssvwm.worldmodel import EpisodeStore, Trainer, TrainingConfig, WorldModel, WorldModelConfig, load_checkpoint
from lssvwm.worldmodel.common.rng import weights_from
from lssvwm.worldmodel.evaluation import rollout
from lssvwm.worldmodel.presets import SIZES, VARIANTS, parameters, variant

EPISODES, UNSEEN, UNSEEN_SEED = 400, 96, 1_000_000
WINDOW = 4
"""Frames before its own that a layer of causal attention with a limited window sees."""
STEPS = 2
BASE = replace(
    SIZES["tiny"],
    height=SIZE,
    width=SIZE,
    latent_channels=64,
    tiles=((1, 1), (4, 4)),
    num_actions=0,
    pose_size=POSE_SIZE,
)
"""As in the paper's Maze experiments the models are told where the player is and looks, and nothing else."""
TRAINING = TrainingConfig(batch=2, decay=0.3, ema=0.99, save_seconds=120)


def config_of(name: str) -> WorldModelConfig:
    return variant(BASE, name, window=WINDOW)


def reach() -> int:
    """Frames back to which the limited window sees through all of its layers."""
    config = config_of("causal-window")
    assert config.window is not None
    return config.layers * config.window


def build(name: str, seed: int) -> WorldModel:
    with weights_from(seed):
        return WorldModel(config_of(name))


def training_of(task: MemoryTask) -> TrainingConfig:
    return replace(TRAINING, length=CONTEXT + task.horizon)


def costs(out: Path, task: MemoryTask, names: list[str]) -> dict[str, float]:
    """CPU seconds of a training step."""
    store = EpisodeStore(out / "episodes", pose=POSE)
    config = replace(training_of(task), decay=0.0, save_seconds=1e9)

    def make(name: str) -> Trainer:
        return Trainer(build(name, 0), store, config, out / "timing" / name, world={})

    return seconds_per_step(out / "seconds_per_step.json", names, make)


def run(out: Path, task: MemoryTask, name: str, seed: int, steps: int) -> None:
    """Train one model, and let it continue the unseen clips."""
    torch.set_num_threads(1)
    folder = out / "runs" / f"{name}-{seed}"
    training = replace(training_of(task), steps=steps, seed=seed)
    begin = time.process_time()
    with SummaryWriter(str(folder / "tensorboard")) as writer:
        source = EpisodeStore(out / "episodes", pose=POSE)
        trainer = Trainer(build(name, seed), source, training, folder / "world_model", world={}, writer=writer)
        losses = trainer.train(steps, progress=False)
    spent = time.process_time() - begin
    model, trial = load_checkpoint(folder / "world_model").model, unseen_trial(out, task, reach())
    truth = trial.ahead.frames
    imagined = rollout(model, trial, steps=STEPS).frames
    with torch.no_grad():
        kept = model.tokenizer.decode(model.tokenizer.encode(truth.flatten(0, 1))).view(truth.shape)
    np.savez_compressed(folder / "frames.npz", imagined=imagined.numpy(), tokenized=kept.numpy())
    figures = {"variant": name, "seed": seed, "steps": steps, "cpu_seconds": spent, "losses": losses}
    figures |= {"parameters": parameters(model.config), "config": model.config.to_dict(), "training": asdict(training)}
    (folder / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")


def start(out: Path, task: str, name: str, seed: int, steps: int) -> None:
    if not (out / task / "runs" / f"{name}-{seed}" / "figures.json").exists():
        spawn("benchmarks.minetest_memory", "--out", str(out), "--run", task, name, str(seed), str(steps))
        print(f"done: {task}, {name}, seed {seed}, {steps} steps", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/minetest-memory"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=900, help="CPU seconds that every model is trained for")
    parser.add_argument("--jobs", type=int, default=2, help="engines, and then models, at once, each on one core")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["lssvwm", "causal-window"])
    parser.add_argument("--episodes", type=int, default=EPISODES, help="episodes of each task to train on")
    parser.add_argument("--unseen", type=int, default=UNSEEN, help="episodes of each task to judge by")
    parser.add_argument("--page", type=Path, default=Path("docs/results.md"), help="page that receives the tables")
    parser.add_argument("--run", nargs=4, metavar=("TASK", "VARIANT", "SEED", "STEPS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        task, name, seed, steps = options.run
        return run(options.out / task, TASKS[task], name, int(seed), int(steps))
    torch.set_num_threads(1)
    planned = []
    for name in options.tasks:
        out, task = options.out / name, TASKS[name]
        record_episodes(out / "episodes", task, options.episodes, 0, options.jobs)
        record_episodes(out / "unseen", task, options.unseen, UNSEEN_SEED, options.jobs)
        cost = costs(out, task, options.variants)
        planned += [
            (options.out, name, model, seed, round(options.seconds / cost[model]))
            for seed in range(options.seeds)
            for model in options.variants
        ]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda job: start(*job), planned))
    found = {
        name: collect(options.out / name, TASKS[name], options.variants, options.seeds, reach())
        for name in options.tasks
    }
    write_section(options.page, found)
    print(f"tables: {options.page}")
    return None


if __name__ == "__main__":
    main()
