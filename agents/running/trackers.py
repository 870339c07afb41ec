"""What keeps the curves, videos and settings of a run: TensorBoard, Weights & Biases, Trackio, MLflow."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Protocol
from uuid import uuid4

from lssvwm.worldmodel.checkpoint import read_json
from lssvwm.worldmodel.common.atomic import write_json
from lssvwm.worldmodel.common.errors import InputError, one_line, require
from lssvwm.worldmodel.common.loggers import Logger, TensorBoardLogger
from lssvwm.worldmodel.reporting.video import Pixels, encode_gif

Log = Literal["tensorboard", "wandb", "trackio", "mlflow"]
Send = Callable[[int, Mapping[str, float | bytes]], None]
"""Takes the points of one step by tag, and videos as GIF."""

PURPOSES: Mapping[str, str] = {
    "wandb": "Logs to Weights & Biases (--log wandb)",
    "trackio": "Logs to Trackio (--log trackio)",
    "mlflow": "Logs to MLflow (--log mlflow)",
}
"""What the packages are for that extras of the same names bring."""
PROJECT = "lssvwm"
PARAM, PARAMS = 6000, 100
"""Of MLflow: characters of a parameter, and parameters of a call."""


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
        wandb = require("wandb", "wandb", PURPOSES["wandb"])
        self.wandb, kept = wandb, out / "wandb.json"
        known = read_json(kept, "a run") if kept.exists() else {}
        out.mkdir(parents=True, exist_ok=True)
        try:
            self.run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=out.resolve().name,
                id=known.get("id"),
                resume="allow",
                dir=str(out),
                config=dict(settings),
                settings=wandb.Settings(console="off", disable_git=True, disable_code=True),
            )
        except wandb.errors.Error as error:
            raise InputError(f"--log wandb: {one_line(error)}; use `wandb login`, or set WANDB_MODE=offline") from error
        if not known:
            write_json(kept, {"id": self.run.id, "project": self.run.project})

    def part(self, name: str, step: int) -> Grouped:
        """Curves of this part are drawn over steps of its own."""
        return Grouped(to_wandb(self.wandb, self.run, name))

    def close(self) -> None:
        """Send what is left, or write it to the end."""
        self.run.finish()


def to_wandb(wandb: Any, run: Any, part: str) -> Send:
    """Sends what a part logs to a run of wandb."""
    step_name, groups = f"steps/{part}", set[str]()

    def send(step: int, values: Mapping[str, float | bytes]) -> None:
        for group in (tag.split("/")[0] for tag in values):
            if group not in groups:
                groups.add(group)
                run.define_metric(f"{group}/*", step_metric=step_name)
        shown = {
            tag: _shown(value, lambda gif: wandb.Video(io.BytesIO(gif), format="gif")) for tag, value in values.items()
        }
        run.log({step_name: step, **shown})

    return send


class Trackio:
    """A run of the project `lssvwm` of Trackio, whose name RUN/trackio.json keeps: a run that is resumed goes on there.

    It is written where Trackio keeps its projects, in TRACKIO_DIR where that is set, and needs no network. Each part
    counts steps of its own; what a process that was killed logged after its last checkpoint is logged again.

    Raises InputError where Trackio cannot start, as with TRACKIO_SPACE_ID and no login.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.trackio, kept = require("trackio", "trackio", PURPOSES["trackio"]), out / "trackio.json"
        # Trackio finds a run by its name, and folders of several runs may have the same.
        known = read_json(kept, "a run") if kept.exists() else {"name": f"{out.resolve().name}-{uuid4().hex[:8]}"}
        out.mkdir(parents=True, exist_ok=True)
        try:
            with redirect_stdout(sys.stderr):
                self.run = self.trackio.init(
                    project=PROJECT, name=known["name"], resume="allow", config=dict(settings), embed=False
                )
        except (ValueError, OSError) as error:
            raise InputError(f"--log trackio: {one_line(error)}") from error
        write_json(kept, {"name": self.run.name, "project": PROJECT})

    def part(self, name: str, step: int) -> Grouped:
        """The tags of parts differ."""
        return Grouped(self.send)

    def send(self, step: int, values: Mapping[str, float | bytes]) -> None:
        """Videos are read from files, at once."""
        with TemporaryDirectory() as folder:

            def video(gif: bytes) -> Any:
                path = Path(folder) / f"{uuid4().hex}.gif"
                path.write_bytes(gif)
                return self.trackio.Video(path)

            self.run.log({tag: _shown(value, video) for tag, value in values.items()}, step=step)

    def close(self) -> None:
        """Write what is left."""
        with redirect_stdout(sys.stderr):
            self.run.finish()


