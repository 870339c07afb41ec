"""Autoencoders of `diffusers` as tokenizers: the small one that is trained, and pretrained ones from a folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from autoencoders import KINDS, PRETRAINED, QUICK, coloured, config_of, save_pretrained, scenes
from lssvwm.worldmodel.checkpoint import load_checkpoint, save_checkpoint
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.config_parts import SmallAutoencoder
from lssvwm.worldmodel.model import WorldModel
from lssvwm.worldmodel.tokenizer import AutoencoderTokenizer, PatchTokenizer, autoencoder, completed, make_tokenizer
from trainers import trainer
from worlds import assert_same, generator, random_actions, small_config, small_store


def psnr(a: Tensor, b: Tensor) -> float:
    return float(20 * torch.log10(255 / (a.double() - b.double()).square().mean().sqrt()))


def small(**changes: Any) -> WorldModelConfig:
    settings = {"tokenizer": "autoencoder", "latent_channels": 8, "small_autoencoder": QUICK}
    return small_config(**{**settings, **changes})


def quick_fit(config: WorldModelConfig) -> AutoencoderTokenizer:
    tokenizer = AutoencoderTokenizer(config)
    tokenizer.fit(coloured(30))
    return tokenizer


def test_training_makes_the_way_back_good() -> None:
    """On frames that it has not seen; the mean frame alone would give 13 decibels."""
    test, found = scenes(100, seed=1), []
    for steps in (1, 200):
        small_autoencoder = SmallAutoencoder(downsampling=2, width=16, steps=steps, lr=8e-3)
        tokenizer = AutoencoderTokenizer(small(latent_channels=16, small_autoencoder=small_autoencoder))
        tokenizer.fit(scenes(500))
        found.append(psnr(tokenizer.decode(tokenizer.encode(test)), test))
    assert found[0] < 12
    assert found[1] > 20


def test_another_seed_trains_another() -> None:
    fits = []
    for seed in (0, 1):
        tokenizer = AutoencoderTokenizer(small())
        tokenizer.fit(coloured(30), seed=seed)
        fits.append(tokenizer.mean)
    assert not torch.equal(*fits)


@pytest.mark.parametrize(("downsampling", "width", "channels"), [(2, 12, 2), (4, 12, 8), (4, 16, 8)])
def test_size_of_the_small_autoencoder_follows_from_the_config(downsampling: int, width: int, channels: int) -> None:
    """The numbers per token are asked for; latents of fewer pixels share them."""
    config = small(small_autoencoder=replace(QUICK, downsampling=downsampling, width=width, steps=1))
    tokenizer = quick_fit(config)
    assert completed(config).latent_channels == tokenizer.channels == 8
    assert tokenizer.mean.shape == (channels,)
    assert tokenizer.encode(coloured(2)).shape == (2, 8, 8)


@pytest.mark.parametrize("kind", PRETRAINED)
def test_latents_are_those_of_the_pretrained_autoencoder(kind: str, tmp_path: Path) -> None:
    """Standardised by channel, and cut into squares of 2 x 2 latents, row by row."""
    theirs, frames = save_pretrained(tmp_path, kind), coloured(5)
    tokenizer = AutoencoderTokenizer(small_config(tokenizer="autoencoder", autoencoder=str(tmp_path)))
    tokenizer.fit(frames)
    with torch.no_grad():
        encoded = theirs.encode(frames.permute(0, 3, 1, 2) / 127.5 - 1, return_dict=False)[0]
        raw = encoded.mode() if kind == "AutoencoderKL" else encoded
        latents = (raw - raw.mean((0, 2, 3), keepdim=True)) / raw.std((0, 2, 3), correction=0, keepdim=True)
        pixels = theirs.decode(raw, return_dict=False)[0].permute(0, 2, 3, 1)
    tokens = [latents[:, :, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2] for r in range(4) for c in range(2)]
    expected = torch.stack([token.permute(0, 2, 3, 1).flatten(1) for token in tokens], 1)
    found = tokenizer.encode(frames)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    shown = ((pixels + 1) * 127.5).round().clamp(0, 255)
    assert float((tokenizer.decode(found) - shown).abs().max()) <= 1


def test_frames_go_through_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded, and what comes out is the same."""
    tokenizer, frames = quick_fit(small()), coloured(10)
    latents = tokenizer.encode(frames)
    shown = tokenizer.decode(latents)
    monkeypatch.setattr(autoencoder, "CHUNK_PIXELS", 4 * 16 * 8)
    chunked = AutoencoderTokenizer(small())
    chunked.load_state_dict(tokenizer.state_dict())
    sizes: list[int] = []
    for part in (chunked.autoencoder.encoder, chunked.autoencoder.decoder):
        assert isinstance(part, torch.nn.Module)
        part.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    torch.testing.assert_close(chunked.encode(frames), latents)
    assert int((chunked.decode(latents).int() - shown.int()).abs().max()) <= 1
    assert sizes == [4, 4, 2, 4, 4, 2]


