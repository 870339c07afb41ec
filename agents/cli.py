"""What the scripts share: where defaults come from, runs that begin or go on, errors as one line, signals that save."""

from __future__ import annotations

import dataclasses
import shlex
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import tyro

from agents.presets import preset
from agents.run import write_json
from agents.settings import LearnSettings, LoopSettings, ModelOptions, WorldSettings, from_json, to_json
from envs.contexts import contexts_folder
from envs.factory import EnvConfig
from worldmodel.checkpoint import CONFIG, load_checkpoint, read_json
from worldmodel.errors import InputError, MissingExtraError
from worldmodel.training import MAY_CHANGE, check_same

SETTINGS, COMMANDS = "settings.json", "commands.txt"

SHORTCUT = 4
"""Finest steps of what is distilled from a plain model, unless told otherwise."""


@dataclasses.dataclass(frozen=True)
class ScriptOptions:
    """What both scripts are told besides their settings."""

    out: Path = Path("runs/new")
    """Folder of the run."""
    preset: str = "default"
    """Where the defaults of all other options come from: default, demo, smoke, memory-maze, treechop, or a
    size of world model: tiny, small, base, paper. Those made for MiniGrid (demo, smoke, tiny) take the actions and
    frames of another world when --env names one."""
    resume: bool = False
    """Continue the run in --out where it stopped, or start it if there is none yet. Its settings are the defaults and
    have to stay; only --rounds may grow and --curriculum go on, and options that do not change what is computed may
    change."""
    progress: bool = True
    """Show progress bars."""


@dataclasses.dataclass(frozen=True)
class LoopOptions(ScriptOptions, LoopSettings):
    """Record a real world, learn it, train a policy in its dreams, and judge the policy for real."""

    out: Path = Path("runs/agent")
    """Folder of the run: episodes, world model, policy, curves and RUN/report/index.html."""


@dataclasses.dataclass(frozen=True)
class LearnOptions(ScriptOptions, LearnSettings):
    """Record a real world and train a world model on it, or train on episodes that are there already."""

    out: Path = Path("runs/world")
    """Folder of the run: episodes, world model and curves."""


OptionsT = TypeVar("OptionsT", LoopOptions, LearnOptions)


def parse(kind: type[OptionsT], args: list[str] | None = None) -> OptionsT:
    """Read the command line. Nothing is written: `begin` does.

    Defaults come from the preset, or with `--resume` from the run in `--out`. A run that exists needs `--resume` and
    keeps its settings; anything else is an `InputError`.
    """
    args = sys.argv[1:] if args is None else args
    path = Path(_value(args, "--out") or kind.out) / SETTINGS
    saved = from_json(kind, read_json(path, "a run"), path) if "--resume" in args and path.exists() else None
    parsed = tyro.cli(kind, args=args, default=saved or _defaults(kind, args))
    parsed = dataclasses.replace(parsed, **_resolved(parsed))
    if parsed.out.exists() and not parsed.out.is_dir():
        raise InputError(f"--out {parsed.out} is a file: name a folder")
    if saved is not None:
        _check_resumed(path, saved, parsed)
    elif path.exists():
        raise InputError(f"{parsed.out} holds a run already: add --resume to continue it, or choose another --out")
    return parsed


def begin(options: LoopOptions | LearnOptions) -> str:
    """Note the settings and the command in the run's folder; returns all its commands so far, one per line."""
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / SETTINGS, to_json(options))
    with (options.out / COMMANDS).open("a") as file:
        file.write(shlex.join(["python", *sys.argv]) + "\n")
    return (options.out / COMMANDS).read_text().strip()


def main_with(main: Callable[[], None]) -> None:
    """Run a script: SIGTERM saves as Ctrl-C does, and bad input is one line on standard error, exit status 2."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        main()
    except (InputError, MissingExtraError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; everything so far is saved: add --resume to continue", file=sys.stderr)
        sys.exit(130)


def _defaults(kind: type[OptionsT], args: list[str]) -> OptionsT:
    name, env = _value(args, "--preset") or kind.preset, _value(args, "--env")
    settings = preset(name, None if env == "None" else env)
    shared = {f.name for f in dataclasses.fields(kind)} & {f.name for f in dataclasses.fields(LoopSettings)}
    values = {key: getattr(settings, key) for key in shared}
    if kind is LoopOptions and (checkpoint := _value(args, "--world-model")):
        values |= _world_of(Path(checkpoint))
    if kind is LearnOptions and _value(args, "--episodes"):
        values |= {"env": None, "size": None, "actions": None}
    if kind is LearnOptions and (checkpoint := _value(args, "--distill")):
        given = _value(args, "--env") or _value(args, "--episodes")
        values |= _distilled(Path(checkpoint), its_episodes=given is None)
    return kind(**values, preset=name)


def _world_of(checkpoint: Path) -> Mapping[str, Any]:
    """The environment that a checkpoint names, as settings."""
    meta = read_json(checkpoint / CONFIG, "a world model checkpoint (made by train_wm.py or train_agent.py)")
    env = meta.get("world", {}).get("env")
    if env is None:
        return {"env": None, "size": None, "actions": None}
    config = dataclasses.asdict(EnvConfig.from_dict(env))
    return {"env": config.pop("id"), "env_options": config.pop("options"), **config}


def _distilled(folder: Path, *, its_episodes: bool) -> Mapping[str, Any]:
    """The model and the world of a checkpoint, and if wanted its episodes, as settings."""
    checkpoint = load_checkpoint(folder)
    config = checkpoint.model.config
    values = dict(_world_of(folder))
    if its_episodes:
        try:
            values["episodes"] = contexts_folder(checkpoint)
        except InputError as error:
            raise InputError(
                f"--distill {folder}: the episodes that it was trained on are not there; name some with --episodes "
                "FOLDER, or record new ones with --env ID"
            ) from error
    values["model"] = ModelOptions.from_dict({**config.to_dict(), "shortcut": config.shortcut or SHORTCUT})
    values["pose"] = tuple(checkpoint.world.get("pose", ()))
    values["tell_actions"] = config.num_actions + config.action_size > 0
    return values


def _check_resumed(path: Path, saved: WorldSettings, wanted: WorldSettings) -> None:
    before, now = _flat(to_json(saved)), _flat(to_json(wanted))
    may_change = MAY_CHANGE
    stages = sorted((saved.training.stages, wanted.training.stages), key=lambda one: len(one.stages))
    if stages[0].begins(stages[1]):  # whether the training has come too far for that, it knows itself
        may_change += ("curriculum",)
    check_same(path, before, now, but=("rounds", *(f"training.{name}" for name in may_change)))
    if now.get("rounds", 0) < before.get("rounds", 0):
        raise InputError(
            f"{path} asks for {before['rounds']} rounds, --rounds {now['rounds']} is less: it may only grow"
        )


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings under dotted names, as their options are called."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, Mapping) else {name: value}
    return flat


def _resolved(options: LoopOptions | LearnOptions) -> dict[str, Any]:
    """Folders that are read, wherever a resumed run is started from."""
    paths = {name: getattr(options, name, None) for name in ("world_model", "contexts", "episodes", "distill")}
    return {name: path.resolve() for name, path in paths.items() if path is not None}


def _value(args: list[str], flag: str) -> str | None:
    for i, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name.replace("_", "-") == flag:
            return value if equals else args[i + 1] if i + 1 < len(args) else None
    return None
