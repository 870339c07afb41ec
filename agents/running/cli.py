"""What the scripts share: where defaults come from, runs that begin or go on."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar, NoReturn, TypeVar, get_type_hints

import tyro

from lssvwm.agents.running.presets import preset
from lssvwm.agents.running.run import CLOCKS
from lssvwm.agents.running.settings import LearnSettings, LoopSettings, ModelOptions, WorldSettings
from lssvwm.agents.running.settings_file import from_json, overlaid, read_config, to_json
from lssvwm.agents.running.trackers import flat
from lssvwm.envs.contexts import episodes_folder
from lssvwm.envs.factory import EnvConfig, check_programs, trusted
from lssvwm.worldmodel.checkpoint import CONFIG, load_checkpoint, read_json
from lssvwm.worldmodel.common.atomic import write_json
from lssvwm.worldmodel.common.command_line import typed
from lssvwm.worldmodel.common.errors import InputError, MissingExtraError
from lssvwm.worldmodel.episodes.files import sweep
from lssvwm.worldmodel.training import MAY_CHANGE, check_same
from lssvwm.worldmodel.worlds import resolve

WORK = ("episodes", "demonstrations", "world_model", "policy", "stages")
"""What a run leaves in its folder as soon as some of its work is done."""
SETTINGS, COMMANDS = "settings.json", "commands.txt"

HELP_ALL = "--help-all"
"""The flag that lists every option."""

SHORTCUT = 4
"""Finest steps of what is distilled from a plain model, unless told otherwise."""


@dataclasses.dataclass(frozen=True)
class ScriptOptions:
    """What both scripts are told besides their settings."""

    out: Path = Path("runs/new")
    """Folder of the run."""
    preset: str = "default"
    """Where the defaults of all other options come from: default, minigrid, demo, smoke, memory-maze, treechop, or
    a size of world model: tiny, small, base, paper. Those made for MiniGrid (minigrid, demo, smoke, tiny) take the
    actions and frames of another world when --env names one."""
    config: Path | None = None
    """YAML or JSON file with values for other options, as a run's settings.json has them: they replace the preset's,
    and the command line replaces them."""
    resume: bool = False
    """Continue the run in --out where it stopped, or start it if there is none yet. Its settings are the defaults and
    have to stay; only --rounds may grow, --curriculum go on, and what does not change what is computed, as --log, be
    another."""
    progress: bool = True
    """Show progress bars."""


@dataclasses.dataclass(frozen=True)
class LoopOptions(LoopSettings, ScriptOptions):
    """Record a real world, learn it, train a policy in its dreams, and judge the policy for real."""

    FIRST: ClassVar[tuple[str, ...]] = (
        *("preset", "config", "env", "out", "resume", "algo", "place", "rounds", "collect_episodes", "world_steps"),
        *("dreams", "eval_episodes", "world_model", "seed", "log"),
    )
    """Options that a newcomer needs: --help shows no others."""
    out: Path = Path("runs/agent")
    """Folder of the run: episodes, world model, policy, curves and RUN/report/index.html."""


@dataclasses.dataclass(frozen=True)
class LearnOptions(LearnSettings, ScriptOptions):
    """Record a real world and train a world model on it, or train on episodes that are there already."""

    FIRST: ClassVar[tuple[str, ...]] = (
        *("preset", "config", "env", "out", "resume", "episodes", "size", "collector", "collect_episodes"),
        *("world_steps", "distill", "seed", "log"),
    )
    """Options that a newcomer needs: --help shows no others."""
    out: Path = Path("runs/world")
    """Folder of the run: episodes, world model and curves."""


OptionsT = TypeVar("OptionsT", LoopOptions, LearnOptions)


def parse(kind: type[OptionsT], args: Sequence[str] | None = None) -> OptionsT:
    """Read the command line. Nothing is written: `claimed` does.

    Defaults come from `--config`, and what it does not say from the preset, or with `--resume` from the run in `--out`.
    A run that exists needs `--resume` and keeps its settings; anything else is an `InputError`.
    """
    args = sys.argv[1:] if args is None else list(args)
    path = Path(_value(args, "--out") or kind.out) / SETTINGS
    saved = from_json(kind, read_json(path, "a run"), path) if "--resume" in args and path.exists() else None
    file = _value(args, "--config")
    given = {} if file is None else read_config(Path(file))
    default = saved or _defaults(kind, args, given)
    if file is not None:
        default = overlaid(default, given, Path(file))
    if HELP_ALL in args:
        args = ["--help"]
    elif "-h" in args or "--help" in args:
        _print_help(kind, kind.FIRST, default)
    parsed = tyro.cli(kind, args=args, default=default)
    parsed = dataclasses.replace(parsed, **_resolved(parsed))
    if parsed.out.exists() and not parsed.out.is_dir():
        raise InputError(f"--out {parsed.out} is a file: name a folder")
    if saved is not None:
        _check_resumed(path, saved, parsed)
    elif path.exists():
        raise InputError(f"{parsed.out} holds a run already: add --resume to continue it, or choose another --out")
    elif found := [part for part in WORK if (parsed.out / part).exists()]:
        raise InputError(f"{parsed.out} holds {found[0]} of something else: choose another --out")
    return parsed


@contextmanager
def claimed(options: LoopOptions | LearnOptions) -> Iterator[str]:
    """The run's folder, with the settings and the command noted there; gives all its commands so far, one per line.

    It is given back if what is inside finds fault with the options of a new run before there is anything to keep.
    """
    out, new = options.out, not (options.out / SETTINGS).exists()
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / SETTINGS, to_json(options))
    with (out / COMMANDS).open("a") as file:
        file.write(typed() + "\n")
    for folder in (out / "world_model", out / "policy"):
        if folder.is_dir():
            sweep(folder)  # of a process that was killed while it saved
    try:
        yield (out / COMMANDS).read_text().strip()
    except (InputError, MissingExtraError):
        if new and not any((out / part).exists() for part in WORK):
            for name in (SETTINGS, COMMANDS, CLOCKS):
                (out / name).unlink(missing_ok=True)
        raise


def _print_help(kind: type[Any], first: Sequence[str], default: Any) -> NoReturn:
    """Print the help of `kind`, of its fields only those in `first`, with the values of `default`; exit."""
    hints = get_type_hints(kind, include_extras=True)
    rest = [field for field in dataclasses.fields(kind) if field.name not in first]
    parts = [f.name for f in rest if dataclasses.is_dataclass(getattr(default, f.name))]
    hidden = [(f.name, Annotated[hints[f.name], tyro.conf.Suppress], dataclasses.field(default=None)) for f in rest]
    short = dataclasses.make_dataclass(kind.__name__, hidden, bases=(kind,), frozen=True)
    values = {field.name: getattr(default, field.name) for field in dataclasses.fields(kind)}
    groups = ", ".join(f"--{part}.*" for part in parts)
    said = f"{kind.__doc__}\n\nThese are the first options. {HELP_ALL} lists all, in groups: {groups}."
    tyro.cli(short, args=["--help"], default=short(**values), description=said)
    raise AssertionError("tyro exits after its help")


def _defaults(kind: type[OptionsT], args: list[str], given: Mapping[str, Any]) -> OptionsT:
    """Those of the preset, and of the checkpoint or the episodes that `args` or else `given` name."""

    def asked(option: str) -> str | None:
        value = _value(args, f"--{option.replace('_', '-')}") or given.get(option)
        return None if value in (None, "None") else str(value)

    name, env = asked("preset") or kind.preset, asked("env")
    named = env or _value(args, "--env")  # or "None": no environment
    settings = preset(name, env)
    shared = {f.name for f in dataclasses.fields(kind)} & {f.name for f in dataclasses.fields(LoopSettings)}
    values = {key: getattr(settings, key) for key in shared}
    if kind is LoopOptions and (checkpoint := asked("world_model")):
        values |= _world_of(checkpoint, named)
    if kind is LearnOptions and asked("episodes"):
        values |= {"env": None, "size": None, "actions": None}
    if kind is LearnOptions and (checkpoint := asked("distill")):
        values |= _distilled(checkpoint, named, its_episodes=asked("episodes") is None)
    return kind(**values, preset=name)


def _world_of(checkpoint: str | Path, asked: str | None) -> Mapping[str, Any]:
    """The environment that a checkpoint names, as settings. Makes us import no module but that of one `asked` for."""
    meta = read_json(resolve(checkpoint) / CONFIG, "a world model checkpoint (made by train_wm.py or train_agent.py)")
    env = meta.get("world", {}).get("env")
    if env is None:
        return {"env": None, "size": None, "actions": None}
    named = EnvConfig.from_dict(env)
    (trusted if asked is None else check_programs)(named, str(checkpoint))
    config = dataclasses.asdict(named)
    return {"env": config.pop("id"), "env_options": config.pop("options"), **config}


def _distilled(folder: str, env: str | None, *, its_episodes: bool) -> Mapping[str, Any]:
    """The model and the world of a checkpoint, and if wanted its episodes unless `env` is another, as settings."""
    checkpoint = load_checkpoint(folder)
    config = checkpoint.model.config
    values = dict(_world_of(folder, env))
    if its_episodes and env in (None, values["env"]):
        try:
            values["episodes"] = episodes_folder(checkpoint)
        except InputError as error:
            raise InputError(
                f"--distill {folder}: the episodes that it was trained on are not there; name some with --episodes "
                "FOLDER, or record new ones with --env ID"
            ) from error
    values["model"] = ModelOptions.from_dict({**config.to_dict(), "shortcut": config.shortcut or SHORTCUT})
    values["pose"] = tuple(checkpoint.world.get("pose", ()))
    values["tell"] = tuple(part.key for part in config.told)
    values["tell_actions"] = config.num_actions + config.action_size > 0
    return values


def _check_resumed(path: Path, saved: WorldSettings, wanted: WorldSettings) -> None:
    before, now = flat(to_json(saved)), flat(to_json(wanted))
    may_change = MAY_CHANGE
    stages = sorted((saved.training.stages, wanted.training.stages), key=lambda one: len(one.stages))
    if stages[0].begins(stages[1]):  # whether the training has come too far for that, it knows itself
        may_change += ("curriculum",)
    try:
        check_same(path, before, now, but=("rounds", "log", *(f"training.{name}" for name in may_change)))
    except InputError as error:
        model = path.parent / "world_model"
        if "dreams" in now and model.is_dir():
            raise InputError(f"{error}; another policy in the same world: --world-model {model} --out NEW") from None
        raise
    if now.get("rounds", 0) < before.get("rounds", 0):
        raise InputError(
            f"{path} asks for {before['rounds']} rounds, --rounds {now['rounds']} is less: it may only grow"
        )


def _resolved(options: LoopOptions | LearnOptions) -> dict[str, Any]:
    """Folders that are read, wherever a resumed run is started from."""
    paths = {name: getattr(options, name, None) for name in ("contexts", "episodes")}
    paths |= {name: resolve(path) for name in ("world_model", "distill") if (path := getattr(options, name, None))}
    return {name: path.resolve() for name, path in paths.items() if path is not None}


def _value(args: list[str], flag: str) -> str | None:
    for i, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name.replace("_", "-") == flag:
            return value if equals else args[i + 1] if i + 1 < len(args) else None
    return None