def test_an_interrupted_fit_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, calls = AutoencoderTokenizer(small()), 0
    before = {name: tensor.clone() for name, tensor in tokenizer.state_dict().items()}
    real = autoencoder.to_pixels

    def cut_off(frames: Tensor, dtype: torch.dtype) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 10:
            raise KeyboardInterrupt
        return real(frames, dtype)

    monkeypatch.setattr(autoencoder, "to_pixels", cut_off)
    with pytest.raises(KeyboardInterrupt):
        tokenizer.fit(coloured(30))
    assert_same(tokenizer.state_dict(), before)
    tokenizer.fit(coloured(30))
    assert_same(tokenizer.state_dict(), quick_fit(small()).state_dict())


def test_progress_shows_steps_and_rate(capsys: pytest.CaptureFixture[str]) -> None:
    AutoencoderTokenizer(small()).fit(coloured(30), progress=True)
    shown = capsys.readouterr().err
    assert "autoencoder: 100%" in shown
    assert "20/20" in shown
    assert "step/s" in shown
    AutoencoderTokenizer(small()).fit(coloured(30))
    assert capsys.readouterr().err == ""


def test_training_that_diverges_says_so() -> None:
    with pytest.raises(InputError, match=r"last 10 steps were not finite: lower small_autoencoder\.lr"):
        quick_fit(small(small_autoencoder=replace(QUICK, lr=1e30)))


def test_frozen_whatever_the_world_model_does(tmp_path: Path) -> None:
    """Training the world model leaves its autoencoder as it was fitted, in evaluation mode, out of the optimisers."""
    trained = trainer(small_store(tmp_path / "episodes"), tmp_path / "run", model=small())
    trained.prepare()
    tokenizer = trained.model.tokenizer
    assert isinstance(tokenizer, AutoencoderTokenizer)
    before = {name: tensor.clone() for name, tensor in tokenizer.state_dict().items()}
    trained.train(3, progress=False)
    assert_same(tokenizer.state_dict(), before)
    assert_same(trained.average.tokenizer.state_dict(), before)
    assert not any(module.training for module in tokenizer.modules())
    optimised = {id(p) for o in trained.optimizers for group in o.param_groups for p in group["params"]}
    assert not optimised & {id(p) for p in tokenizer.parameters()}
    assert optimised == {id(p) for p in trained.model.parameters() if p.requires_grad}


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_needs_nothing_else(kind: str, tmp_path: Path) -> None:
    """Also after the folder of the pretrained autoencoder is gone."""
    config = config_of(kind, tmp_path / "pretrained")
    model, frames = WorldModel(config).eval(), coloured(12)
    assert isinstance(model.tokenizer, PatchTokenizer if kind == "patches" else AutoencoderTokenizer)
    model.tokenizer.fit(frames)
    save_checkpoint(tmp_path / "saved", model, world={}, step=0)
    shutil.rmtree(tmp_path / "pretrained", ignore_errors=True)
    loaded = load_checkpoint(tmp_path / "saved").model
    assert loaded.config == config
    actions = random_actions(config, 2, 6, source=generator(0))
    with torch.no_grad():
        ours, _ = model.observe(frames.reshape(2, 6, 16, 8, 3), actions)
        theirs, _ = loaded.observe(frames.reshape(2, 6, 16, 8, 3), actions)
    assert_same(theirs, ours)


