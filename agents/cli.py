"""What the scripts share: presets and resumed settings as defaults, errors as one line, signals that save."""

from __future__ import annotations

import dataclasses
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import tyro

from agents.loop import open_run, saved_settings
from agents.settings import PRESETS, LoopSettings, WorldSettings
from worldmodel.errors import InputError, MissingExtraError

OptionsT = TypeVar("OptionsT", bound=WorldSettings)


def parse(options: type[OptionsT], args: list[str] | None = None) -> OptionsT:
    """Read the command line into `options`, a settings dataclass with `out`, `preset` and `resume`.

    Defaults come from `--preset`, or with `--resume` from the run in `--out`. The run's folder is opened: a new run
    notes its settings there, a resumed one must keep them.
    """
    args = sys.argv[1:] if args is None else args
    preset, out = _value(args, "--preset", "default"), Path(_value(args, "--out", str(_default(options, "out"))))
    resume = "--resume" in args
    if preset not in PRESETS:
        raise InputError(f"unknown preset '{preset}': choose one of {', '.join(PRESETS)}")
    base: LoopSettings | None = saved_settings(out) if resume else None
    if base is None:
        base = PRESETS[preset]
    shared = {f.name: getattr(base, f.name) for f in dataclasses.fields(base) if f.name in _names(options)}
    parsed = tyro.cli(options, args=args, default=options(**shared, preset=preset))  # type: ignore[call-arg]
    own = {f.name for f in dataclasses.fields(LoopSettings)}
    chosen = {name: getattr(parsed, name) for name in _names(options) & own}
    open_run(parsed.out, dataclasses.replace(base, **chosen), resume=resume)  # type: ignore[attr-defined]
    return parsed


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


def _value(args: list[str], flag: str, default: str) -> str:
    for i, arg in enumerate(args):
        if arg == flag and i + 1 < len(args):
            return args[i + 1]
        if arg.startswith(f"{flag}="):
            return arg.split("=", 1)[1]
    return default


def _names(options: type[Any]) -> set[str]:
    return {f.name for f in dataclasses.fields(options)}


def _default(options: type[Any], name: str) -> Any:
    return next(f.default for f in dataclasses.fields(options) if f.name == name)
