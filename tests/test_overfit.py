"""A small world model learns a handful of real episodes by heart, and dreams their last frames from what led there.

In MiniGrid-MemoryS7 the agent sees a key or a ball at the start, and later both at the ends of a corridor. Frames are
mostly walls, so a dream can have 35 dB and still blend key and ball; the tests count these objects one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lssvwm.agents.policies.baselines import RandomPolicy
from lssvwm.envs.factory import EnvConfig
from lssvwm.envs.recording.recorder import record
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.episodes import Episode, EpisodeStore
from lssvwm.worldmodel.model import WorldModel
from lssvwm.worldmodel.training import Trainer, TrainingConfig
from worlds import generator

SEEDS = (2, 3, 41, 55)  # 15 to 18 frames each; the first two end at the wrong object, the last two at the right one
DREAMED = 8  # the last frames of each episode; what comes before is context
CELL = 8  # pixels of a MiniGrid cell
CONFIG = WorldModelConfig(
    patch=28, latent_channels=64, dim=64, layers=2, window=2, state_size=16, head_dim=32, tiles=((2, 2), (1, 1))
)


@dataclass(frozen=True)
class Dream:
    """The last frames of an episode as they were, and as they were dreamed."""

    real: NDArray[np.uint8]
    frames: NDArray[np.uint8]
    rewards: NDArray[np.float64]
    terminations: NDArray[np.float64]

    @property
    def psnr(self) -> float:
        error = np.square(self.frames.astype(float) - self.real).mean()
        return float(10 * np.log10(255**2 / max(error, 1e-6)))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    config = EnvConfig("MiniGrid-MemoryS7-v0", actions=(0, 1, 2))
    recorded = EpisodeStore(tmp_path_factory.mktemp("episodes"), create=True)
    for seed in SEEDS:
        record(config, recorded, RandomPolicy(3), episodes=1, num_envs=1, seed=seed, progress=False)
    return recorded


def episodes(store: EpisodeStore) -> list[Episode]:
    return sorted((store.read(name) for name in store.names), key=lambda episode: int(episode.extras["seed"]))


def trained(store: EpisodeStore, out: Path, steps: int) -> WorldModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = WorldModel(CONFIG)
    settings = TrainingConfig(batch=8, length=16, warmup=20, ema=0.98, fit_frames=400, save_seconds=1e9)
    trainer = Trainer(model, store, settings, out, world={})
    trainer.train(steps, progress=False)
    return trainer.average


@torch.no_grad()
def dream(model: WorldModel, episode: Episode, context: Episode | None = None) -> Dream:
    """Observe all but the last frames (of `context`, if given), then dream those from the actions alone."""
    seen, actions = context or episode, torch.from_numpy(episode.action[-DREAMED:].copy())
    frames = torch.from_numpy(seen.image[None, :-DREAMED].copy())
    _, memory = model.observe(frames, torch.from_numpy(seen.action[None, :-DREAMED].copy()))
    source, dreamed = generator(0), []
    for action in actions:
        dreamed.append(model.imagine(action[None], memory, steps=4, generator=source))
        memory = dreamed[-1].memory
    return Dream(
        episode.image[-DREAMED:],
        np.concatenate([one.frame.numpy() for one in dreamed]),
        np.array([float(one.reward) for one in dreamed]),
        np.array([float(one.termination) for one in dreamed]),
    )


def cells(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(n, 56, 56, 3) -> (n * 49, 192)."""
    cut = frames.reshape(-1, 7, CELL, 7, CELL, 3).transpose(0, 1, 3, 2, 4, 5)
    return cut.reshape(-1, CELL * CELL * 3).astype(np.float64)


def objects(dreams: list[Dream]) -> tuple[int, int]:
    """How many keys and balls of the real frames look more like themselves than like the other, of how many."""
    real = np.concatenate([cells(one.real) for one in dreams])
    made = np.concatenate([cells(one.frames) for one in dreams])
    kinds = np.unique(real, axis=0)
    is_object = (kinds.reshape(len(kinds), -1, 3) @ [-1, 1, -0.5] > 50).sum(1) > 5  # several plainly green pixels
    key_and_ball = kinds[is_object]
    assert len(key_and_ball) == 2
    which = np.square(real[:, None] - key_and_ball).sum(-1)
    there = which.min(1) == 0
    chosen = np.square(made[there, None] - key_and_ball).sum(-1).argmin(1)
    return int((chosen == which[there].argmin(1)).sum()), int(there.sum())


def assert_learned(model: WorldModel, store: EpisodeStore, *, mean: float, worst: float, share: float) -> None:
    real = episodes(store)
    dreams = [dream(model, episode) for episode in real]
    quality = [one.psnr for one in dreams]
    assert np.mean(quality) > mean, quality
    assert min(quality) > worst, quality
    right, total = objects(dreams)
    assert total > 40
    assert right >= share * total, (right, total)
    for one, episode in zip(dreams, real, strict=True):
        assert episode.terminated[-1]
        assert one.terminations[-1] > 0.8, one.terminations
        assert one.terminations[:-1].max() < 0.2, one.terminations
        assert np.abs(one.rewards - episode.reward[-DREAMED:]).max() < 0.2, one.rewards
    # The control: after the context of another episode the same actions lead somewhere else.
    others = [dream(model, episode, context) for episode, context in zip(real, real[1:] + real[:1], strict=True)]
    assert np.mean([one.psnr for one in others]) < np.mean(quality) - 10


def test_the_episodes_are_what_the_test_needs(store: EpisodeStore) -> None:
    """Two failures and two successes, which the real environment rewards with about one."""
    real = episodes(store)
    assert [len(episode.image) for episode in real] == [16, 18, 16, 15]
    assert [bool(episode.reward[-1] > 0.9) for episode in real] == [False, False, True, True]
    assert not any(episode.reward[:-1].any() for episode in real)
    assert len({tuple(episode.action[-DREAMED:]) for episode in real}) == len(real)


def test_dreams_follow_real_episodes(store: EpisodeStore, tmp_path: Path) -> None:
    """Measured over three seeds: 43 dB and more, 40 in the worst episode. After 400 steps some seeds still take one way
    for another in one episode or more: 22 dB there.
    """
    assert_learned(trained(store, tmp_path, 600), store, mean=30, worst=25, share=0.8)


@pytest.mark.slow
def test_dreams_keep_key_and_ball_apart(store: EpisodeStore, tmp_path: Path) -> None:
    """Measured: 48 dB, 46 in the worst episode, 50 of 50 objects."""
    assert_learned(trained(store, tmp_path, 800), store, mean=38, worst=32, share=1.0)
