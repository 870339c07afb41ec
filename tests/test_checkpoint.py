"""A world model on disk: the same after loading, and a clear word for every way in which it can be broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from worldmodel.checkpoint import CONFIG, WEIGHTS, Checkpoint, load_checkpoint, replace, save_checkpoint
from worldmodel.config import WorldModelConfig
from worldmodel.errors import InputError
from worldmodel.model import WorldModel
from worlds import assert_same, generator, observe_in, random_actions, random_frames, random_model, small_config

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


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / CONFIG).unlink(), r"config\.json does not exist.*train_wm\.py"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), r"has no model\.safetensors.*not complete"),
    "half a config": (cut(CONFIG, 0.5), r"config\.json is not valid JSON"),
    "empty config": (cut(CONFIG, 0), r"config\.json is not valid JSON"),
    "binary config": (lambda f: (f / CONFIG).write_bytes(b"\xff\xfe\x00{"), r"config\.json"),
    "config is a list": (edited(lambda meta: [meta]), r"config\.json holds no JSON object"),
    "half the weights": (cut(WEIGHTS, 0.5), r"model\.safetensors cannot be read"),
    "empty weights": (cut(WEIGHTS, 0), r"model\.safetensors cannot be read"),
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
