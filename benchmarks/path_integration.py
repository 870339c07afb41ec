"""Are places found again under actions alone? A ring of sections seen one at a time, with path integration and without.

    python -m benchmarks.path_integration [--seeds 3] [--steps 300]

Every episode has a ring of its own, of eight sections, each black or white in every colour by chance. Who turns within
it sees one section; nothing tells which. After 20 frames of context a world model goes on for 20 frames, open loop,
under the recorded actions. Counted are frames whose section was last seen at least 12 frames before: how often the
dream shows it in its colour.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.throughput.__main__ import machine
from lssvwm.worldmodel.common.rng import weights_from
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.episodes import Episode, EpisodeStore
from lssvwm.worldmodel.model import WorldModel
from lssvwm.worldmodel.training import Trainer, TrainingConfig

SECTIONS, FRAMES, CONTEXT, FAR = 8, 40, 20, 12
STAY, RIGHT, LEFT = range(3)
ANGLES = 16
RING = WorldModelConfig(
    height=8,
    width=8,
    num_actions=3,
    patch=8,
    latent_channels=8,
    dim=64,
    layers=2,
    heads=2,
    tiles=((1, 1),),
    window=2,
    head_dim=32,
    features=32,
    reward_horizon=1,
    noise_mean=1.5,  # frames that little is left of, so that memory counts
    noise_std=1.4,
)
TRAINING = TrainingConfig(batch=16, length=FRAMES, warmup=20, ema=0.98, fit_frames=2000, save_seconds=1e9)


@dataclass(frozen=True)
class Walk:
    """Frames (T, 8, 8, 3) uint8 of a walk along a ring, the actions (T,) that led to them, the sections (T,) seen."""

    frames: NDArray[np.uint8]
    actions: NDArray[np.int64]
    sections: NDArray[np.int64]


def walk(seed: int) -> Walk:
    """A walk that keeps its direction for some frames."""
    random = np.random.default_rng(seed)
    colors = random.integers(0, 2, (SECTIONS, 3)) * 200 + 25
    actions, way = [-1], RIGHT
    for _ in range(FRAMES - 1):
        way = RIGHT + LEFT - way if random.random() < 0.15 else way
        actions.append(STAY if random.random() < 0.15 else way)
    sections = np.cumsum(np.array([0, 1, -1, 0])[actions]) % SECTIONS
    frames = np.broadcast_to(colors[sections, None, None], (FRAMES, 8, 8, 3)).astype(np.uint8)
    return Walk(frames, np.array(actions), sections)


def trained(out: Path, config: WorldModelConfig, steps: int, seed: int = 0) -> WorldModel:
    """A model of `config` after so many steps on 200 walks."""
    store = EpisodeStore(out / "episodes", create=True)
    for number in range(200):
        one, last = walk(number), np.arange(FRAMES) == FRAMES - 1
        store.append(Episode(one.frames, one.actions, np.zeros(FRAMES, np.float32), np.zeros(FRAMES, np.bool_), last))
    with weights_from(seed):
        model = WorldModel(config)
    trainer = Trainer(model, store, replace(TRAINING, seed=seed), out / "model", world={})
    trainer.train(steps, progress=False)
    return trainer.average.eval()


def found_again(model: WorldModel) -> float:
    """The share of frames of sections last seen `FAR` frames before or more that are dreamt in their colour."""
    walks = [walk(10_000 + number) for number in range(64)]
    frames, actions = (torch.from_numpy(np.stack([getattr(w, part) for w in walks])) for part in ("frames", "actions"))
    generator, right = torch.Generator().manual_seed(0), []
    _, memory = model.observe(frames[:, :CONTEXT], actions[:, :CONTEXT])
    for t in range(CONTEXT, FRAMES):
        dreamt = model.imagine(actions[:, t], memory, generator=generator)
        memory = dreamt.memory
        same = ((dreamt.frame > 128) == (frames[:, t] > 128)).flatten(1).all(1)
        for hit, one in zip(same.tolist(), walks, strict=True):
            seen = np.flatnonzero(one.sections[:CONTEXT] == one.sections[t])
            if len(seen) and t - seen[-1] >= FAR:
                right.append(hit)
    return float(np.mean(right))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.path_integration", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine(), f"{options.steps} steps; a guess is right in one of 8", sep="\n")
    print("| path integration | " + " | ".join(f"seed {seed}" for seed in range(options.seeds)) + " | CPU seconds |")
    print("|---" * (options.seeds + 2) + "|")
    for angles in (0, ANGLES):
        shares, begun = [], time.process_time()
        for seed in range(options.seeds):
            with TemporaryDirectory() as out:
                config = replace(RING, path_integration=angles)
                shares.append(found_again(trained(Path(out), config, options.steps, seed)))
        spent = (time.process_time() - begun) / options.seeds
        print(f"| {angles or 'none'} | " + " | ".join(f"{100 * s:.0f} %" for s in shares) + f" | {spent:.0f} |")


if __name__ == "__main__":
    main()
