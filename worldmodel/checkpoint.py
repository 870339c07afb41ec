"""A world model on disk: `config.json` and `model.safetensors` in one folder, every file written atomically."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from worldmodel.config import WorldModelConfig
from worldmodel.errors import InputError
from worldmodel.model import WorldModel

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A loaded world model, in evaluation mode, and what was noted beside it.

    `world` describes where its frames come from (the environment's configuration, the folder of its episodes); the
    world model itself does not read it.
    """

    model: WorldModel
    world: Mapping[str, Any]
    step: int
    path: Path


def save_checkpoint(folder: Path | str, model: WorldModel, *, world: Mapping[str, Any], step: int) -> None:
    """Write `model` to `folder`, which is made when missing; a reader sees the old or the new weights, never half."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.detach().contiguous().cpu() for name, t in model.state_dict().items()}
    meta = {"format": FORMAT, "model": model.config.to_dict(), "world": dict(world), "step": step}
    replace(folder / WEIGHTS, lambda path: save_file(tensors, path))
    replace(folder / CONFIG, lambda path: path.write_text(json.dumps(meta, indent=2) + "\n"))


def load_checkpoint(folder: Path | str, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint folder. Every way in which it cannot be used is an `InputError` that names the file."""
    folder = Path(folder)
    meta = read_json(folder / CONFIG, "a world model checkpoint (made by train_wm.py or train_agent.py)")
    if meta.get("format") != FORMAT:
        raise InputError(
            f"{folder / CONFIG} has format {meta.get('format')!r}, this version reads {FORMAT}: train again"
        )
    missing = [key for key in ("model", "world", "step") if key not in meta]
    if missing:
        raise InputError(f"{folder / CONFIG} lacks {', '.join(missing)}: copy or train the checkpoint again")
    try:
        model = WorldModel(WorldModelConfig.from_dict(meta["model"]))
    except (InputError, TypeError) as error:
        raise InputError(f"{folder / CONFIG} describes no world model of this version: {error}") from error
    try:
        tensors = load_file(folder / WEIGHTS)
    except FileNotFoundError as error:
        raise InputError(f"{folder} has no {WEIGHTS}: the checkpoint is not complete, copy the whole folder") from error
    except SafetensorError as error:
        raise InputError(f"{folder / WEIGHTS} cannot be read ({error}): copy or train the checkpoint again") from error
    load_weights(model, tensors, folder / WEIGHTS)
    return Checkpoint(model.eval().to(device), meta["world"], int(meta["step"]), folder)


def load_weights(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], source: Path) -> None:
    """Load weights that must fit exactly; name the first entry that does not."""
    own = module.state_dict()
    for name in sorted(set(own) | set(tensors)):
        have = tuple(tensors[name].shape) if name in tensors else "nothing"
        want = tuple(own[name].shape) if name in own else "nothing"
        if have != want:
            raise InputError(
                f"{source} does not fit this config: {name} is {have} in the file and {want} in the model; "
                "use the config.json that was saved with it"
            )
    module.load_state_dict(tensors)


def read_state(path: Path, device: torch.device) -> dict[str, Any]:
    """A dictionary of tensors and plain values written by `torch.save`, read without running any of its code."""
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, KeyError, UnpicklingError) as error:
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}): it is damaged; delete it to start this part again"
        ) from error
    return state


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object, or an `InputError` that says what should have been there."""
    try:
        value = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path} does not exist: {path.parent} is not {what}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON ({error}): {path.parent} is not {what}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object: {path.parent} is not {what}")
    return value


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a new file beside `path`, then put it in place at once."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
