"""The paper's comparison on a real world that 2 CPU cores can learn: makes the tables of docs/results.md.

    python -m benchmarks.comparison --out runs/comparison [--seeds 3] [--seconds 160] [--jobs 2]

Records real MiniGrid episodes, trains LSSVWM, the four baselines and the ablations on them, all with as many parameters
and for as much CPU time, and lets each continue unseen episodes: the recorded path backwards (retrieval) and onwards
(reasoning). What is done already is not done again, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from benchmarks.comparison.report import write_report
from benchmarks.shared.training import seconds_per_step, spawn
from lssvwm.agents.policies.baselines import RandomPolicy
from lssvwm.envs.factory import EnvConfig
from lssvwm.envs.recording.recorder import record
from lssvwm.worldmodel import (
    Clips,
    EpisodeStore,
    Trainer,
    TrainingConfig,
    WorldModel,
    WorldModelConfig,
    load_checkpoint,
)
from lssvwm.worldmodel.common.rng import weights_from
from lssvwm.worldmodel.episodes.retrace import Retraced
from lssvwm.worldmodel.evaluation import evaluate_clips, rollout, trial_for
from lssvwm.worldmodel.presets import SIZES, VARIANTS, parameters, variant

ENV = EnvConfig("lssvwm/MiniGrid-Carpet-v0", actions=(0, 1, 2), extra_obs=True)
"""A room carpeted in tiles of random colors; the agent sees the 3 x 3 cells before it."""
POSE = ("agent_pos", "agent_dir")
EPISODES, UNSEEN, UNSEEN_SEED = 800, 64, 1_000_000
CONTEXT, HORIZON = 16, 15
WINDOW = 7
"""Frames before its own that causal attention with a limited window sees: a quarter of the clip, as in the paper."""
STEPS = 2
BASE = replace(SIZES["tiny"], num_actions=0, pose_size=4)
"""As in the paper's Maze experiments the models are told where the agent stands, and nothing else."""
TRAINING = TrainingConfig(batch=2, length=CONTEXT + HORIZON + 1, decay=0.3, ema=0.99, save_seconds=120)


def config_of(name: str) -> WorldModelConfig:
    return variant(BASE, name, window=WINDOW)


def build(name: str, seed: int) -> WorldModel:
    with weights_from(seed):
        return WorldModel(config_of(name))


def record_episodes(folder: Path, episodes: int, seed: int) -> None:
    store = EpisodeStore(folder, create=True)
    if len(store) < episodes:
        policy = RandomPolicy(len(ENV.actions or ()))
        record(ENV, store, policy, episodes=episodes, num_envs=16, processes=False, seed=seed)


def costs(out: Path, names: list[str]) -> dict[str, float]:
    """CPU seconds of a training step."""
    store = Retraced(EpisodeStore(out / "episodes", pose=POSE))
    config = replace(TRAINING, decay=0.0, save_seconds=1e9)

    def make(name: str) -> Trainer:
        return Trainer(build(name, 0), store, config, out / "timing" / name, world={})

    return seconds_per_step(out / "seconds_per_step.json", names, make)


def unseen_clips(out: Path) -> Clips:
    store = EpisodeStore(out / "unseen", pose=POSE)
    return store.sample_contexts(UNSEEN, CONTEXT + HORIZON, np.random.default_rng(0))


def run(out: Path, name: str, seed: int, steps: int, runs: str = "runs") -> None:
    """Train and judge one model; an interrupted training goes on where it stood."""
    torch.set_num_threads(1)
    folder = out / runs / f"{name}-{seed}"
    store = Retraced(EpisodeStore(out / "episodes", pose=POSE))
    training = replace(TRAINING, steps=steps, seed=seed)
    begin = time.process_time()
    with SummaryWriter(str(folder / "tensorboard")) as writer:
        trainer = Trainer(build(name, seed), store, training, folder / "world_model", world={}, writer=writer)
        begun = trainer.step
        losses = trainer.train(steps, progress=False)
    # A run that was interrupted is timed since it went on, and not at all where nothing was left to do.
    spent = (time.process_time() - begin) * steps / (steps - begun) if begun < steps else math.nan
    model, clips = load_checkpoint(folder / "world_model").model, unseen_clips(out)
    figures = {"variant": name, "seed": seed, "steps": steps, "cpu_seconds": spent, "losses": losses}
    figures |= {"parameters": parameters(model.config), "config": model.config.to_dict(), "training": asdict(training)}
    for protocol in ("retrieval", "reasoning"):
        settings = {"context": CONTEXT, "horizon": HORIZON}
        curve = evaluate_clips(model, clips, protocol=protocol, steps=STEPS, **settings)
        figures[protocol] = {"psnr": curve.psnr.tolist(), "ssim": curve.ssim.tolist()}
        trial = trial_for(model, clips.rows(slice(0, 2)), protocol, **settings)
        imagined = rollout(model, trial, steps=STEPS)
        np.savez_compressed(folder / f"{protocol}.npz", truth=trial.ahead.frames, imagined=imagined.frames.numpy())
    (folder / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")


def start(out: Path, name: str, seed: int, steps: int) -> None:
    if not (out / "runs" / f"{name}-{seed}" / "figures.json").exists():
        spawn("benchmarks.comparison", "--out", str(out), "--run", name, str(seed), str(steps))
        print(f"done: {name}, seed {seed}, {steps} steps", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/comparison"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=160, help="CPU seconds that every model is trained for")
    parser.add_argument("--jobs", type=int, default=2, help="models trained at once, each on one core")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--page", type=Path, default=Path("docs/results.md"), help="page that receives the tables")
    parser.add_argument("--run", nargs=3, metavar=("VARIANT", "SEED", "STEPS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        name, seed, steps = options.run
        return run(options.out, name, int(seed), int(steps))
    torch.set_num_threads(1)
    record_episodes(options.out / "episodes", EPISODES, seed=0)
    record_episodes(options.out / "unseen", UNSEEN, seed=UNSEEN_SEED)
    cost = costs(options.out, options.variants)
    with ThreadPoolExecutor(options.jobs) as pool:
        done = [
            pool.submit(start, options.out, name, seed, round(options.seconds / cost[name]))
            for seed in range(options.seeds)
            for name in options.variants
        ]
        for each in done:
            each.result()
    write_report(options.out, options.variants, options.seeds, options.page, context=CONTEXT, window=WINDOW)
    print(f"tables: {options.page}")
    return None


if __name__ == "__main__":
    main()
