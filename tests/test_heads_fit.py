"""The heads are fitted to what was recorded, rare frames as often as common ones, and nothing else moves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.common.rng import weights_from
from lssvwm.worldmodel.episodes import Episode, EpisodeStore
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.model import WorldModel
from lssvwm.worldmodel.training import Trainer
from lssvwm.worldmodel.training.heads import HeadsConfig, collect, fit_heads, kinds_of
from trainers import trainer
from worlds import small_config, small_store

LENGTH = 6


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    """The first frame is bright or dark, all others are noise; the last one pays only after a bright one."""
    random, folder = np.random.default_rng(0), tmp_path_factory.mktemp("episodes")
    store = EpisodeStore(folder, create=True)
    for _ in range(200):
        bright = bool(random.integers(2))
        image = random.integers(118, 138, size=(LENGTH, 16, 16, 3)).astype(np.uint8)
        image[0] = 255 if bright else 0
        last = np.arange(LENGTH) == LENGTH - 1
        action = random.integers(0, 3, LENGTH)
        action[0] = -1
        store.append(Episode(image, action, (last * bright).astype(np.float32), last, np.zeros(LENGTH, bool)))
    return store


def model(**changes: int) -> WorldModel:
    with weights_from(0):
        made = WorldModel(small_config(height=16, width=16, **changes))
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3)).astype(np.uint8))
    made.tokenizer.fit(frames, seed=0, progress=False)
    return made


CONFIG = HeadsConfig(steps=400, batch=48)


def rewards_at_the_end(model: WorldModel, store: EpisodeStore) -> tuple[torch.Tensor, torch.Tensor]:
    rows = np.arange(len(store))
    clips = store.gather(rows, np.zeros_like(rows), LENGTH)
    with torch.no_grad():
        seen, _ = model.eval().observe(clips.frames, clips.actions)
    return seen.reward[:, -1], clips.rewards[:, -1]


def test_they_find_a_reward_that_only_memory_tells(store: EpisodeStore) -> None:
    ours = model()
    before, paid = rewards_at_the_end(ours, store)
    assert not torch.equal(before > 0.3, paid > 0)
    figures = fit_heads(ours, store, CONFIG, seed=0, progress=False)
    after, _ = rewards_at_the_end(ours, store)
    assert torch.equal(after > 0.3, paid > 0)
    assert figures["heads_termination"] < 0.1


@pytest.mark.parametrize("calibration", [0, 300])
def test_calibrated_heads_know_how_rare_a_reward_is(tmp_path: Path, calibration: int) -> None:
    """All frames look alike, and one in twenty pays: as often drawn as others, they seem to pay half of the time."""
    random, store = np.random.default_rng(0), EpisodeStore(tmp_path, create=True)
    image, nothing = np.full((41, 16, 16, 3), 128, np.uint8), np.zeros(41, bool)
    for _ in range(20):
        reward = (random.random(41) < 0.05).astype(np.float32)
        reward[0] = 0
        store.append(Episode(image, np.where(np.arange(41) == 0, -1, 0), reward, nothing, np.arange(41) == 40))
    ours, rows = model(), np.arange(5)
    fit_heads(
        ours, store, HeadsConfig(steps=200, batch=48, calibration=calibration, dropout=0.0), seed=0, progress=False
    )
    clips = store.gather(rows, np.zeros_like(rows), 41)
    with torch.no_grad():
        seen, _ = ours.eval().observe(clips.frames, clips.actions)
    told = float(seen.reward[:, 5:].mean())
    assert 0.02 < told < 0.1 if calibration else told > 0.15


def test_nothing_but_the_heads_moves(store: EpisodeStore) -> None:
    ours, first = model(), model()
    fit_heads(ours, store, CONFIG, seed=0, progress=False)
    moved = {
        n for (n, a), b in zip(ours.state_dict().items(), first.state_dict().values(), strict=True) if (a != b).any()
    }
    kinds = (
        "readout.standardise.mean",
        "readout.standardise.variance",
        "readout.mix",
        "reward_head",
        "termination_head",
    )
    assert {name for name in moved if not name.startswith(kinds)} == set()
    assert {kind for kind in kinds if any(name.startswith(kind) for name in moved)} == set(kinds)
    assert all(p.grad is None and p.requires_grad for p in ours.parameters())


def test_the_same_seed_gives_the_same_heads(store: EpisodeStore) -> None:
    found = [model() for _ in range(3)]
    for ours, seed in zip(found, (0, 0, 1), strict=True):
        fit_heads(ours, store, HeadsConfig(steps=5), seed=seed, progress=False)
    weights = [ours.reward_head[0].weight for ours in found]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_interrupted_it_leaves_the_model_as_it_was(store: EpisodeStore) -> None:
    ours, calls = model().requires_grad_(False), 0  # as the average of a training

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls == 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_heads(ours, store, CONFIG, seed=0, progress=False, between=stop)
    assert all(p.grad is None and not p.requires_grad for p in ours.parameters())
    for (name, value), first in zip(ours.state_dict().items(), model().state_dict().values(), strict=True):
        assert torch.equal(value, first), name


def test_every_kind_of_frame_is_known(store: EpisodeStore) -> None:
    horizon = small_config().reward_horizon
    kinds = kinds_of(store, 0, horizon)
    assert kinds.tolist() == [0] * (LENGTH - horizon) + [1] * (horizon - 1) + [2]


def test_frames_that_are_kept_stand_for_all(store: EpisodeStore) -> None:
    """A third of each kind, weighted back to how often it was recorded."""
    ours = model()
    examples = collect(ours, store, HeadsConfig(kept=90), np.random.default_rng(0))
    counts = np.bincount(examples.kind, minlength=3)
    assert (abs(counts - 30) < 20).all()
    whole = collect(ours, store, HeadsConfig(), np.random.default_rng(0))
    assert len(whole.kind) == store.frames
    assert bool((whole.weight == 1).all())
    for kind in range(3):
        stands_for = float(examples.weight[examples.kind == kind].sum())
        assert stands_for == pytest.approx(int((whole.kind == kind).sum()), rel=0.6)


def test_what_is_kept_is_what_the_read_out_was_given(store: EpisodeStore) -> None:
    ours = model()
    whole = collect(ours, store, HeadsConfig(), np.random.default_rng(0))
    row = int(store.lengths.argmax())
    clips = store.gather(np.array([row]), np.array([0]), LENGTH)
    with torch.no_grad():
        seen, _ = ours.eval().observe(clips.frames, clips.actions)
    distance = (whole.inputs[:, None] - seen.inputs[0]).abs().amax(-1).amin(0)
    assert float(distance.max()) < 1e-4


def test_a_large_store_is_read_in_part(store: EpisodeStore) -> None:
    part = collect(model(), store, HeadsConfig(observed=5 * LENGTH), np.random.default_rng(0))
    assert len(part.kind) == 5 * LENGTH


@pytest.mark.parametrize(
    ("name", "value"), [("steps", -1), ("dreamt", -1), ("dropout", 1.0), ("batch", 2), ("kept", 0), ("observed", 1)]
)
def test_settings_that_cannot_be(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"heads.{name}={value}"):
        HeadsConfig(**{name: value})


def heads_of(trained: Trainer) -> list[Tensor]:
    return [
        value
        for model in (trained.model, trained.average)
        for part in model.heads
        for value in part.state_dict().values()
    ]


def test_a_training_fits_its_heads_once_at_any_step_and_goes_on_from_them(tmp_path: Path) -> None:
    """Also when it is made anew in between; the figures stay those of the first time."""
    store, config = small_store(tmp_path / "episodes"), HeadsConfig(steps=8, kept=30)
    first = trainer(store, tmp_path / "run")
    first.train(2, progress=False)
    before = [value.clone() for value in heads_of(first)]
    figures = first.fit_heads(store, config)
    assert figures["heads_step"] == 2
    fitted = [value.clone() for value in heads_of(first)]
    assert any(not torch.equal(a, b) for a, b in zip(before, fitted, strict=True))
    half = len(fitted) // 2
    assert all(torch.equal(a, b) for a, b in zip(fitted[:half], fitted[half:], strict=True))
    again = trainer(store, tmp_path / "run", seed=1)
    assert again.fit_heads(store, config) == figures
    assert all(torch.equal(a, b) for a, b in zip(fitted, heads_of(again), strict=True))
    again.train(3, progress=False)
    assert again.fit_heads(store, config)["heads_step"] == 3


def dreamt_rewards(model: WorldModel, store: EpisodeStore) -> tuple[Tensor, Tensor]:
    """Rewards that are told along the recorded actions in dreams from the first frames, and those recorded, (B, T)."""
    rows = np.arange(len(store))
    clips = store.gather(rows, np.zeros_like(rows), LENGTH)
    noise, told = torch.Generator().manual_seed(1), []
    _, memory = model.eval().observe(clips.frames[:, :1], clips.actions[:, :1])
    for at in range(1, LENGTH):
        step = model.imagine(clips.actions[:, at], memory, generator=noise)
        memory = step.memory
        told.append(step.reward)
    return torch.stack(told, 1), clips.rewards[:, 1:]


class Wishful(WorldModel):
    """Whatever is done, it dreams of bright frames."""

    def denoised(self, noise: Tensor, actions: Tensor, memory: Memory, **_: Any) -> Tensor:
        return torch.full((*noise.shape[:2], 16, 16, 3), 255, dtype=torch.uint8)


def test_heads_that_know_dreams_promise_in_them_what_was_earned(tmp_path: Path) -> None:
    """Bright frames pay 1 and come by luck, three in ten. In dreams that are always bright, heads of real frames alone
    promise nearly 1 a frame, though for the same actions 0.3 was earned.
    """
    random, store = np.random.default_rng(0), EpisodeStore(tmp_path, create=True)
    first, last = np.arange(LENGTH) == 0, np.arange(LENGTH) == LENGTH - 1
    for _ in range(40):
        lucky = (random.random(LENGTH) < 0.3) & ~first
        image = random.integers(118, 138, size=(LENGTH, 16, 16, 3)).astype(np.uint8)
        image[lucky] = 255
        store.append(Episode(image, -first.astype(np.int64), lucky.astype(np.float32), last, np.zeros(LENGTH, bool)))
    quick = HeadsConfig(steps=60, batch=48, calibration=100, lr=1e-2, dropout=0.0)
    promised, frames = [], torch.cat([torch.tensor(store.read(name).image) for name in store.names])
    for dreamt in (0, LENGTH):
        with weights_from(0):
            ours = Wishful(small_config(height=16, width=16))
        ours.tokenizer.fit(frames, seed=0, progress=False)
        fit_heads(ours, store, replace(quick, dreamt=dreamt), seed=0, progress=False)
        told, earned = dreamt_rewards(ours, store)
        promised.append(float(told.mean()))
    assert float(earned.mean()) == pytest.approx(0.3, abs=0.1)
    assert promised[0] > 0.8
    assert promised[1] < 0.75


def test_dreamt_frames_are_told_what_was_recorded_there(store: EpisodeStore) -> None:
    ours, config = model(), HeadsConfig(dreamt=2)
    real = collect(ours, store, HeadsConfig(), np.random.default_rng(0))
    both = collect(ours, store, config, np.random.default_rng(0))
    extra = len(both.kind) - len(real.kind)
    assert len(store) <= extra <= 2 * len(store)  # two frames after each first segment, one where it is nearly all
    known = {tuple(row.tolist()) for row in real.inputs.round(decimals=3)}
    dreamt = [i for i, row in enumerate(both.inputs.round(decimals=3)) if tuple(row.tolist()) not in known]
    share = float(both.rewards[dreamt, 0].mean()), float(both.kind[dreamt].eq(2).float().mean())
    assert share[0] == pytest.approx(share[1] / 2, abs=0.1)  # half of the last frames pay
    again = collect(ours, store, config, np.random.default_rng(0))
    assert torch.equal(both.inputs, again.inputs)


@pytest.mark.parametrize("chunk", [5, 100])
def test_heads_of_a_model_of_chunks_are_fitted_to_every_frame(store: EpisodeStore, chunk: int) -> None:
    """Neither a segment nor an episode is a whole number of its chunks."""
    assert any(length % chunk for length in store.lengths.tolist())
    made = model(chunk=chunk, window=2 * chunk)
    assert len(collect(made, store, HeadsConfig(), np.random.default_rng(0)).kind) == store.frames
    assert fit_heads(made, store, HeadsConfig(steps=2, calibration=1), seed=0, progress=False)["heads_frames"] > 0


def test_a_model_of_chunks_dreams_no_single_frames(store: EpisodeStore) -> None:
    made = model(chunk=2, window=4)
    with pytest.raises(InputError, match=r"heads.dreamt=1 dreams frame by frame"):
        collect(made, store, HeadsConfig(dreamt=1), np.random.default_rng(0))
