"""Training with shortcuts as any training, and a finished world model trained on to dream in one step."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lssvwm.agents.running.cli import LearnOptions, parse
from lssvwm.worldmodel.checkpoint import load_checkpoint, save_checkpoint
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.diffusion.shortcut import finest
from lssvwm.worldmodel.episodes import Episode, EpisodeStore
from lssvwm.worldmodel.model import WorldModel
from lssvwm.worldmodel.training import STATE, Trainer, TrainingConfig, distilled
from runs import TINY_WORLD
from test_cli import Refusal, call
from together import EXACT
from trainers import assert_same_state, trainer
from worlds import assert_close, assert_same, generator, random_model, small_config, small_store

PLAIN = small_config()
TAUGHT = small_config(shortcut=4, shortcut_share=0.5)
STEP = "backbone.condition.step.weight"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return small_store(tmp_path_factory.mktemp("episodes"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a plain model."""
    folder = tmp_path_factory.mktemp("finished")
    save_checkpoint(folder, random_model(PLAIN, 0).float(), world={}, step=9)
    return folder


# Training


def test_a_training_stops_and_goes_on_without_a_trace(store: EpisodeStore, tmp_path: Path) -> None:
    whole = trainer(store, tmp_path / "whole", model=TAUGHT)
    before = whole.model.state_dict()[STEP].clone()
    whole.train(6, progress=False)
    trainer(store, tmp_path / "cut", model=TAUGHT).train(3, progress=False)
    again = trainer(store, tmp_path / "cut", model=TAUGHT, seed=1)
    assert again.step == 3
    again.train(6, progress=False)
    assert_same_state(again, whole)
    assert bool((whole.model.state_dict()[STEP] != before).any(1).all())


def test_parts_of_a_step_change_nothing(store: EpisodeStore, tmp_path: Path) -> None:
    """Also where a part holds no clip with large steps and another one several."""
    gradients, shares = [], []
    for accumulate in (1, 4):
        model = random_model(TAUGHT, 0)
        model.tokenizer.fitted.fill_(True)
        config = replace(EXACT, accumulate=accumulate, seed=5)
        trained = Trainer(model, store, config, tmp_path / str(accumulate), world={})
        trained.model.train()
        parts = trained.parts()
        shares = [bool((part.drawn.halvings < finest(4)).any()) for part in parts]  # type: ignore[operator]
        trained.backward(parts)
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert set(shares) == {False, True}
    assert_close(gradients[1], gradients[0])


def test_a_training_from_before_there_were_shortcuts_goes_on(store: EpisodeStore, tmp_path: Path) -> None:
    trainer(store, tmp_path).train(2, progress=False)
    state = torch.load(tmp_path / STATE, weights_only=True)
    for name in ("shortcut", "shortcut_share"):
        del state["model_config"][name]
    torch.save(state, tmp_path / STATE)
    assert trainer(store, tmp_path).step == 2
    with pytest.raises(InputError, match=r"shortcut \(0 there, 4 here\)"):
        trainer(store, tmp_path, model=TAUGHT)


# Distilling


@pytest.mark.parametrize(
    "changes", [{}, {"shortcut": 8, "forcing": "diffusion", "context_prob": 0.2, "weight": "x", "noise_mean": 1.0}]
)
def test_it_begins_with_what_the_checkpoint_computes(finished: Path, changes: dict[str, Any]) -> None:
    model, plain = distilled(finished, replace(TAUGHT, **changes)), load_checkpoint(finished).model
    found = model.state_dict()
    assert model.config == replace(TAUGHT, **changes)
    assert not bool(found.pop(STEP).any())
    assert found.keys() == plain.state_dict().keys()
    assert_same(found, plain.state_dict())


