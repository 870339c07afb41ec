"""The rules by which training changes weights, and what it leaves behind."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lssvwm.worldmodel.checkpoint import load_checkpoint, read_state
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.config_parts import MAMBA2, SmallAutoencoder
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.layers.backbone import Layer
from lssvwm.worldmodel.model import Losses, WorldModel
from lssvwm.worldmodel.training import MAY_CHANGE, STATE, Curriculum, Trainer, TrainingConfig, make_optimizers, rate
from lssvwm.worldmodel.training.muon import Muon
from lssvwm.worldmodel.training.trainer import Part
from together import EXACT, exact
from trainers import TRAINING, WORLD, assert_same_state, trainer
from worlds import assert_close, assert_same, random_model, small_config, small_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return small_store(tmp_path_factory.mktemp("episodes"))


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


def test_what_is_left_behind_is_a_checkpoint_of_the_average(six_steps: Trainer) -> None:
    found = load_checkpoint(six_steps.out)
    assert (found.step, found.world) == (6, WORLD)
    assert_same(found.model.state_dict(), six_steps.average.state_dict())
    assert not torch.equal(found.model.backbone.patch_in.weight, six_steps.model.backbone.patch_in.weight)
    assert sorted(p.name for p in six_steps.out.iterdir()) == ["config.json", "model.safetensors", STATE]


def test_average_by_hand(store: EpisodeStore, tmp_path: Path) -> None:
    """Decay (1 + n) / (10 + n) after step n, up to the decay asked for; what is counted is copied."""
    trained = trainer(store, tmp_path, replace(TRAINING, ema=0.25))
    trained.prepare()
    expected = {name: value.double() for name, value in trained.average.state_dict().items()}
    for decay in (2 / 11, 0.25, 0.25, 0.25):
        trained.train_step()
        for name, value in trained.model.state_dict().items():
            kept = decay if value.is_floating_point() else 0.0
            expected[name] = kept * expected[name] + (1 - kept) * value.double()
        for name, value in trained.average.state_dict().items():
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-6, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in trained.average.parameters())
    assert_same(trained.average.tokenizer.state_dict(), trained.model.tokenizer.state_dict())


def test_rates_rise_to_what_was_asked(store: EpisodeStore, tmp_path: Path) -> None:
    trained, rates = trainer(store, tmp_path), []
    trained.prepare()
    for _ in range(6):
        trained.train_step()
        rates.append([group["lr"] for optimizer in trained.optimizers for group in optimizer.param_groups])
    share = [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    each = (TRAINING.muon_lr,) * 3 + (TRAINING.adam_lr,) * 2
    assert np.allclose(rates, [[s * lr for lr in each] for s in share])


def test_rates_fall_to_zero_over_the_last_share_of_the_steps() -> None:
    config = TrainingConfig(warmup=4, decay=0.5, steps=20)
    shares = [rate(step, config) for step in range(20)]
    assert shares[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert shares[5:10] == [1.0] * 5
    assert shares[10:] == pytest.approx([1 - step / 10 for step in range(10)])
    assert rate(0, replace(config, decay=0.0, warmup=0)) == 1.0


def test_a_decay_has_to_know_the_end(store: EpisodeStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"decay=0\.5 needs to know all steps"):
        trainer(store, tmp_path, replace(TRAINING, decay=0.5))
    with pytest.raises(InputError, match="step 7 lies past the 6 steps"):
        trainer(store, tmp_path, replace(TRAINING, decay=0.5, steps=6)).train(7, progress=False)


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("", {0: 24, 10**9: 24}),
        ("64:20k,128:20k", {0: 64, 19_999: 64, 20_000: 128, 39_999: 128, 40_000: 128, 10**9: 128}),
        (" 8:3 , 4:1.5k,16:1m ", {0: 8, 2: 8, 3: 4, 1_502: 4, 1_503: 16, 10**9: 16}),
    ],
)
def test_lengths_of_a_curriculum(text: str, lengths: dict[int, int]) -> None:
    curriculum = Curriculum.parse(text, 24)
    assert {step: curriculum.length(step) for step in lengths} == lengths


@pytest.mark.parametrize(
    ("text", "frames", "steps"), [("", 240, 10), ("8:5,16:1", 39, 4), ("8:5,16:1", 40, 5), ("8:5,16:1", 100, 8)]
)
def test_steps_that_train_on_so_many_frames(text: str, frames: int, steps: int) -> None:
    assert Curriculum.parse(text, 24).steps_for(frames) == steps


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"curriculum": "64"}, "curriculum='64': '64' is not LENGTH:STEPS, such as 64:20k"),
        ({"curriculum": "64:20k,"}, "'' is not LENGTH:STEPS"),
        ({"curriculum": "64:-3"}, "'64:-3' is not LENGTH:STEPS"),
        ({"curriculum": "0:20k"}, "'0:20k' must have at least 1 frame"),
        ({"curriculum": "64:1.0005k"}, "a whole number of steps"),
        ({"curriculum": "64:0"}, "a whole number of steps"),
        ({"precision": "float16"}, "precision='float16': give one of"),
        ({"batch": 0}, "batch=0: give at least 1"),
        ({"workers": -1}, "workers=-1: give at least 0"),
        ({"decay": 1.5}, "decay=1.5: give a share"),
    ],
)
def test_settings_that_cannot_work_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainingConfig(**settings)


def test_clips_have_to_come_apart_evenly(store: EpisodeStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"batch=3 clips .* 1 process\(es\) with accumulate=2: choose a multiple of 2"):
        trainer(store, tmp_path, replace(TRAINING, accumulate=2))


def test_layers_computed_again_give_the_same_gradients(
    store: EpisodeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, forward = [], Layer.forward

    def counted(layer: Layer, *args: Any, **options: Any) -> Any:
        calls.append(layer)
        return forward(layer, *args, **options)

    monkeypatch.setattr(Layer, "forward", counted)
    kept = exact(store, tmp_path / "kept", EXACT)
    once = len(calls)
    again = exact(store, tmp_path / "again", replace(EXACT, checkpoint_layers=True))
    assert len(calls) == 3 * once
    for part, expected in kept.items():
        assert_close(again[part], expected)


@pytest.mark.parametrize("changes", [{"precision": "bfloat16"}, {"precision": "bfloat16", "checkpoint_layers": True}])
def test_in_half_precision_losses_are_about_the_same(
    store: EpisodeStore, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Weights and what is left behind keep 32 bits."""
    single, half = trainer(store, tmp_path / "a"), trainer(store, tmp_path / "b", replace(TRAINING, **changes))
    for one in (single, half):
        one.train(3, progress=False)
    for name in ("loss", "diffusion", "reward", "termination", "grad_norm"):
        ours, theirs = (one.recent[0][name] for one in (half, single))
        assert (ours == theirs) == (name in ("reward", "termination")), name  # heads start at zero
        assert ours == pytest.approx(theirs, rel=0.02), name
    for name, value in half.model.state_dict().items():
        assert value.dtype == single.model.state_dict()[name].dtype, name
    assert_same(half.model.tokenizer.state_dict(), single.model.tokenizer.state_dict())


