"""Training that stops and goes on as if it had never stopped, and the rules by which it changes weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from worlds import assert_close, assert_same, small_config, small_store

from worldmodel.checkpoint import load_checkpoint
from worldmodel.config import WorldModelConfig
from worldmodel.episodes import Clips, EpisodeStore
from worldmodel.errors import InputError
from worldmodel.model import WorldModel
from worldmodel.training import STATE, Trainer, TrainingConfig, make_optimizers, mean_of

TRAINING = TrainingConfig(batch=3, length=5, warmup=4, fit_frames=40, save_seconds=1e9, seed=3)
WORLD = {"id": "tiny"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return small_store(tmp_path_factory.mktemp("episodes"))


class Interrupted:
    """The store, and a Ctrl-C in its `at`-th call, before or after it has drawn."""

    def __init__(self, store: EpisodeStore, at: int, *, drawn: bool) -> None:
        self.store, self.left, self.drawn = store, at, drawn

    def sample(self, batch: int, length: int, generator: np.random.Generator) -> Clips:
        self.left -= 1
        if not self.left and not self.drawn:
            raise KeyboardInterrupt
        clips = self.store.sample(batch, length, generator)
        if not self.left:
            raise KeyboardInterrupt
        return clips


def trainer(
    source: Any, out: Path, config: TrainingConfig = TRAINING, model: WorldModelConfig | None = None, seed: int = 0
) -> Trainer:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        world_model = WorldModel(model or small_config())
    return Trainer(world_model, source, config, out, world=WORLD)


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Every leaf of nested dictionaries and lists by its path."""
    if isinstance(value, Mapping):
        return {k: v for key, item in value.items() for k, v in flat(item, f"{name}/{key}").items()}
    if isinstance(value, list | tuple):
        return flat(dict(enumerate(value)), name)
    return {name: value}


def everything(trained: Trainer) -> dict[str, Any]:
    parts = {
        "step": trained.step,
        "model": trained.model.state_dict(),
        "average": trained.average.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in trained.optimizers],
        "data": trained.data_generator.bit_generator.state,
        "noise": trained.noise_generator.get_state(),
    }
    return flat(parts)


def assert_same_state(a: Trainer, b: Trainer) -> None:
    ours, theirs = everything(a), everything(b)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if isinstance(value, torch.Tensor):
            assert ours[name].dtype == value.dtype, name
            assert torch.equal(ours[name], value), name
        else:
            assert ours[name] == value, name


