"""A run, finished or not, made a folder that dreams anywhere: weights, contexts, policy, card and page."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lssvwm import __version__
from lssvwm.worldmodel.checkpoint import Checkpoint, load_checkpoint, read_json, save_checkpoint
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.episodes.packed import CONTEXTS, PackConfig, pack
from lssvwm.worldmodel.worlds.card import CARD, FORMAT, PAGE, page
from lssvwm.worldmodel.worlds.policy import POLICY, pack_policy
from lssvwm.worldmodel.worlds.scores import ScoreConfig, score

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}")


@dataclass(frozen=True)
class Packing:
    """What a packed world is told besides what its run knows."""

    held_out: Path | None = None
    """Folder of episodes that it was not trained on, to judge it by; without, the card says that it was not judged."""
    about: str = "A world model of lssvwm."
    """What it is, in a sentence or two."""
    machine: str | None = None
    """Where it was trained; by default this machine."""
    seconds: float | None = None
    """How long the run took; by default its clocks, which know nothing of a stage that is being done."""
    licence: str = "mit"
    """Licence of the weights, by its name on the hub."""
    data_licence: str = "recorded by the run itself, under the licence of the package"
    """Licence of the episodes that it was trained on, and of its contexts."""
    contexts: PackConfig = field(default_factory=PackConfig)
    """What travels of its episodes."""
    scores: ScoreConfig = field(default_factory=ScoreConfig)
    """How it is judged."""


def pack_world(run: Path, name: str, out: Path, told: Packing | None = None) -> Path:
    """Write the world of `run` as the folder `out`/`name`, which must not be there yet, and return it.

    `run` is a run of train_wm.py or train_agent.py, or the checkpoint folder alone. One that was interrupted, or still
    goes on, is packed as its newest checkpoint is. Nothing is left where packing fails.
    """
    told = told or Packing()
    if not NAME.fullmatch(name):
        raise InputError(f"name {name!r}: use up to 96 of a-z, 0-9, '.', '_' and '-', a letter or digit first")
    if (out / name).exists():
        raise InputError(f"{out / name} is there already: delete it, or choose another name")
    if not run.is_dir():
        raise InputError(f"there is no run {run}: name the --out of train_wm.py or train_agent.py")
    loaded = load_checkpoint(_world_model(run))
    store = _episodes(loaded)
    if told.held_out is not None and store is not None and told.held_out.resolve() == store.root:
        raise InputError(f"--held-out {told.held_out} holds what it was trained on: record others, with another --seed")
    out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=out))
    try:
        fill(folder, name, run, loaded, store, told)
        folder.chmod(0o755)
        os.rename(folder, out / name)
    except BaseException:
        shutil.rmtree(folder)
        raise
    return out / name


def name_of(repo: str) -> str:
    """The name of a world for a repository OWNER/NAME."""
    return repo.partition("/")[2].lower()


def fill(folder: Path, name: str, run: Path, loaded: Checkpoint, store: EpisodeStore | None, told: Packing) -> None:
    """Write everything into the empty `folder`."""
    world = {key: value for key, value in loaded.world.items() if key != "episodes"}
    save_checkpoint(folder, loaded.model, world=world, step=loaded.step)
    if store is not None:
        pack(folder / CONTEXTS, store, told.contexts)
    elif (loaded.path / CONTEXTS).is_file():
        shutil.copyfile(loaded.path / CONTEXTS, folder / CONTEXTS)
    else:
        raise InputError(f"{loaded.path} has no {CONTEXTS}, and its episodes are not there: copy the whole run")
    policy = None
    if pack_policy(run / "policy", folder / POLICY):
        policy = _judged(run)
    elif (loaded.path / POLICY).is_file():
        shutil.copyfile(loaded.path / POLICY, folder / POLICY)
        policy = _judged(run)
    card = {
        "format": FORMAT,
        "name": name,
        "about": told.about,
        "env": world.get("env"),
        "data": {
            "episodes": None if store is None else len(store),
            "frames": None if store is None else store.frames,
            "licence": told.data_licence,
        },
        "licence": told.licence,
        "steps": loaded.step,
        "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
        "seconds": _seconds(run) if told.seconds is None else told.seconds,
        "machine": told.machine or this_machine(),
        "command": _command(run),
        "scores": None if told.held_out is None else score(folder, told.held_out, told.scores),
        "policy": policy,
        "version": __version__,
    }
    (folder / CARD).write_text(json.dumps(card, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
    (folder / PAGE).write_text(page(card))
    for path in folder.iterdir():
        path.chmod(0o644)  # a temporary file is its owner's alone


def this_machine() -> str:
    """Processor, threads and GPU."""
    described = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    found = f"{described[0] if described else platform.machine()}, {torch.get_num_threads()} threads"
    return f"{torch.cuda.get_device_name()}, {found}" if torch.cuda.is_available() else found


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def _world_model(run: Path) -> Path:
    """The checkpoint of a run: its own, or the one that it was given; else the folder itself."""
    if (run / "world_model").is_dir():
        return run / "world_model"
    settings = run / "settings.json"
    given = read_json(settings, "a run").get("world_model") if settings.is_file() else None
    return run if given is None else Path(given)


def _episodes(loaded: Checkpoint) -> EpisodeStore | None:
    """What it was trained on, where that is there."""
    folder = loaded.episodes
    return EpisodeStore(folder, told=loaded.model.config.told) if folder is not None and folder.is_dir() else None


def _seconds(run: Path) -> float | None:
    path = run / "clocks.json"
    return sum(read_json(path, "a run").values()) if path.is_file() else None


def _command(run: Path) -> str:
    """The commands of the run, with RUN for its folder, which means nothing elsewhere."""
    path = run / "commands.txt"
    lines = path.read_text().splitlines() if path.is_file() else []
    commands = []
    for line in lines:
        words = shlex.split(line)
        for i, word in enumerate(words):
            if word == "--out" and i + 1 < len(words):
                words[i + 1] = "RUN"
            elif word.startswith("--out="):
                words[i] = "--out=RUN"
        commands.append(shlex.join(words))
    return "\n".join(dict.fromkeys(commands)) or "not known"


def _judged(run: Path) -> dict[str, Any]:
    """What the last evaluation of the policy in the real environment came to."""
    stages = (run / "stages").glob("*-evaluation.json")
    last = max(stages, key=lambda path: int(path.name.partition("-")[0]), default=None)
    if last is None:
        return {"return": None, "success_rate": None, "episodes": None}
    figures = read_json(last, "the stages of a run")
    returns = figures["return"]
    return {"return": returns["mean"], "success_rate": figures.get("success_rate"), "episodes": returns["count"]}
