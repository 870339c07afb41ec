"""A world model on disk: the same after loading, and a clear word for every way in which it can be broken."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lssvwm.worldmodel.checkpoint import CONFIG, WEIGHTS, Checkpoint, load_checkpoint, save_checkpoint
from lssvwm.worldmodel.common.atomic import replace
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.model import WorldModel
from worlds import (
    assert_same,
    generator,
    observe_in,
    random_actions,
    random_frames,
    random_model,
    small_config,
    small_store,
)

WORLD = {"env": {"id": "MiniGrid-MemoryS7-v0", "actions": [0, 1, 2], "size": None}, "episodes": "somewhere"}


def single(config: WorldModelConfig, seed: int) -> WorldModel:
    return random_model(config, seed).float()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "run" / "world", single(small_config(), 0), world=WORLD, step=17)
    return tmp_path / "run" / "world"


def dream(model: WorldModel) -> torch.Tensor:
    source = generator(5)
    frames, actions = (
        random_frames(model.config, 2, 4, source=source),
        random_actions(model.config, 2, 4, source=source),
    )
    _, memory = observe_in(model, frames, actions, [])
    with torch.no_grad():
        return model.imagine(torch.tensor([0, 1]), memory, steps=2, generator=generator(1)).frame


@pytest.mark.parametrize(
    "changes", [{}, {"scan": "none"}, {"window": 0}, {"tiles": ((4, 2), (2, 1)), "layers": 3, "noise_mean": -0.5}]
)
def test_round_trip(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = single(small_config(**changes), 0)
    save_checkpoint(tmp_path, model, world=WORLD, step=123)
    found = load_checkpoint(str(tmp_path))
    assert isinstance(found, Checkpoint)
    assert (found.world, found.step, found.path) == (WORLD, 123, tmp_path)
    assert found.model.config == model.config
    assert not found.model.training
    assert found.model.state_dict().keys() == model.state_dict().keys()
    assert_same(found.model.state_dict(), model.state_dict())
    assert_same(dream(found.model), dream(model))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([CONFIG, WEIGHTS])


def test_saving_again_replaces(folder: Path) -> None:
    save_checkpoint(folder, single(small_config(), 1), world={}, step=18)
    found = load_checkpoint(folder)
    assert found.step == 18
    assert_same(found.model.state_dict(), single(small_config(), 1).state_dict())


def test_a_save_that_fails_leaves_what_was_there(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def half(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        replace(folder / WEIGHTS, half)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_file_appears_with_all_its_bytes_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints and episodes alike: after a power cut there must be no empty file in the place of a good one."""
    done: list[str] = []
    fsync, put = os.fsync, os.replace

    def note(descriptor: int) -> None:
        info = os.fstat(descriptor)
        done.append("folder" if stat.S_ISDIR(info.st_mode) else "bytes" if info.st_size else "nothing")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("name"), put(*paths))[1])
    replace(tmp_path / "file", lambda path: path.write_text("text"))
    small_store(tmp_path, episodes=1)
    assert done == ["bytes", "name", "folder"] * 2


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        meta = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(change(meta)))

    return edit


def with_model(**changes: Any) -> Callable[[Path], None]:
    return edited(lambda meta: {**meta, "model": {**meta["model"], **changes}})


def without(key: str) -> Callable[[Path], None]:
    return edited(lambda meta: {k: v for k, v in meta.items() if k != key})


def cut(name: str, keep: float) -> Callable[[Path], None]:
    def shorten(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * keep)])

    return shorten


def weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    return lambda folder: save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)


def architecture(text: str) -> Callable[[Path], None]:
    return with_model(tokenizer="autoencoder", architecture=text)


