"""A world model on disk: `config.json` and `model.safetensors` in one folder, every file written atomically."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lssvwm.worldmodel.common.atomic import replace
from lssvwm.worldmodel.common.errors import InputError, MissingExtraError, one_line
from lssvwm.worldmodel.common.precision import use_policy
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.model import WorldModel
from lssvwm.worldmodel.worlds import resolve

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

    @property
    def episodes(self) -> Path | None:
        """The folder of episodes that it names, relative to itself, whether or not it is there; None: it names none."""
        named = self.world.get("episodes")
        return None if named is None else (self.path / str(named)).resolve()


def save_checkpoint(folder: Path | str, model: WorldModel, *, world: Mapping[str, Any], step: int) -> None:
    """Write `model` to `folder`, which is made when missing; a reader sees the old or the new weights, never half."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.detach().contiguous().cpu() for name, t in model.state_dict().items()}
    meta = {"format": FORMAT, "model": model.config.to_dict(), "world": dict(world), "step": step}
    replace(folder / WEIGHTS, lambda path: save_file(tensors, path))
    replace(folder / CONFIG, lambda path: path.write_text(json.dumps(meta, indent=2) + "\n"))


def load_checkpoint(folder: Path | str, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint: a folder, the name of a world that comes with the package, or hf://OWNER/NAME.

    Every way in which it cannot be used is an `InputError` that names the file.
    """
    folder = resolve(folder)
    meta = read_json(folder / CONFIG, "a world model checkpoint (made by train_wm.py or train_agent.py)")
    if type(meta.get("format")) is not int or meta["format"] != FORMAT:
        raise InputError(
            f"{folder / CONFIG} has format {meta.get('format')!r}, this version reads {FORMAT}: train again"
        )
    missing = [key for key in ("model", "world", "step") if key not in meta]
    if missing:
        raise InputError(f"{folder / CONFIG} lacks {', '.join(missing)}: copy or train the checkpoint again")
    for key, kind in (("model", dict), ("world", dict), ("step", int)):
        if type(meta[key]) is not kind or (key == "step" and meta[key] < 0):
            what = "a number of steps" if kind is int else "an object"
            raise InputError(f"{folder / CONFIG}: {key} is {meta[key]!r:.60}, not {what}: copy the checkpoint again")
    try:
        config = WorldModelConfig.from_dict(meta["model"])
        with torch.device("meta"):  # a few bytes of config could ask for any amount of memory
            outline = WorldModel(config)
    except MissingExtraError:
        raise
    except Exception as error:  # of whatever an autoencoder is built from by `diffusers`
        raise InputError(f"{folder / CONFIG} describes no world model of this version: {error}") from error
    try:
        tensors = load_file(folder / WEIGHTS)
    except FileNotFoundError as error:
        raise InputError(f"{folder} has no {WEIGHTS}: the checkpoint is not complete, copy the whole folder") from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"{folder / WEIGHTS} cannot be read ({error}): copy or train the checkpoint again") from error
    check_weights(outline, tensors, folder / WEIGHTS)
    model = WorldModel(config)
    model.load_state_dict(tensors)
    return Checkpoint(model.eval().to(device), meta["world"], meta["step"], folder)


def load_weights(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], source: Path) -> None:
    """Load weights that must fit exactly; name the first entry that does not."""
    check_weights(module, tensors, source)
    module.load_state_dict(tensors)


def check_weights(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], source: Path) -> None:
    """Raise an `InputError` that names the first entry in which `tensors` are not those of `module`."""
    own = module.state_dict()
    for name in sorted(set(own) | set(tensors)):
        have = tuple(tensors[name].shape) if name in tensors else "nothing"
        want = tuple(own[name].shape) if name in own else "nothing"
        if have != want:
            raise InputError(
                f"{source} does not fit this config: {name} is {have} in the file and {want} in the model; "
                "use the config.json that was saved with it"
            )


def read_state(path: Path, device: torch.device, *keys: str) -> dict[str, Any]:
    """A dictionary of tensors and plain values written by `torch.save`, read without running any of its code.

    Raises InputError, naming the file, for anything else and where one of `keys` is missing.
    """
    with taking_up(path):
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        if not isinstance(state, dict) or not state.keys() >= set(keys):
            raise ValueError(f"it does not hold {', '.join(keys)}")
    return state


@contextmanager
def taking_up(path: Path) -> Iterator[None]:
    """Whatever fails inside, where the content of `path` is read and used, is an `InputError` that names it.

    A byte changed anywhere in a file of `torch.save` comes to light as an error of almost any kind.
    """
    try:
        yield
    except (InputError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}: {one_line(error)}): it is damaged or of another version; "
            "delete it to start this part again"
        ) from error


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object, or an `InputError` that says what should have been there."""
    try:
        value = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path} does not exist: {path.parent} is not {what}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}): {path.parent} is not {what}") from error
    except (ValueError, RecursionError) as error:  # also of numbers too long, and of too many brackets
        raise InputError(f"{path} is not valid JSON ({error}): {path.parent} is not {what}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object: {path.parent} is not {what}")
    return value


def device_of(name: str) -> torch.device:
    """The device of that name; `InputError` where there is none."""
    try:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device {name}: use cpu, cuda or auto") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {name}: use cpu, cuda or auto")
    use_policy()
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"--device {name}: this machine has no such CUDA device that torch can use, use cpu")
    return device