def test_a_world_model_completes_its_config(tmp_path: Path) -> None:
    """Also on the meta device, where nothing is computed."""
    save_pretrained(tmp_path)
    bare = small_config(tokenizer="autoencoder", autoencoder=str(tmp_path))
    with torch.device("meta"):
        model = WorldModel(bare)
    assert model.config == completed(bare)
    assert json.loads(model.config.architecture)["_class_name"] == "AutoencoderKL"
    assert model.config.latent_channels == 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch": 2, "small_autoencoder": replace(QUICK, downsampling=4)}, r"patch=2 is no multiple.*such as 4"),
        ({"latent_channels": 6}, r"latent_channels=6 cannot be shared by the 4 latents.*choose 4"),
        ({"autoencoder": "no-such-folder"}, r"'no-such-folder' is neither a folder nor a name on the hub"),
        ({"autoencoder": "/no/such/folder"}, r"'/no/such/folder' is neither a folder nor a name on the hub"),
        ({"autoencoder": "nobody/nothing"}, r"'nobody/nothing' has no config\.json that can be read"),
    ],
)
def test_configs_that_cannot_work(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        completed(small(**settings))


@pytest.mark.parametrize(
    ("name", "value"), [("downsampling", 3), ("downsampling", 1), ("width", 0), ("steps", 0), ("lr", 0.0)]
)
def test_options_that_cannot_work(name: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"small_autoencoder\.{name}={value}"):
        SmallAutoencoder(**{name: value})  # type: ignore[arg-type]


def test_an_autoencoder_without_its_tokenizer_is_not_ignored() -> None:
    with pytest.raises(InputError, match=r"'some/name' is named but not used: add tokenizer='autoencoder'"):
        small_config(autoencoder="some/name")


def test_unknown_options_are_named() -> None:
    values = small().to_dict()
    values["small_autoencoder"]["depth"] = 3
    with pytest.raises(InputError, match=r"small_autoencoder.*unknown keys \['depth'\]"):
        WorldModelConfig.from_dict(values)


def pickled(folder: Path) -> None:
    """Weights in the format that runs code when it is read."""
    saved = save_pretrained(folder)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(saved.state_dict(), folder / "diffusion_pytorch_model.bin")


def without_a_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_pretrained(folder)
    path = folder / "diffusion_pytorch_model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if k != "decoder.conv_in.bias"}, path, {"format": "pt"})


def edited(**changes: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        save_pretrained(folder)
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "settings", "message"),
    [
        (pickled, {}, r"no safetensors weights that can be read"),
        (without_a_weight, {}, r"do not fit its config\.json.*decoder\.conv_in\.bias"),
        (save_pretrained, {"patch": 1}, r"patch=1: .*stand for 2 pixels"),
        (edited(_class_name="UNet2DModel"), {}, r"'UNet2DModel' is no autoencoder"),
        (edited(_class_name="Nonsense"), {}, r"'Nonsense' is no autoencoder"),
        (edited(_class_name=None), {}, r"None is no autoencoder"),
        (edited(in_channels=1), {}, r"AutoencoderKL does not encode single frames"),
        (edited(out_channels=1), {}, r"gives the frame back"),
        (Path.mkdir, {}, r"no config\.json that can be read"),
    ],
)
def test_folders_that_cannot_be_used(
    spoil: Callable[[Path], Any], settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    spoil(tmp_path / "autoencoder")
    config = small_config(tokenizer="autoencoder", autoencoder=str(tmp_path / "autoencoder"), **settings)
    with pytest.raises(InputError, match=message):
        make_tokenizer(config).fit(coloured(3))


def test_without_diffusers() -> None:
    """Patches need none of it, and an autoencoder says what brings it."""
    code = (
        "import sys; sys.modules['diffusers'] = None\n"
        "from lssvwm.worldmodel.config import WorldModelConfig\n"
        "from lssvwm.worldmodel.tokenizer import make_tokenizer\n"
        "make_tokenizer(WorldModelConfig())\n"
        "make_tokenizer(WorldModelConfig(tokenizer='autoencoder', patch=8, tiles=((1, 1),)))"
    )
    root = Path(__file__).parent.parent
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert "MissingExtraError" in last
    assert "Autoencoders need the package 'diffusers'" in last
    assert "pip install 'lssvwm[autoencoder]'" in last