def as_folder(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / CONFIG).unlink(), r"config\.json does not exist.*train_wm\.py"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), r"has no model\.safetensors.*not complete"),
    "half a config": (cut(CONFIG, 0.5), r"config\.json is not valid JSON"),
    "empty config": (cut(CONFIG, 0), r"config\.json is not valid JSON"),
    "binary config": (lambda f: (f / CONFIG).write_bytes(b"\xff\xfe\x00{"), r"config\.json"),
    "config is a list": (edited(lambda meta: [meta]), r"config\.json holds no JSON object"),
    "half the weights": (cut(WEIGHTS, 0.5), r"model\.safetensors cannot be read"),
    "empty weights": (cut(WEIGHTS, 0), r"model\.safetensors cannot be read"),
    "weights are a folder": (as_folder(WEIGHTS), r"model\.safetensors cannot be read"),
    "config is a folder": (as_folder(CONFIG), r"config\.json cannot be read"),
    "deep brackets": (lambda f: (f / CONFIG).write_text("[" * 100_000), r"config\.json is not valid JSON"),
    "a long number": (lambda f: (f / CONFIG).write_text('{"step": ' + "1" * 5_000 + "}"), r"config\.json is not valid"),
    "a format that is nearly one": (edited(lambda meta: {**meta, "format": 1.0}), r"has format 1\.0.*reads 1"),
    "a step of text": (edited(lambda meta: {**meta, "step": "abc"}), r"config\.json: step is 'abc', not a number"),
    "a step that is none": (edited(lambda meta: {**meta, "step": None}), r"config\.json: step is None, not a number"),
    "a step before the first": (edited(lambda meta: {**meta, "step": -5}), r"config\.json: step is -5, not a number"),
    "a world that is a number": (edited(lambda meta: {**meta, "world": 3}), r"config\.json: world is 3, not an object"),
    "a model that is a list": (edited(lambda meta: {**meta, "model": [3]}), r"config\.json: model is \[3\], not an"),
    "tiles of text": (with_model(tiles="ab"), r"config\.json.*tiles='ab'"),
    "tiles of three": (with_model(tiles=[[1, 1, 1]]), r"config\.json.*tiles="),
    "tiles of other things": (with_model(tiles=[["x", 1]]), r"config\.json.*tiles="),
    "no number": (with_model(mlp_ratio=math.nan), r"config\.json.*mlp_ratio=nan: give a finite number"),
    "a number below zero": (with_model(mlp_ratio=-1), r"config\.json.*mlp_ratio=-1"),
    "too large to count": (with_model(mlp_ratio=10**400), r"config\.json.*mlp_ratio=1000.*finite"),
    "too wide": (with_model(dim=2**40), r"config\.json.*dim=1099511627776: give at most"),
    "too wide for what is there": (with_model(dim=2**20), r"model\.safetensors does not fit"),
    "too deep": (with_model(layers=10**6), r"config\.json.*layers=1000000: give at most 1000"),
    "heads that are no whole number": (with_model(heads=2.0), r"config\.json.*heads=2\.0: give a whole number"),
    "a switch for a number": (with_model(layers=True), r"config\.json.*layers=True: give a whole number"),
    "no least noise": (with_model(min_noise=0), r"config\.json.*min_noise=0"),
    "a spread below zero": (with_model(noise_std=-1), r"config\.json.*noise_std=-1"),
    "no spread": (with_model(noise_std=math.nan), r"config\.json.*noise_std=nan"),
    "an autoencoder of another kind": (with_model(small_autoencoder=3), r"config\.json.*small_autoencoder=3"),
    "an autoencoder of other things": (
        with_model(small_autoencoder={"width": "x"}),
        r"config\.json.*small_autoencoder\.width='x': give a whole number",
    ),
    "no architecture": (architecture("{}"), r"config\.json.*architecture='\{\}' names no _class_name"),
    "half an architecture": (architecture("{"), r"config\.json.*architecture is no JSON"),
    "a number for an architecture": (architecture("3"), r"config\.json.*architecture='3' names no _class_name"),
    "an architecture that cannot be": (
        architecture('{"_class_name": "AutoencoderDC", "encoder_block_out_channels": []}'),
        r"config\.json describes no world model",
    ),
    "another format": (edited(lambda meta: {**meta, "format": 2}), r"config\.json has format 2.*reads 1"),
    "no format": (without("format"), r"config\.json has format None"),
    "no model": (without("model"), r"config\.json.*model"),
    "no world": (without("world"), r"config\.json.*world"),
    "no step": (without("step"), r"config\.json.*step"),
    "unknown setting": (with_model(colour=1), r"config\.json.*unknown keys \['colour'\]"),
    "setting that cannot be": (with_model(patch=5), r"config\.json.*patch=5"),
    "setting of another type": (with_model(dim="wide"), r"config\.json"),
    "another width": (with_model(dim=64), r"model\.safetensors does not fit.*backbone.*\(.*32.*\).*\(.*64"),
    "more layers": (with_model(layers=3), r"model\.safetensors does not fit.*layers\.2.*nothing in the file"),
    "fewer layers": (with_model(layers=1), r"model\.safetensors does not fit.*layers\.1.*nothing in the model"),
    "other actions": (with_model(num_actions=5), r"does not fit.*action\.weight is \(4, 32\).*\(6, 32\)"),
    "a weight less": (
        weights(lambda t: {k: v for k, v in t.items() if k != "tokenizer.mean"}),
        r"tokenizer\.mean is nothing in the file",
    ),
    "a weight more": (weights(lambda t: {**t, "zoo": torch.zeros(2)}), r"zoo is \(2,\) in the file and nothing"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_every_broken_checkpoint_is_named(folder: Path, case: str) -> None:
    """One line that names the file, and never a traceback of another kind."""
    damage, message = BROKEN[case]
    damage(folder)
    with pytest.raises(InputError, match=message) as caught:
        load_checkpoint(folder)
    assert str(folder) in str(caught.value)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere.*does not exist.*train_wm\.py"):
        load_checkpoint(tmp_path / "nowhere")


def test_a_file_instead_of_the_folder(folder: Path) -> None:
    """The nearest mistake: naming the weights instead of the folder that they lie in."""
    with pytest.raises(InputError, match=r"model\.safetensors"):
        load_checkpoint(folder / WEIGHTS)


def test_a_full_disk_is_told_from_other_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries that write have errors of their own for it."""

    def write(path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:664]")

    with pytest.raises(RuntimeError, match="enforce fail"):
        replace(tmp_path / "training.pt", write)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=4096))
    with pytest.raises(OSError, match=r"No space left on device: '.*training\.pt'") as failure:
        replace(tmp_path / "training.pt", write)
    assert failure.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())
