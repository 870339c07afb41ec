"""Clips per second from episodes on disk, beside the frames per second that training takes; memory by size of store.

    python -m benchmarks.loader [--episodes FOLDER] [--preset tiny] [--batch 4] [--length 24] [--workers 0 1 2]
    python -m benchmarks.loader --files 100000 [--episodes FOLDER]

The second line measures instead what files cost: writing one, a clip of one, and the index of so many, as `.npz` files
without an index, which this project wrote before, and as `.episode` files with one; in CPU time.

Without --episodes it writes frames of coloured blocks that move, which compress about as rendered mazes do. Figures of
one run on one machine; compare only within it. `ratio` is what the loader gives over what training takes: above 1 the
model never waits. "cold" reads every clip from the file, as in a store far larger than the cache; "cached" has all
episodes decoded in memory.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lssvwm.worldmodel import Clips, Episode, EpisodeStore, Trainer, TrainingConfig, WorldModel
from lssvwm.worldmodel.episodes.files import NPZ, SUFFIX, write_episode
from lssvwm.worldmodel.episodes.loader import ClipLoader, ClipSource, StepClips
from lssvwm.worldmodel.episodes.repack import repack
from lssvwm.worldmodel.presets import SIZES

SECONDS = 3.0
"""Time that each loader is measured for."""


LINKS = 10_000
"""Names of one file; file systems allow no more than some 60,000."""


def blocks(frames: int, size: int, seed: int) -> Episode:
    """A wall of coloured blocks, seen through a window that moves, with some grain in every frame."""
    generator = np.random.default_rng(seed)
    wall = generator.integers(0, 250, (2 * size // 8, 2 * size // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    place = (np.cumsum(generator.integers(-2, 3, (frames, 2)), 0) % size).tolist()
    last = np.arange(frames) == frames - 1
    image = np.stack([wall[y : y + size, x : x + size] for y, x in place])
    return Episode(
        image=image + generator.integers(0, 2, image.shape, np.uint8),
        action=np.where(np.arange(frames) > 0, generator.integers(0, 3, frames), -1),
        reward=np.zeros(frames, np.float32),
        terminated=np.zeros(frames, np.bool_),
        truncated=last,
    )


class Kept:
    """The same clips again and again: what training costs without any loading."""

    def __init__(self, clips: Clips) -> None:
        self.rows = itertools.cycle([clips.rows(slice(i, i + 1)) for i in range(len(clips.mask))])

    def sample(self, batch: int, length: int, generator: np.random.Generator) -> Clips:
        return Clips.cat([next(self.rows) for _ in range(batch)])


def loaded(source: ClipSource, options: argparse.Namespace, workers: int) -> float:
    """Frames per second from `source`, once the workers have started."""
    loader = ClipLoader(StepClips(source, 0, range(options.batch), lambda step: options.length), workers, pin=False)
    warm = 1 + 3 * workers
    for step in range(warm):
        loader.clips(step)
    begin, step = time.perf_counter(), warm
    while time.perf_counter() - begin < SECONDS:
        loader.clips(step)
        step += 1
    spent = time.perf_counter() - begin
    loader.close()
    return (step - warm) * options.batch * options.length / spent


def trained(store: EpisodeStore, options: argparse.Namespace, out: Path) -> float:
    """Frames per second that training takes, from clips that lie ready."""
    height, width = store.image_shape
    config = replace(SIZES[options.preset], height=height, width=width, num_actions=store.max_action + 1)
    model = WorldModel(config).to("cuda" if torch.cuda.is_available() else "cpu")
    clips = Kept(store.sample(options.batch, options.length, np.random.default_rng(0)))
    training = TrainingConfig(batch=options.batch, length=options.length, fit_frames=256)
    trainer = Trainer(model, clips, training, out, world={})
    trainer.prepare()
    trainer.train_step()
    begin, steps = time.perf_counter(), 0
    while steps < 3 or time.perf_counter() - begin < SECONDS:
        float(trainer.train_step()["loss"])
        steps += 1
    return steps * options.batch * options.length / (time.perf_counter() - begin)


def peak(folder: Path, draws: int) -> float:
    """Megabytes that a process needs to draw clips from `folder`, past those of importing."""
    code = f"""
import re
import numpy as np
from lssvwm.worldmodel.episodes import EpisodeStore
peak = lambda: int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1024
before = peak()
store = EpisodeStore({str(folder)!r}, cache_bytes=32 << 20)
for seed in range({draws}):
    store.sample(1, 16, np.random.default_rng(seed))
