"""Stages as processes: whatever becomes of one, the next one runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.sheet import write_json
from benchmarks.gpu.stages import Stage

ROOT = Path(__file__).resolve().parents[2]
GRACE = 5.0
"""Seconds between asking a process to end and ending it."""


@dataclass(frozen=True)
class Outcome:
    """What became of a stage: how it ended, after how long, and what its sheet says."""

    stage: Stage
    status: str
    seconds: float
    findings: Sequence[Mapping[str, Any]]

    @property
    def failed(self) -> list[str]:
        return [finding["what"] for finding in self.findings if finding["ok"] is False]

    def to_dict(self) -> dict[str, Any]:
        return {
            "title": self.stage.title,
            "status": self.status,
            "seconds": round(self.seconds, 1),
            "findings": list(self.findings),
        }


class Running:
    """A stage at work. Its log and its sheet are files of its name in `shared`."""

    def __init__(self, stage: Stage, seconds: float, shared: Path, told: Mapping[str, Any]) -> None:
        self.stage, self.seconds, self.begin = stage, seconds, time.monotonic()
        self.sheet, self.log = shared / f"{stage.name}.json", shared / f"{stage.name}.log"
        self.sheet.unlink(missing_ok=True)
        told = {**told, "seconds": seconds, "shared": str(shared)}
        given = json.dumps({"work": stage.work, "sheet": str(self.sheet), "setting": told, "given": dict(stage.given)})
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
        where = {**os.environ, "PYTHONUNBUFFERED": "1", **stage.environment, "PYTHONPATH": path}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.gpu.one", given],
                cwd=ROOT,
                env=where,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that its own processes end with it
            )

    def over(self) -> bool:
        return self.process.poll() is not None or time.monotonic() > self.begin + self.seconds

    def outcome(self) -> Outcome:
        """End what is still at work, and say what became of it."""
        late = self.process.poll() is None
        self.end()
        findings = json.loads(self.sheet.read_text()) if self.sheet.exists() else []
        outcome = Outcome(self.stage, "", time.monotonic() - self.begin, findings)
        status = "done" if outcome.failed == [] else f"failed: {len(outcome.failed)} of its checks"
        if late:
            status = f"cut off after {self.seconds:.0f} s"
        elif self.process.returncode:
            status = f"broke off (exit status {self.process.returncode}), see the log"
        elif findings and all(str(finding["value"]).startswith("not run") for finding in findings):
            status = str(findings[0]["value"])
        return Outcome(self.stage, status, outcome.seconds, findings)

    def end(self) -> None:
        """End the process and all that it started."""
        for number, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)


def run_together(group: Sequence[tuple[Stage, float]], at_once: int, shared: Path, told: Any) -> list[Outcome]:
    """Run stages, at most `at_once` at a time, each for at most its seconds; outcomes in the order of their ends."""
    waiting, running, outcomes = list(group), [], []
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                running.append(Running(*waiting.pop(0), shared, told))
            time.sleep(0.05)
            for each in [each for each in running if each.over()]:
                outcomes.append(each.outcome())
                running.remove(each)
    finally:
        for each in running:
            each.end()
    return outcomes


def write_results(path: Path, told: Mapping[str, Any], outcomes: Sequence[Outcome]) -> None:
    write_json(path, {**told, "stages": {outcome.stage.name: outcome.to_dict() for outcome in outcomes}})