@pytest.fixture(scope="module")
def six_steps(store: EpisodeStore, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    trained = trainer(store, tmp_path_factory.mktemp("whole"))
    trained.train(6, progress=False)
    return trained


def test_training_changes_every_weight(store: EpisodeStore, tmp_path: Path) -> None:
    trained = trainer(store, tmp_path)
    before = {name: p.detach().clone() for name, p in trained.model.named_parameters()}
    trained.train(3, progress=False)
    for name, parameter in trained.model.named_parameters():
        assert not torch.equal(parameter, before[name]), name
        assert bool(torch.isfinite(parameter).all()), name


def test_two_halves_are_the_whole(store: EpisodeStore, tmp_path: Path, six_steps: Trainer) -> None:
    """Bit for bit: weights, average, optimisers, generators. The second trainer starts from other weights."""
    trainer(store, tmp_path).train(3, progress=False)
    again = trainer(store, tmp_path, seed=1)
    assert again.step == 3
    again.train(6, progress=False)
    assert_same_state(again, six_steps)


def test_saving_in_between_changes_nothing(store: EpisodeStore, tmp_path: Path, six_steps: Trainer) -> None:
    eager = trainer(store, tmp_path, replace(TRAINING, save_seconds=0.0))
    eager.train(6, progress=False)
    assert_same_state(eager, six_steps)


def test_another_seed_is_another_training(store: EpisodeStore, tmp_path: Path, six_steps: Trainer) -> None:
    other = trainer(store, tmp_path, replace(TRAINING, seed=4))
    other.train(6, progress=False)
    assert not torch.equal(other.model.backbone.patch_in.weight, six_steps.model.backbone.patch_in.weight)


@pytest.mark.parametrize("drawn", [False, True], ids=["before drawing", "after drawing"])
@pytest.mark.parametrize("at", [2, 5], ids=["first step", "fourth step"])
def test_interruption_loses_nothing(
    store: EpisodeStore, tmp_path: Path, six_steps: Trainer, at: int, drawn: bool
) -> None:
    """Call 1 fits the tokenizer, call n is step n - 1. What is saved goes on as if nothing had happened."""
    with pytest.raises(KeyboardInterrupt):
        trainer(Interrupted(store, at, drawn=drawn), tmp_path).train(6, progress=False)
    again = trainer(store, tmp_path, seed=1)
    assert again.step == at - 2
    again.train(6, progress=False)
    assert_same_state(again, six_steps)


@pytest.mark.parametrize("which", [0, 1], ids=["muon", "adamw"])
def test_interruption_in_the_middle_of_a_step(
    store: EpisodeStore, tmp_path: Path, six_steps: Trainer, which: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No half step is saved, where one optimiser has moved and the other has not."""
    first = trainer(store, tmp_path)
    first.train(3, progress=False)

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(first.optimizers[which], "step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        first.train(6, progress=False)
    again = trainer(store, tmp_path, seed=1)
    again.train(6, progress=False)
    assert_same_state(again, six_steps)


def test_what_is_left_behind_is_a_checkpoint_of_the_average(six_steps: Trainer) -> None:
    found = load_checkpoint(six_steps.out)
    assert (found.step, found.world) == (6, WORLD)
    assert_same(found.model.state_dict(), six_steps.average.state_dict())
    assert not torch.equal(found.model.backbone.patch_in.weight, six_steps.model.backbone.patch_in.weight)
    assert sorted(p.name for p in six_steps.out.iterdir()) == ["config.json", "model.safetensors", STATE]


def test_average_by_hand(store: EpisodeStore, tmp_path: Path) -> None:
    """Decay (1 + n) / (10 + n) after step n, up to the decay asked for."""
    trained = trainer(store, tmp_path, replace(TRAINING, ema=0.25))
    trained.fit_tokenizer()
    expected = {name: p.detach().double() for name, p in trained.average.named_parameters()}
    for decay in (2 / 11, 0.25, 0.25, 0.25):
        trained.train_step()
        for name, parameter in trained.model.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * parameter.detach().double()
    for name, parameter in trained.average.named_parameters():
        torch.testing.assert_close(parameter.double(), expected[name], rtol=1e-5, atol=1e-6)
        assert not parameter.requires_grad
    assert_same(trained.average.tokenizer.state_dict(), trained.model.tokenizer.state_dict())


def test_rates_rise_to_what_was_asked(store: EpisodeStore, tmp_path: Path) -> None:
    trained, rates = trainer(store, tmp_path), []
    trained.fit_tokenizer()
    for _ in range(6):
        trained.train_step()
        rates.append([group["lr"] for optimizer in trained.optimizers for group in optimizer.param_groups])
    share = [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert np.allclose(rates, [[s * TRAINING.muon_lr, s * TRAINING.adam_lr] for s in share])


@pytest.mark.parametrize("scan", ["blockwise", "none"])
def test_every_weight_has_one_optimizer(scan: Any) -> None:
    """Muon for the matrices of scan, attention and feed-forward, AdamW for everything else."""
    model = WorldModel(small_config(scan=scan))
    muon, adamw = make_optimizers(model, TRAINING)
    assert (type(muon), type(adamw)) == (torch.optim.Muon, torch.optim.AdamW)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = [[names[id(p)] for group in o.param_groups for p in group["params"]] for o in (muon, adamw)]
    assert sorted(groups[0] + groups[1]) == sorted(names.values())
    inner = ["attention.qkv", "attention.out", "mlp.0", "mlp.2"]
    inner += ["scan.project_in", "scan.project_out"] if scan == "blockwise" else []
    assert sorted(groups[0]) == sorted(f"backbone.layers.{i}.{name}.weight" for i in range(2) for name in inner)


def test_tokenizer_is_fitted_to_real_frames_alone(store: EpisodeStore, tmp_path: Path) -> None:
    """Not to the black frames that fill clips up: clips of 9 frames from episodes of 6 to 9."""
    trained = trainer(store, tmp_path, replace(TRAINING, length=9, fit_frames=4000))
    trained.fit_tokenizer()
    frames = np.concatenate([store.read(name).image for name in store.names])
    assert float(trained.model.tokenizer.mean.mean()) == pytest.approx(frames.mean() / 127.5 - 1, abs=0.02)
    assert (frames.mean() / 127.5 - 1) == pytest.approx(0, abs=0.1)  # black is -1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": replace(TRAINING, batch=4)}, r"batch \(3 there, 4 here\)"),
        ({"config": replace(TRAINING, adam_lr=0.5, seed=9)}, r"adam_lr.*seed"),
        ({"model": small_config(layers=3)}, r"layers \(2 there, 3 here\)"),
        ({"model": small_config(tiles=((4, 2),))}, "tiles"),
    ],
)
def test_another_configuration_does_not_go_on(
    six_steps: Trainer, store: EpisodeStore, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=rf"training\.pt was made with other settings: {message}"):
        trainer(store, six_steps.out, **change)


def test_how_often_to_save_may_change(six_steps: Trainer, store: EpisodeStore) -> None:
    assert trainer(store, six_steps.out, replace(TRAINING, save_seconds=5.0)).step == 6


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_damaged_state_is_named(store: EpisodeStore, tmp_path: Path, keep: float) -> None:
    trainer(store, tmp_path).train(1, progress=False)
    content = (tmp_path / STATE).read_bytes()
    (tmp_path / STATE).write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(InputError, match=r"training\.pt"):
        trainer(store, tmp_path)


def test_training_up_to_where_it_stands_does_nothing(six_steps: Trainer) -> None:
    before = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in everything(six_steps).items()}
    assert six_steps.train(4, progress=False) == {}
    after = everything(six_steps)
    assert all(torch.equal(after[k], v) if isinstance(v, torch.Tensor) else after[k] == v for k, v in before.items())


def test_a_gradient_that_is_not_finite_stops_before_the_weights_change(store: EpisodeStore, tmp_path: Path) -> None:
    trained = trainer(store, tmp_path)
    trained.train(2, progress=False)
    with torch.no_grad():
        trained.model.denoise[1].bias.fill_(torch.nan)
    weights = trained.model.backbone.position.detach().clone()
    with pytest.raises(FloatingPointError, match=r"not finite at step 2.*lower"):
        trained.train(6, progress=False)
    assert_same(trained.model.backbone.position.detach(), weights)


def test_losses_come_back_as_means(store: EpisodeStore, tmp_path: Path) -> None:
    trained, records = trainer(store, tmp_path), []
    step: Callable[[], dict[str, torch.Tensor]] = trained.train_step
    trained.train_step = lambda: records.append(step()) or records[-1]  # type: ignore[method-assign, func-returns-value]
    means = trained.train(5, progress=False)
    assert means.keys() == {"loss", "diffusion", "reward", "termination", "grad_norm"}
    for name, mean in means.items():
        assert mean == pytest.approx(np.mean([float(r[name]) for r in records]))
    assert mean_of([]) == {}
    assert_close(
        torch.tensor(means["loss"]), torch.tensor(sum(means[k] for k in ("diffusion", "reward", "termination")))
    )
