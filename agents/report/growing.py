"""The report while its run goes on: the same page from what there is by then, at every stage and at intervals."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tqdm import tqdm

from lssvwm.agents.evaluation import Evaluation
from lssvwm.agents.report.now import Now, now
from lssvwm.agents.report.page import Report, write_page
from lssvwm.agents.report.run import JUDGED, Shown, report_of, show
from lssvwm.worldmodel.checkpoint import CONFIG, WEIGHTS, load_checkpoint, load_weights
from lssvwm.worldmodel.common.errors import one_line
from lssvwm.worldmodel.common.progress import Place, listening
from lssvwm.worldmodel.common.rng import weights_from
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.model import WorldModel

FIRST, PAUSE = 10.0, 60.0
"""Seconds after which the page is written again: of a stage that has just begun, and the most, by doubling them."""
SHARE = 0.02
"""Largest share of the time that goes into pages within a stage."""
FRAMES = 32
"""Frames of the episode that is shown, at most."""
CHOSEN = "One of the first ten that were recorded, the longest."


@dataclass(frozen=True)
class Subject:
    """The run that a report is about. Where it has no world model or records nothing, those are None."""

    out: Path
    stages: Sequence[str]
    settings: Mapping[str, Any]
    command: str
    world_model: Path | None
    device: torch.device
    episodes: Path | None
    figures: Callable[[str], Mapping[str, Any] | None]
    """Of a stage; None before it is done."""
    clocks: Callable[[], Mapping[str, float]]
    """Seconds that stages have taken so far."""


class Growing:
    """Writes the page of a run that goes on. It only looks: what it draws, it draws from generators of its own.

    A page that cannot be written is one line on standard error, and the run goes on; the final report is to fail.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.stage = subject.stages[0]
        self.place: Place | None = None
        self.began = self.written = time.monotonic()
        self.before: Mapping[str, float] = {}
        self.pause, self.cost = FIRST, 0.0
        self.report: Report | None = None
        self.shown: dict[str, Shown] = {}
        self.shown_of: tuple[str, int | None] | None = None
        self.recorded: EpisodeStore | None = None
        self.model: WorldModel | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Be told how the work inside comes on; say on the page if it ends by an error or an interruption."""
        try:
            with listening(self.told):
                yield
        except BaseException:
            self.attempt(self.stop)
            raise

    @property
    def folder(self) -> Path:
        """Where the page is."""
        return self.subject.out / "report"

    def begin(self, stage: str) -> None:
        """A stage begins, those before are done: write the page."""
        self.stage, self.place, self.began, self.pause = stage, None, time.monotonic(), FIRST
        self.before = self.subject.clocks()
        self.attempt(self.write)

    def stop(self) -> None:
        """Say on the last page, if there was one, that the run has stopped; nothing is drawn anew."""
        if self.report is not None:
            write_page(self.folder, replace(self.report, now=replace(self.doing(), goes_on=False)))

    def told(self, place: Place) -> None:
        """Note where the work stands, and write the page if it is time."""
        self.place = place
        if time.monotonic() - self.written > max(self.pause, self.cost / SHARE):
            self.pause = min(PAUSE, 2 * self.pause)
            self.attempt(self.write)

    def attempt(self, write: Callable[[], object]) -> None:
        """Write, or say in a line why not."""
        begin = time.monotonic()
        try:
            write()
        except Exception as error:  # whatever it is, hours of training are worth more than a look at them
            said = one_line(f"{type(error).__name__}: {error}", None)
            tqdm.write(f"the report so far was not written, the run goes on: {said}", file=sys.stderr)
        self.written = time.monotonic()
        self.cost = self.written - begin

    def doing(self) -> Now:
        """What the run is doing."""
        s, taken = self.subject, time.monotonic() - self.began
        return now(
            self.stage,
            s.stages,
            rounds=int(s.settings["rounds"]),
            seconds={**self.before, self.stage: self.before.get(self.stage, 0.0) + taken},
            done=[name for name in s.stages if s.figures(name) is not None],
            place=self.place,
        )

    def write(self) -> None:
        """The page from what there is now; the first time, say where it is."""
        s = self.subject
        stages = {name: figures for name in s.stages if (figures := s.figures(name)) is not None}
        self.look(stages)
        report = report_of(s.out, stages, self.shown, settings=s.settings, command=s.command, now=self.doing())
        self.folder.mkdir(parents=True, exist_ok=True)
        page = write_page(self.folder, report)
        if self.report is None:
            tqdm.write(f"report, growing while this runs: {page}")
            sys.stdout.flush()
        self.report = report

    def look(self, stages: Mapping[str, Mapping[str, Any]]) -> None:
        """Show an episode, and as soon as there is a world model the dream of it: anew where one of the two is new."""
        s = self.subject
        judged = [name for name in stages if name.endswith("-evaluation")]
        if judged:
            name, chosen = Evaluation.from_dict(stages[judged[-1]]).name, JUDGED
            store = EpisodeStore(s.out / "examples" / judged[-1])
            file = store.names[-1]
        else:
            if s.episodes is None or not s.episodes.exists():
                return
            name, chosen = "recorded", CHOSEN
            if self.recorded is None:
                self.recorded = EpisodeStore(s.episodes, create=s.episodes.is_dir())
            store = self.recorded
            store.refresh()
            if not store.names:
                return
            file = store.names[int(store.lengths[:10].argmax())]
        config = None if s.world_model is None else s.world_model / CONFIG  # of a checkpoint it is written last
        version = config.stat().st_mtime_ns if config is not None and config.exists() else None
        if self.shown_of == (file, version):
            return
        if version is not None:
            self.read_model()
        steps = s.settings["dreamer"]["steps"]
        self.shown = {name: show(s.out, name, chosen, store.read(file), self.model, steps, FRAMES)}
        self.shown_of = (file, version)

    def read_model(self) -> None:
        """The newest weights, in the model that is here already once there was one: a run has one configuration."""
        folder = self.subject.world_model
        assert folder is not None
        if self.model is None:
            with weights_from(0):  # those that are drawn before the saved ones are read, from no generator of the run
                self.model = load_checkpoint(folder, self.subject.device).model
        else:
            load_weights(self.model, load_file(folder / WEIGHTS), folder / WEIGHTS)