@pytest.mark.slow
def test_compiled_layers_give_the_same_gradients(store: EpisodeStore, tmp_path: Path) -> None:
    found = []
    for compiled in (False, True):
        model = random_model(small_config(layers=1), 0).train()
        config = replace(TRAINING, compile=compiled)
        trained = Trainer(model, store, config, tmp_path / str(compiled), world={})
        losses = trained.backward(trained.parts())
        found.append({name: p.grad for name, p in model.named_parameters()} | {"loss": losses.total})
    assert_close(found[1], found[0])


def test_gradients_are_clipped(store: EpisodeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the optimisers get has the norm asked for; what is reported is the norm before."""
    trained, norms = trainer(store, tmp_path, replace(TRAINING, clip=0.01)), []
    trained.prepare()

    def note() -> None:
        norms.append(torch.stack([p.grad.norm() for p in trained.model.parameters() if p.grad is not None]).norm())

    monkeypatch.setattr(trained.optimizers[0], "step", note)
    reported = trained.train_step()["grad_norm"]
    assert float(reported) > 0.1
    assert float(norms[0]) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("scan", ["blockwise", "none"])
def test_every_weight_has_one_optimizer(scan: Any) -> None:
    """Muon for the matrices of scan, attention, feed-forward, read-out and heads; AdamW for everything else."""
    model = WorldModel(small_config(scan=scan))
    muon, adamw = make_optimizers(model, TRAINING)
    assert (type(muon), type(adamw)) == (Muon, torch.optim.AdamW)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = [[names[id(p)] for group in o.param_groups for p in group["params"]] for o in (muon, adamw)]
    assert sorted(groups[0] + groups[1]) == sorted(names.values())
    inner = ["attention.qkv", "attention.out", "mlp.0", "mlp.2"]
    inner += ["scan.project_in", "scan.project_out"] if scan == "blockwise" else []
    matrices = [f"backbone.layers.{i}.{name}" for i in range(2) for name in inner]
    matrices += ["readout.squeeze.1", "readout.mix.0", "reward_head.0", "termination_head.0"]
    matrices += ["readout.recalls.0.1", "readout.recalls.1.1"] if scan == "blockwise" else []
    assert sorted(groups[0]) == sorted(f"{name}.weight" for name in matrices)
    parts = {names[id(p)]: group["blocks"] for group in muon.param_groups for p in group["params"]}
    assert all(rows is None or sum(rows) == len(model.get_parameter(name)) for name, rows in parts.items())
    assert {name.split(".")[-2] for name, rows in parts.items() if rows} == (
        {"qkv", "project_in"} if scan == "blockwise" else {"qkv"}
    )
    still = {names[id(p)] for o in (muon, adamw) for g in o.param_groups if not g["weight_decay"] for p in g["params"]}
    vectors = {name for name, p in model.named_parameters() if p.ndim < 2}
    embeddings = {"backbone.position", "backbone.condition.action.weight"}
    kernels = {name for name in names.values() if name.endswith("conv_weight")}
    assert still == vectors | embeddings | kernels, "time constants, norms, biases and embeddings do not decay"


def test_tokenizer_is_fitted_to_real_frames_alone(store: EpisodeStore, tmp_path: Path) -> None:
    """Not to the black frames that fill clips up: clips of 9 frames from episodes of 6 to 9."""
    trained = trainer(store, tmp_path, replace(TRAINING, length=9, fit_frames=4000))
    trained.prepare()
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


def test_how_it_is_carried_out_may_change(six_steps: Trainer, store: EpisodeStore) -> None:
    changes = {"save_seconds": 5.0, "workers": 2, "accumulate": 3, "checkpoint_layers": True, "compile": True}
    assert changes.keys() == set(MAY_CHANGE)
    assert trainer(store, six_steps.out, replace(TRAINING, **changes)).step == 6


def test_a_state_from_when_all_weights_decayed_is_refused_by_name(
    six_steps: Trainer, store: EpisodeStore, tmp_path: Path
) -> None:
    """AdamW then had one group; its moments would otherwise go to the wrong weights."""
    state = torch.load(six_steps.out / STATE, weights_only=True)
    decayed, others = state["optimizers"][1]["param_groups"]
    state["optimizers"][1]["param_groups"] = [{**decayed, "params": decayed["params"] + others["params"]}]
    torch.save(state, tmp_path / STATE)
    with pytest.raises(InputError, match=r"training\.pt cannot be read.*parameter groups.*another version; delete it"):
        trainer(store, tmp_path)


def test_options_of_later_versions_have_their_defaults_in_older_states(
    six_steps: Trainer, store: EpisodeStore, tmp_path: Path
) -> None:
    state = torch.load(six_steps.out / STATE, weights_only=True)
    del state["config"]["decay"], state["config"]["ema"]
    del state["model_config"]["reward_weight"], state["model_config"]["small_autoencoder"]["blocks"]
    state["recent"] = [{name: torch.tensor(value) for name, value in record.items()} for record in state["recent"]]
    torch.save(state, tmp_path / STATE)
    again = trainer(store, tmp_path)
    assert again.step == 6
    assert all(type(value) is float for record in again.recent for value in record.values())
    with pytest.raises(InputError, match=r"ema \(0\.995 there, 0\.5 here\)"):
        trainer(store, tmp_path, replace(TRAINING, ema=0.5))
    with pytest.raises(InputError, match=r"small_autoencoder"):
        trainer(store, tmp_path, model=small_config(small_autoencoder=SmallAutoencoder(blocks=2)))


def test_a_run_from_before_the_mixer_and_the_forcing_is_what_it_was(store: EpisodeStore, tmp_path: Path) -> None:
    """In `training.pt` and in the checkpoint; and it is no run of today's defaults, though all weights would fit."""
    then = small_config(mixer=MAMBA2, forcing="diffusion")
    trainer(store, tmp_path, model=then).train(2, progress=False)
    state = torch.load(tmp_path / STATE, weights_only=True)
    config = json.loads((tmp_path / "config.json").read_text())
    for kept in (state["model_config"], config["model"]):
        del kept["mixer"], kept["forcing"], kept["context_noise"]
    torch.save(state, tmp_path / STATE)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_checkpoint(tmp_path).model.config == then
    assert trainer(store, tmp_path, model=then).step == 2
    with pytest.raises(InputError, match=r"forcing \('diffusion' there, 'teacher' here\), mixer"):
        trainer(store, tmp_path, model=small_config())


@pytest.mark.parametrize(
    ("curriculum", "goes_on"),
    [("4:2,6:8,8:1", True), ("4:2,6:1", True), ("4:2,6:1,8:1", False), ("4:3,6:3", False), ("5:9", False)],
)
def test_a_curriculum_goes_on_from_what_was_done(
    store: EpisodeStore, tmp_path: Path, curriculum: str, goes_on: bool
) -> None:
    """After four steps, two of 4 frames and two of 6: what lies behind has to stay as it was."""
    trainer(store, tmp_path, replace(TRAINING, curriculum="4:2,6:2")).train(4, progress=False)
    changed = replace(TRAINING, curriculum=curriculum)
    if not goes_on:
        with pytest.raises(InputError, match=r"curriculum \('4:2,6:2' there"):
            trainer(store, tmp_path, changed)
        return
    again = trainer(store, tmp_path, changed)
    again.train(5, progress=False)
    assert again.recent[-1]["length"] == 6


DAMAGED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda state: [state],
    "a tensor": lambda state: torch.zeros(3),
    "no step": lambda state: {k: v for k, v in state.items() if k != "step"},
    "no config": lambda state: {k: v for k, v in state.items() if k != "config"},
    "config is text": lambda state: {**state, "config": "none"},
    "no optimisers": lambda state: {**state, "optimizers": state["optimizers"][:1]},
    "figures are text": lambda state: {**state, "recent": [{"loss": "low"}]},
    "a weight less": lambda state: {**state, "model": dict(list(state["model"].items())[1:])},
    "weights are numbers": lambda state: {**state, "average": dict.fromkeys(state["average"], 1)},
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=list(DAMAGED))
def test_a_state_that_is_none_is_named(
    six_steps: Trainer, store: EpisodeStore, tmp_path: Path, damage: Callable[[dict[str, Any]], Any]
) -> None:
    torch.save(damage(torch.load(six_steps.out / STATE, weights_only=True)), tmp_path / STATE)
    with pytest.raises(InputError, match=r"training\.pt cannot be read.*delete it"):
        trainer(store, tmp_path)


