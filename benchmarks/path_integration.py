"""Are places found again under actions alone? Two worlds of which one sees a spot at a time, with and without a path.

    python -m benchmarks.path_integration [--worlds ring grid] [--seeds 3] [--steps 300]

Every episode has spots of its own, each black or white in every colour by chance: eight on a ring, along which actions
turn right and left, or 4 x 4 in a room, where one turns, and walks ahead unless there is a wall. Nothing tells which is
seen. After a context a world model goes on, open loop, under the recorded actions. Counted are frames whose spot was
last seen at least 12 frames before: how often the dream shows it in its colour.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
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

SECTIONS, SIDE, FAR = 8, 4, 12
STAY, RIGHT, LEFT = range(3)
AHEAD = 0
"""In the room, instead of staying."""
POSE = ("agent_pos", "agent_dir")
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
TRAINING = TrainingConfig(batch=16, warmup=20, ema=0.98, fit_frames=2000, save_seconds=1e9)


@dataclass(frozen=True)
class Walk:
    """Frames (T, 8, 8, 3) uint8 of a walk, the actions (T,) that led to them, the spots (T,) seen, poses (T, 4)."""

    frames: NDArray[np.uint8]
    actions: NDArray[np.int64]
    spots: NDArray[np.int64]
    pose: NDArray[np.float64]


@dataclass(frozen=True)
class Spots:
    """A world: its walks by seed, their frames, how many of them are context, and the paths that are compared."""

    walk: Callable[[int], Walk]
    frames: int
    context: int
    paths: Mapping[str, dict[str, int]]


def walk(seed: int, frames: int = 40) -> Walk:
    """A walk along the ring that keeps its direction for some frames."""
    random = np.random.default_rng(seed)
    colors = random.integers(0, 2, (SECTIONS, 3)) * 200 + 25
    actions, way = [-1], RIGHT
    for _ in range(frames - 1):
        way = RIGHT + LEFT - way if random.random() < 0.15 else way
        actions.append(STAY if random.random() < 0.15 else way)
    sections = np.cumsum(np.array([0, 1, -1, 0])[actions]) % SECTIONS
    return _walk(colors, sections, actions, np.zeros((frames, 4)))


def stroll(seed: int, frames: int = 64) -> Walk:
    """A walk through the room that never bumps into a wall."""
    random = np.random.default_rng(seed)
    colors = random.integers(0, 2, (SIDE**2, 3)) * 200 + 25
    place, way = random.integers(0, SIDE, 2), int(random.integers(4))
    actions, places, ways = [-1], [place], [way]
    for _ in range(frames - 1):
        ahead = place + _looking(way)
        if random.random() < 0.65 and ((ahead >= 0) & (ahead < SIDE)).all():
            actions, place = [*actions, AHEAD], ahead
        else:
            turn = RIGHT if random.random() < 0.5 else LEFT
            actions, way = [*actions, turn], way + (1 if turn == LEFT else -1)
        places, ways = [*places, place], [*ways, way]
    pose = np.concatenate([np.stack(places), np.stack([_looking(way) for way in ways])], 1)
    return _walk(colors, np.stack(places) @ [SIDE, 1], actions, pose)


def _looking(way: int) -> NDArray[np.int64]:
    return np.array([(1, 0), (0, 1), (-1, 0), (0, -1)][way % 4])


def _walk(colors: NDArray[np.int64], spots: NDArray[np.int64], actions: list[int], pose: NDArray[np.float64]) -> Walk:
    frames = np.broadcast_to(colors[spots, None, None], (len(spots), 8, 8, 3)).astype(np.uint8)
    return Walk(frames, np.array(actions), spots, pose.astype(np.float64))


RING_WORLD = Spots(walk, 40, 20, {"none": {}, "16 angles": {"path_integration": 16}})
WORLDS: Mapping[str, Spots] = {
    "ring": RING_WORLD,
    "grid": Spots(
        stroll,
        64,
        40,
        {
            "none": {},
            "16 angles": {"path_integration": 16},
            "dead reckoning": {"dead_reckoning": 1},
            "told the pose": {"pose_size": 4},
        },
    ),
}


def trained(
    out: Path, config: WorldModelConfig, steps: int, seed: int = 0, world: Spots = RING_WORLD, walks: int = 200
) -> WorldModel:
    """A model of `config` after so many steps on walks through `world`."""
    store = EpisodeStore(out / "episodes", create=True, pose=POSE if config.known_pose else ())
    for number in range(walks):
        one, end = world.walk(number), np.arange(world.frames) == world.frames - 1
        still, extras = np.zeros(world.frames, np.float32), dict(zip(POSE, np.split(one.pose, 2, 1), strict=True))
        store.append(Episode(one.frames, one.actions, still, still > 0, end, extras))
    with weights_from(seed):
        model = WorldModel(config)
    trainer = Trainer(model, store, replace(TRAINING, length=world.frames, seed=seed), out / "model", world={})
    trainer.train(steps, progress=False)
    return trainer.average.eval()


def found_again(model: WorldModel, world: Spots = RING_WORLD) -> float:
    """The share of frames of spots last seen `FAR` frames before or more that are dreamt in their colour."""
    walks = [world.walk(10_000 + number) for number in range(64)]
    frames, actions, poses = (
        torch.from_numpy(np.stack([getattr(w, part) for w in walks])) for part in ("frames", "actions", "pose")
    )
    pose, seen = poses.float() if model.config.pose_size else None, slice(0, world.context)
    generator, right = torch.Generator().manual_seed(0), []
    _, memory = model.observe(frames[:, seen], actions[:, seen], pose=None if pose is None else pose[:, seen])
    for t in range(world.context, world.frames):
        here = None if pose is None else pose[:, t]
        dreamt = model.imagine(actions[:, t], memory, generator=generator, pose=here)
        memory = dreamt.memory
        same = ((dreamt.frame > 128) == (frames[:, t] > 128)).flatten(1).all(1)
        for hit, one in zip(same.tolist(), walks, strict=True):
            before = np.flatnonzero(one.spots[: world.context] == one.spots[t])
            if len(before) and t - before[-1] >= FAR:
                right.append(hit)
    return float(np.mean(right))


def main() -> None:
    """Print a table for each world."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.path_integration", description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), default=list(WORLDS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine(), f"{options.steps} steps; a guess is right in one of 8", sep="\n")
    for name in options.worlds:
        print(f"\n| {name} | " + " | ".join(f"seed {seed}" for seed in range(options.seeds)) + " | CPU seconds |")
        print("|---" * (options.seeds + 2) + "|", flush=True)
        for path, changes in WORLDS[name].paths.items():
            shares, begun = [], time.process_time()
            for seed in range(options.seeds):
                with TemporaryDirectory() as out:
                    model = trained(Path(out), replace(RING, **changes), options.steps, seed, WORLDS[name])
                    shares.append(found_again(model, WORLDS[name]))
            spent = (time.process_time() - begun) / options.seeds
            print(f"| {path} | " + " | ".join(f"{100 * s:.0f} %" for s in shares) + f" | {spent:.0f} |", flush=True)


if __name__ == "__main__":
    main()
