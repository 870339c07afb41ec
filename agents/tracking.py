"""Where a run is logged: TensorBoard, Weights & Biases, or both at once (`--log`)."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from worldmodel.atomic import write_json
from worldmodel.checkpoint import read_json
from worldmodel.errors import InputError, require
from worldmodel.loggers import Logger, TensorBoardLogger
from worldmodel.video import Pixels, encode_gif

Log = Literal["tensorboard", "wandb"]


class Tracker(Protocol):
    """Keeps what all parts of a run log."""

    def part(self, name: str, step: int) -> Logger:
        """The logger of one part, which goes on after `step`."""
        ...

    def close(self) -> None:
        """The process ends, or the run."""
        ...


class TensorBoard:
    """A folder of event files for each part: RUN/tensorboard/PART."""

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.folder = out / "tensorboard"

    def part(self, name: str, step: int) -> TensorBoardLogger:
        """Its folder."""
        return TensorBoardLogger(self.folder / name, step)

    def close(self) -> None:
        """Each part has closed its files."""


class Wandb:
    """One run of Weights & Biases. RUN/wandb.json keeps its id, so that a run that is resumed goes on there.

    Each part has a step of its own, `steps/PART`: world models, policies and evaluations count different things. What
    a process that was killed logged after its last checkpoint is logged again, with the same steps and values.

    Raises InputError where wandb cannot start, as without a login: WANDB_MODE=offline needs neither login nor network.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        wandb = require("wandb", "wandb", "Logs to Weights & Biases (--log wandb)")
        self.wandb, kept = wandb, out / "wandb.json"
        known = read_json(kept, "a run") if kept.exists() else {}
        out.mkdir(parents=True, exist_ok=True)
        try:
            self.run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "lssvwm"),
                name=out.resolve().name,
                id=known.get("id"),
                resume="allow",
                dir=str(out),
                config=dict(settings),
                settings=wandb.Settings(console="off", disable_git=True, disable_code=True),
            )
        except wandb.errors.Error as error:
            said = " ".join(str(error).split())
            raise InputError(f"--log wandb: {said:.200}; use `wandb login`, or set WANDB_MODE=offline") from error
        if not known:
            write_json(kept, {"id": self.run.id, "project": self.run.project})

    def part(self, name: str, step: int) -> WandbLogger:
        """Curves of this part are drawn over steps of its own."""
        return WandbLogger(self.wandb, self.run, name)

    def close(self) -> None:
        """Send what is left, or write it to the end."""
        self.run.finish()


class WandbLogger:
    """The points of a step are sent together, when the next step begins."""

    def __init__(self, wandb: Any, run: Any, part: str) -> None:
        self.wandb, self.run, self.step_name = wandb, run, f"steps/{part}"
        self.groups: set[str] = set()
        self.pending: dict[str, Any] = {}

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """One point of a curve."""
        self._add(tag, float(scalar_value), global_step)

    def add_clip(self, tag: str, frames: Pixels, step: int) -> None:
        """A moving image."""
        self._add(tag, self.wandb.Video(io.BytesIO(encode_gif(frames)), format="gif"), step)

    def close(self) -> None:
        """Send what is pending; the run stays open for the other parts."""
        if self.pending:
            self.run.log(self.pending)
        self.pending = {}

    def _add(self, tag: str, value: Any, step: int) -> None:
        group = tag.split("/")[0]
        if group not in self.groups:
            self.groups.add(group)
            self.run.define_metric(f"{group}/*", step_metric=self.step_name)
        if self.pending.get(self.step_name) != step:
            self.close()
        self.pending |= {self.step_name: step, tag: value}


TRACKERS: Mapping[Log, Callable[[Path, Mapping[str, Any]], Tracker]] = {"tensorboard": TensorBoard, "wandb": Wandb}


class Several:
    """All loggers of a part as one."""

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self.loggers = loggers

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """To all of them."""
        for logger in self.loggers:
            logger.add_scalar(tag, scalar_value, global_step)

    def add_clip(self, tag: str, frames: Pixels, step: int) -> None:
        """To all of them."""
        for logger in self.loggers:
            logger.add_clip(tag, frames, step)

    def close(self) -> None:
        """All of them."""
        for logger in self.loggers:
            logger.close()


class Tracking:
    """The trackers of a run, opened when the first part begins, or by `open`."""

    def __init__(self, out: Path, names: Sequence[Log], settings: Callable[[], Mapping[str, Any]]) -> None:
        self.out, self.names, self.settings = out, names, settings
        self.trackers: list[Tracker] = []
        if unknown := [name for name in names if name not in TRACKERS]:
            raise InputError(f"--log {unknown[0]}: choose of {', '.join(TRACKERS)}")
        if "wandb" in names:
            require("wandb", "wandb", "Logs to Weights & Biases (--log wandb)")

    @contextmanager
    def open(self) -> Iterator[None]:
        """All trackers now, so that one that cannot be opened is known before any work; closed at the end."""
        self._begin()
        try:
            yield
        finally:
            for tracker in self.trackers:
                tracker.close()
            self.trackers = []

    @contextmanager
    def part(self, name: str, step: int) -> Iterator[Logger]:
        """Where one part of the run logs, going on after `step`."""
        self._begin()
        several = Several([tracker.part(name, step) for tracker in self.trackers])
        try:
            yield several
        finally:
            several.close()

    def _begin(self) -> None:
        if not self.trackers:
            self.trackers = [TRACKERS[name](self.out, self.settings()) for name in dict.fromkeys(self.names)]