def test_a_damaged_state_is_named(six_steps: Trainer, tmp_path: Path) -> None:
    """Cut anywhere, or with bytes that are others: it is read, or said to be damaged, and nothing else is raised."""
    content, path, random = (six_steps.out / STATE).read_bytes(), tmp_path / STATE, np.random.default_rng(0)
    for keep in np.linspace(0, 0.999, 60):
        path.write_bytes(content[: int(len(content) * keep)])
        with pytest.raises(InputError, match=r"training\.pt cannot be read.*delete it"):
            read_state(path, torch.device("cpu"))
    for _ in range(200):
        changed = bytearray(content)
        for at in random.integers(0, min(len(content), random.choice([2000, len(content)])), 8):
            changed[at] = random.integers(256)
        path.write_bytes(changed)
        with contextlib.suppress(InputError):
            read_state(path, torch.device("cpu"), "step")


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_a_step_without_a_finite_gradient_is_skipped(store: EpisodeStore, tmp_path: Path, value: float) -> None:
    """It changes no weight and no running figure; a training that goes on after it goes on alike."""
    trained = spoiling(trainer(store, tmp_path / "a"), range(2, 3), value)
    trained.train(2, progress=False)
    before = {name: p.detach().clone() for name, p in trained.model.state_dict().items()}
    means = trained.train(3, progress=False)
    assert_same(trained.model.state_dict(), before)
    assert means["skipped"] == pytest.approx(1 / 3)
    assert all(np.isfinite(mean) for mean in means.values())
    trained.train(5, progress=False)
    assert all(bool(torch.isfinite(p).all()) for p in trained.model.parameters())
    assert not torch.equal(trained.model.backbone.position, before["backbone.position"])
    spoiling(trainer(store, tmp_path / "b"), range(2, 3), value).train(3, progress=False)
    again = trainer(store, tmp_path / "b", seed=1)
    again.train(5, progress=False)
    assert_same_state(again, trained)