print(peak() - before)
"""
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def costs(root: Path, options: argparse.Namespace) -> None:
    """What writing, reading and indexing cost, before and after."""
    if options.episodes is None:
        episodes = [blocks(1001, SIZES[options.preset].height, seed) for seed in range(4)]
    else:
        store = EpisodeStore(options.episodes)
        episodes = [store.read(name) for name in store.names[:4]]
    frames = sum(len(episode.image) for episode in episodes)
    shape = "x".join(map(str, episodes[0].image.shape[1:3]))
    print(f"{len(episodes)} episodes with {frames} frames of {shape}; CPU time")
    for label, suffix in (("before: .npz, no index", NPZ), ("after: .episode", SUFFIX)):
        folder = root / suffix[1:]
        folder.mkdir()
        begin = time.process_time()
        for number, episode in enumerate(episodes):
            write_episode(folder, episode, name=f"{number:03d}{suffix}")
        written = (time.process_time() - begin) / len(episodes)
        size = sum(path.stat().st_size for path in folder.iterdir()) / frames
        cold = EpisodeStore(folder, cache_bytes=0)
        begin = time.process_time()
        for seed in range(20):
            cold.sample(1, 32, np.random.default_rng(seed))
        read = (time.process_time() - begin) / 20
        line = f"{label:24s} write {written * 1e3:7.1f} ms an episode, clip of 32 {read * 1e3:6.2f} ms, "
        print(f"{line}{size / 1024:.2f} KiB a frame", flush=True)
    small = EpisodeStore(root / "small", create=True)
    small.append(blocks(9, 8, 0))
    for label, suffix in (("before: .npz, no index", NPZ), ("after: .episode", SUFFIX)):
        folder = root / f"many{suffix}"
        folder.mkdir()
        for number in range(options.files):
            if number % LINKS == 0:
                one = write_episode(folder, small.read(small.names[0]), name=f"{number:09d}{suffix}")
            else:
                os.link(one, folder / f"{number:09d}{suffix}")
        begin = time.process_time()
        store = EpisodeStore(folder)
        opened = time.process_time() - begin
        begin = time.process_time()
        again = EpisodeStore(folder)
        indexed = time.process_time() - begin
        begin = time.process_time()
        again.refresh()
        refreshed = time.process_time() - begin
        line = f"{label:24s} {len(store)} files: {opened:6.2f} s opening each, with the index {indexed:5.2f} s"
        print(f"{line}, refresh {refreshed * 1e3:.0f} ms", flush=True)
    begin = time.process_time()
    for _ in range(100):
        again.append(small.read(small.names[0]))
    print(f"append: {(time.process_time() - begin) * 10:.2f} ms at {len(again)} files", end=", ")
    begin = time.process_time()
    for _ in range(100):
        small.append(small.read(small.names[0]))
    print(f"{(time.process_time() - begin) * 10:.2f} ms at {len(small)}")


def link(source: EpisodeStore, folder: Path, count: int) -> Path:
    """A store of `count` files that are all those of `source` again."""
    folder.mkdir()
    for i, name in zip(range(count), itertools.cycle(source.names), strict=False):
        os.link(source.root / name, folder / f"{i:09d}-{name}")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=Path, default=None)
    parser.add_argument("--preset", choices=sorted(SIZES), default="tiny")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=24)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--files", type=int, default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        (report if options.files is None else costs)(Path(name), options)


def report(root: Path, options: argparse.Namespace) -> None:
    size = SIZES[options.preset].height
    if options.episodes is None:
        store = EpisodeStore(root / "written", create=True)
        for seed in range(12):
            store.append(blocks(500, size, seed))
    packed = EpisodeStore(options.episodes or root / "written", cache_bytes=0)
    repack(packed.root, root / "npz", npz=True)
    before, cached = EpisodeStore(root / "npz", cache_bytes=0), EpisodeStore(packed.root, cache_bytes=1 << 34)
    for row, frames in enumerate(cached.lengths.tolist()):
        cached.gather(np.array([row]), np.array([0]), frames)
    sizes = [sum((s.root / name).stat().st_size for name in s.names) / s.frames / 1024 for s in (packed, before)]
    shape = "x".join(map(str, packed.image_shape))
    print(f"{len(packed)} episodes of {packed.frames // len(packed)} frames of {shape}", end="; ")
    print(f"per frame {sizes[0]:.2f} KiB in chunks, {sizes[1]:.2f} KiB as .npz")
    wanted = trained(packed, options, root / "model")
    print(f"training {options.preset}, {options.batch} clips of {options.length} frames: {wanted:.0f} frames/s")
    for label, source in ((".npz, cold", before), ("chunks, cold", packed), ("chunks, cached", cached)):
        for workers in options.workers:
            found = loaded(source, options, workers)
            rates = f"{found / options.length:8.1f} clips/s {found:9.0f} frames/s, ratio {found / wanted:7.1f}"
            print(f"{label:22s} {workers} workers: {rates}")
    print("peak memory over that of an import, for 200 clips with a cache of 32 MiB:")
    for count in (100, 1000, 10000):
        megabytes = [peak(link(s, root / f"{s.root.name}-{count}", count), 200) for s in (packed, before)]
        print(f"{count:5d} episodes: {megabytes[0]:5.0f} MiB, {megabytes[1]:5.0f} MiB as .npz")


if __name__ == "__main__":
    main()