class Mlflow:
    """A run of the experiment `lssvwm` of MLflow, whose id RUN/mlflow.json keeps: a run that is resumed goes on there.

    It is written to a database in RUN/mlflow, without a server, or to MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME
    where these are set. Each part counts steps of its own; what a process that was killed logged after its last
    checkpoint is logged again. Settings are its parameters and, as they were at the last start, its settings.json.

    Raises InputError where MLflow cannot start, or does not know the run that is to go on.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.mlflow, kept = require("mlflow", "mlflow", PURPOSES["mlflow"]), out / "mlflow.json"
        known = read_json(kept, "a run") if kept.exists() else None
        own = (out / "mlflow").resolve()
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            own.mkdir(parents=True, exist_ok=True)
        try:
            self.client = self.mlflow.MlflowClient(uri or f"sqlite:///{own / 'mlflow.db'}")
            if known is None:
                self.id = self._created(out, None if uri else (own / "artifacts").as_uri(), settings)
                write_json(kept, {"id": self.id})
            else:
                self.id = self.client.get_run(known["id"]).info.run_id
                self.client.update_run(self.id, status="RUNNING")
            self.client.log_dict(self.id, dict(settings), "settings.json")
        except self.mlflow.exceptions.MlflowException as error:
            mend = (
                "" if known is None else f"; set MLFLOW_TRACKING_URI as it was, or delete {kept} to begin another run"
            )
            raise InputError(f"--log mlflow: {one_line(error)}{mend}") from error

    def _created(self, out: Path, artifacts: str | None, settings: Mapping[str, Any]) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self.client.get_experiment_by_name(name)
        experiment = self.client.create_experiment(name, artifacts) if found is None else found.experiment_id
        run: str = self.client.create_run(experiment, run_name=out.resolve().name).info.run_id
        told = [self.mlflow.entities.Param(key, str(value)[:PARAM]) for key, value in flat(settings).items()]
        for begin in range(0, len(told), PARAMS):
            self.client.log_batch(run, params=told[begin : begin + PARAMS])
        return run

    def part(self, name: str, step: int) -> Grouped:
        """The tags of parts differ."""
        return Grouped(self.send)

    def send(self, step: int, values: Mapping[str, float | bytes]) -> None:
        """Points are metrics; a video is the artifact TAG/STEP.gif."""
        now, metric = int(time.time() * 1000), self.mlflow.entities.Metric
        points = [metric(tag, value, now, step) for tag, value in values.items() if not isinstance(value, bytes)]
        self.client.log_batch(self.id, metrics=points)
        with TemporaryDirectory() as folder:
            path = Path(folder) / f"{step}.gif"
            for tag, value in values.items():
                if isinstance(value, bytes):
                    path.write_bytes(value)
                    self.client.log_artifact(self.id, str(path), tag)

    def close(self) -> None:
        """It has ended, until it goes on."""
        self.client.set_terminated(self.id)


class Grouped:
    """The points of a step are sent together, when the next step begins; videos among them, as GIF."""

    def __init__(self, send: Send) -> None:
        self.send, self.step = send, 0
        self.pending: dict[str, float | bytes] = {}

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """One point of a curve."""
        self._add(tag, float(scalar_value), global_step)

    def add_clip(self, tag: str, frames: Pixels, step: int) -> None:
        """A moving image."""
        self._add(tag, encode_gif(frames), step)

    def close(self) -> None:
        """Send what is pending; the run stays open for the other parts."""
        if self.pending:
            self.send(self.step, self.pending)
        self.pending = {}

    def _add(self, tag: str, value: float | bytes, step: int) -> None:
        if self.step != step:
            self.close()
            self.step = step
        self.pending[tag] = value


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _shown(value: float | bytes, video: Callable[[bytes], Any]) -> Any:
    return video(value) if isinstance(value, bytes) else value


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
    "mlflow": Mlflow,
}
"""By what --log calls them; others add theirs (docs/architecture.md)."""