def test_too_many_of_them_in_a_row_end_the_training(store: EpisodeStore, tmp_path: Path) -> None:
    """What was learned before is kept, and resuming goes on past them."""
    trained = spoiling(trainer(store, tmp_path), [1, *range(3, 30)], torch.nan)
    with pytest.raises(InputError, match=r"gradients of the last 10 steps were not finite: resume .* lower muon_lr"):
        trained.train(30, progress=False)
    again = trainer(store, tmp_path)
    assert again.step == 13
    assert_same_state(again, trained)
    again.train(14, progress=False)
    assert again.recent[-1]["skipped"] == 0


def spoiling(trained: Trainer, steps: Sequence[int], value: float) -> Trainer:
    """The same with one number of the gradient replaced in these steps."""
    backward = trained.backward

    def spoilt(parts: list[Part]) -> Losses:
        losses = backward(parts)
        if trained.step in steps:
            trained.model.backbone.position.grad.view(-1)[0] = value
        return losses

    trained.backward = spoilt  # type: ignore[method-assign]
    return trained


def test_losses_come_back_as_means_of_the_last_hundred(store: EpisodeStore, tmp_path: Path) -> None:
    """Also over a stop: a trainer that goes on knows what the one before it saw."""
    trainer(store, tmp_path).train(60, progress=False)
    trained = trainer(store, tmp_path)
    means = trained.train(105, progress=False)
    assert len(trained.recent) == 100
    assert means.keys() == {"loss", "diffusion", "reward", "termination", "grad_norm", "skipped"}
    for name, mean in means.items():
        assert mean == pytest.approx(np.mean([float(record[name]) for record in trained.recent]))
    assert means["loss"] == pytest.approx(means["diffusion"] + means["reward"] + means["termination"], rel=1e-5)
    first = [float(record["diffusion"]) for record in trained.recent[:10]]
    assert np.mean([float(record["diffusion"]) for record in trained.recent[-10:]]) < np.mean(first)