def test_what_was_taught_already_goes_on(tmp_path: Path) -> None:
    taught = random_model(TAUGHT, 0).float()
    save_checkpoint(tmp_path, taught, world={}, step=1)
    assert_same(distilled(tmp_path, TAUGHT).state_dict(), taught.state_dict())
    with pytest.raises(InputError, match=r"has shortcut=4 already, not 8: keep it, or distil the plain model"):
        distilled(tmp_path, replace(TAUGHT, shortcut=8))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (PLAIN, "set shortcut to a power of two"),
        (replace(TAUGHT, dim=64, layers=3), r"of another world or size: dim \(32 there, 64 here\), layers \(2 .*3"),
        (replace(TAUGHT, num_actions=5), r"num_actions \(3 there, 5 here\); name the environment or the episodes"),
        (replace(TAUGHT, target="v"), r"target \('x' there, 'v' here\)"),
        (replace(TAUGHT, whitening=0.5), r"whitening \(0.0 there, 0.5 here\)"),
    ],
)
def test_a_checkpoint_that_does_not_fit(finished: Path, config: WorldModelConfig, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        distilled(finished, config)
    assert str(finished) in str(caught.value)


BLACK, WHITE = 32, 224


@pytest.fixture
def coins(tmp_path: Path) -> EpisodeStore:
    """A world that tosses a coin: every frame is all black or all white, whatever came before."""
    store = EpisodeStore(tmp_path / "episodes", create=True)
    for seed in range(32):
        tossed = np.random.default_rng(seed).integers(2, size=(16, 1, 1, 1), dtype=np.uint8)
        episode = Episode(
            image=np.tile(BLACK + (WHITE - BLACK) * tossed, (1, 4, 4, 3)),
            action=np.where(np.arange(16) == 0, -1, 0),
            reward=np.zeros(16, np.float32),
            terminated=np.zeros(16, bool),
            truncated=np.arange(16) == 15,
        )
        store.append(episode)
    return store


@torch.no_grad()
def tosses(model: WorldModel, store: EpisodeStore, steps: int) -> torch.Tensor:
    """Brightness of 64 next frames, always from the same noise."""
    clips, noise = store.sample(64, 8, np.random.default_rng(0)), torch.randn(64, 1, 1, 2, generator=generator(1))
    _, memory = model.observe(clips.frames, clips.actions)
    frames = model.denoised(noise, torch.zeros(64, 1, dtype=torch.int64), memory, steps=steps)
    return frames.float().flatten(1).mean(1)


def test_one_step_comes_closer_to_four(coins: EpisodeStore, tmp_path: Path) -> None:
    """One step of the plain model sees both sides of the coin and dreams grey; four decide, by the noise that they
    begin with. What is distilled decides in one as it does in four.
    """

    def trained(model: WorldModel, steps: int, out: Path) -> WorldModel:
        settings = TrainingConfig(batch=8, length=12, warmup=20, ema=0.98, fit_frames=256, save_seconds=1e9)
        run = Trainer(model, coins, settings, out, world={})
        run.train(steps, progress=False)
        return run.average.eval()

    tiny = small_config(height=4, width=4, num_actions=1, latent_channels=2, tiles=((1, 1),), layers=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        begun = WorldModel(tiny)
    plain = trained(begun, 250, tmp_path / "plain")
    taught = distilled(tmp_path / "plain", replace(tiny, shortcut=4, shortcut_share=0.5))
    taught = trained(taught, 300, tmp_path / "taught")
    one, four, quick, slow = (tosses(model, coins, steps) for model in (plain, taught) for steps in (1, 4))
    before, after = (four - one).square().mean().sqrt(), (slow - quick).square().mean().sqrt()
    assert float(before) > 35
    assert float(after) < 0.8 * float(before)
    grey, decided = (torch.minimum((x - BLACK).abs(), (x - WHITE).abs()).mean() for x in (one, quick))
    assert float(decided) < 0.6 * float(grey)
    assert 0.2 < float((quick > 128).float().mean()) < 0.8  # both sides come up


# The script


SHORT = ("--no-progress", "--world-steps", "3", "--training.batch", "2", "--training.length", "8")
HEADS = ("--heads.steps", "20", "--heads.kept", "300", "--heads.observed", "600", "--training.save-seconds", "0")


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refusal:
    return Refusal(monkeypatch, capsys)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of train_wm.py: a plain model, in a size that no preset has."""
    out = tmp_path_factory.mktemp("world") / "run"
    with pytest.MonkeyPatch.context() as patch:
        options = (*TINY_WORLD, "--collect-episodes", "4", "--world-steps", "2", "--out", out)
        assert call(patch, "train_wm.py", *options) == 0
    return out


def test_the_script_takes_everything_from_the_checkpoint(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Model, environment and episodes; and the steps are what it is told, or four."""
    out, plain = tmp_path / "fast", load_checkpoint(world / "world_model")
    assert call(monkeypatch, "train_wm.py", "--distill", world / "world_model", "--out", out, *SHORT, *HEADS) == 0
    found = load_checkpoint(out / "world_model")
    assert found.model.config == replace(plain.model.config, shortcut=4)
    assert found.world == {**plain.world, "episodes": str(world / "episodes")}
    assert found.step == 3
    assert_same(found.model.tokenizer.state_dict(), plain.model.tokenizer.state_dict())
    assert not (out / "episodes").exists()
    args = ["--distill", str(world / "world_model"), "--out", str(tmp_path / "other"), "--model.shortcut", "8"]
    assert parse(LearnOptions, args).model.shortcut == 8


def test_a_distillation_goes_on_without_its_checkpoint(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And ends as one that never stopped."""
    copy = tmp_path / "copy"
    shutil.copytree(world, copy)
    options = ("--distill", copy / "world_model", *HEADS, *SHORT, "--episodes", world / "episodes")
    whole, cut, steps = tmp_path / "whole", tmp_path / "cut", Trainer.train_step
    assert call(monkeypatch, "train_wm.py", *options, "--out", whole) == 0

    def interrupted(self: Trainer) -> Any:
        if self.step == 2:
            raise KeyboardInterrupt
        return steps(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", interrupted)
        assert call(patch, "train_wm.py", *options, "--out", cut) == 130
    shutil.rmtree(copy)
    assert call(monkeypatch, "train_wm.py", "--out", cut, "--resume", "--no-progress") == 0
    ours, theirs = (load_checkpoint(out / "world_model") for out in (cut, whole))
    assert ours.step == theirs.step == 3
    assert_same(ours.model.state_dict(), theirs.model.state_dict())


def test_what_cannot_be_distilled_is_refused_before_anything_is_written(
    world: Path, refusal: Refusal, tmp_path: Path
) -> None:
    checkpoint, out = world / "world_model", tmp_path / "run"
    for args, names in (
        (("/no/checkpoint",), ["/no/checkpoint/config.json", "does not exist"]),
        ((checkpoint, "--model.shortcut", "0"), ["set shortcut"]),
        ((checkpoint, "--model.shortcut", "3"), ["shortcut=3", "power of two"]),
        ((checkpoint, "--model.dim", "64"), ["another world or size", "dim (32 there, 64 here)"]),
        ((checkpoint, "--env", "MiniGrid-MemoryS7-v0", "--actions", "0", "1"), ["3 actions", "2 actions", "--actions"]),
    ):
        said = refusal("train_wm.py", "--distill", *args, "--out", out)
        assert [name for name in names if name not in said] == [], said
        assert not out.exists()
    copy = tmp_path / "alone"
    shutil.copytree(checkpoint, copy)
    said = refusal("train_wm.py", "--distill", copy, "--out", out)
    assert "--episodes" in said
    assert str(copy) in said
