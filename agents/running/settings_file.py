"""Settings of a run as files: the `settings.json` that a run keeps, and the YAML or JSON that people write."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from lssvwm.agents.running.settings import ModelOptions, WorldSettings
from lssvwm.worldmodel.common.errors import InputError, check_value, one_line

T = TypeVar("T")
SettingsT = TypeVar("SettingsT", bound=WorldSettings)

UNSAVED = {"out", "config", "resume", "progress"}
"""What a script is told besides and that does not change what a run is."""
DERIVED = {
    "model": ("height", "width", "num_actions", "action_size", "action_parts", "pose_size", "told", "architecture"),
    "training": ("seed", "steps"),
    "cloning": ("seed", "hidden", "layers"),
    **dict.fromkeys(("dreamer", "ppo", "sb3"), ("seed",)),
}
"""What follows from the environment, from the run's seed and from the dreamer's networks."""


def to_json(settings: WorldSettings) -> dict[str, Any]:
    """The settings as JSON has them: paths as text, tuples as lists."""
    kept = {name: value for name, value in dataclasses.asdict(settings).items() if name not in UNSAVED}
    values: dict[str, Any] = json.loads(json.dumps(kept, default=str))
    for part in DERIVED.keys() & values.keys():
        values[part] = {name: value for name, value in values[part].items() if name not in DERIVED[part]}
    return values


def from_json(kind: type[SettingsT], values: Mapping[str, Any], source: Path) -> SettingsT:
    """Inverse of `to_json`. Unknown keys are an `InputError`: another script or version wrote `source`."""
    if not isinstance(values, Mapping):
        raise InputError(f"{source} holds no settings: choose another --out")
    hints = get_type_hints(kind)

    def read(key: str, value: Any) -> Any:
        hint = hints.get(key)
        if value is None or hint is None:
            return value
        if hint is ModelOptions:
            return ModelOptions.from_dict(value)
        part = isinstance(hint, type) and dataclasses.is_dataclass(hint)
        return _filled(hint, value, source) if part else _plain(value, hint)

    return _filled(kind, {key: read(key, value) for key, value in values.items()}, source)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads 1e-3 as the number it is in YAML 1.2 and JSON, and does not let a key silently take another's place."""


_Loader.yaml_implicit_resolvers = {
    first: list(found) for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+"), list("-+.0123456789")
)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    if twice := [key for at, key in enumerate(keys) if key in keys[:at]]:
        raise yaml.constructor.ConstructorError(None, None, f"{twice[0]} is there twice", node.start_mark)
    read: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return read


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def read_config(path: Path) -> dict[str, Any]:
    """What a file says, keys as in `settings.json`. Only plain values are read, no objects are made.

    Raises InputError, naming the file and the line, for anything that is no mapping of names to values.
    """
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a SafeLoader
    except OSError as error:
        raise InputError(f"--config {path} cannot be read ({error.strerror}): name a YAML or JSON file") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"--config {path} is no YAML: {one_line(error)}; write lines of `name: value`") from error
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InputError(f"--config {path} holds no names with values: write lines of `name: value`")
    return value


def overlaid(base: T, given: Mapping[str, Any], file: Path, part: str = "") -> T:
    """`base` with the values that `file` gives; `part` is the dotted name of what is read.

    Raises InputError that names file and key for an unknown one, for one that is no setting, and for a wrong type.
    """
    settings: Any = base
    hints, derived = get_type_hints(type(base)), DERIVED.get(part.rstrip("."), ())
    names = [f.name for f in dataclasses.fields(settings) if f.name not in (*derived, *UNSAVED)]
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key not in names:
            raise InputError(f"{file}: {_unknown(part, key, names, derived)}")
        old = getattr(settings, key)
        if dataclasses.is_dataclass(old) and isinstance(value, Mapping):
            new: Any = overlaid(old, value, file, f"{part}{key}.")
        else:
            new = _plain(value, hints[key])
        try:
            check_value(f"{part}{key}", new, hints[key])
        except InputError as error:
            raise InputError(f"{file}: {error}") from error
        values[key] = new
    try:
        changed: T = dataclasses.replace(settings, **values)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    return changed


def _unknown(part: str, key: str, names: list[str], derived: tuple[str, ...]) -> str:
    if not part and key in UNSAVED:
        return f"{key} is no setting of a run: give --{key} on the command line"
    if key in derived:
        return f"{part}{key} follows from the rest of the run: leave it out"
    close = difflib.get_close_matches(str(key).replace("-", "_"), names, n=1, cutoff=0.5)
    meant = f"did you mean {part}{close[0]}?" if close else f"choose of {', '.join(part + name for name in names)}"
    return f"unknown key {part}{key}: {meant}"


def _plain(value: Any, hint: Any) -> Any:
    """Lists and text as the tuples and paths that are meant."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if isinstance(value, list) and any(get_origin(kind) is tuple for kind in kinds):
        return tuple(tuple(each) if isinstance(each, list) else each for each in value)
    return Path(value) if isinstance(value, str) and Path in kinds else value


def _filled(kind: type[T], values: Any, source: Path) -> T:
    if not isinstance(values, Mapping):
        raise InputError(f"{source} has {values!r:.80} for {kind.__name__}: choose another --out")
    known = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(one_line(key, None) for key in set(values) - known):
        raise InputError(
            f"{source} was written by another script or version (it has {', '.join(unknown)}): "
            "continue the run with that one, or choose another --out"
        )
    try:
        for name, wanted in get_type_hints(kind).items():
            if name in values:
                check_value(name, values[name], wanted)
        return kind(**values)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
