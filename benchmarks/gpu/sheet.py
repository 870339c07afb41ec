"""What a stage is told, and the sheet on which it writes what it finds, so that nothing is lost when it is cut off.

Without torch, which takes seconds to import: what breaks there is written down too.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

CUDA = "needs CUDA"


class NotRunError(Exception):
    """A stage, or what is left of it, cannot run here; the message says why."""


@dataclass(frozen=True)
class Setting:
    """What every stage is told. `shared` is a folder in which stages find what earlier ones left."""

    device: str
    rehearse: bool
    seconds: float
    """Time until the stage is ended; what is written on its sheet until then counts."""
    shared: Path
    out: Path
    begin: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds until the stage should have come to its own end: a tenth before it is ended."""
        return self.begin + 0.9 * self.seconds - time.monotonic()

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"


@dataclass(frozen=True)
class Finding:
    """One figure. `ok` is None where nothing was to be reached; `value` is text where nothing was measured."""

    what: str
    value: float | str
    unit: str = ""
    goal: str = ""
    ok: bool | None = None


class Sheet:
    """The findings of one stage, in a JSON file that is whole after every one of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.findings: list[Finding] = []

    def note(self, what: str, value: float | str, unit: str = "") -> None:
        """A figure that nothing is expected of."""
        self._add(Finding(what, value, unit))

    def at_most(self, what: str, value: float, limit: float, unit: str = "") -> None:
        """A figure that is good up to `limit`; one that is not a number is not."""
        self._add(Finding(what, value, unit, f"<= {limit:g}", value <= limit))

    def at_least(self, what: str, value: float, limit: float, unit: str = "") -> None:
        """A figure that is good from `limit` on."""
        self._add(Finding(what, value, unit, f">= {limit:g}", value >= limit))

    def true(self, what: str, holds: bool) -> None:
        """Something that must hold."""
        self._add(Finding(what, "yes" if holds else "no", goal="yes", ok=holds))

    def not_run(self, what: str, why: str) -> None:
        """Something that could not be looked at here."""
        self._add(Finding(what, f"not run: {why}"))

    def _add(self, finding: Finding) -> None:
        self.findings.append(finding)
        shown = f"{finding.value:.5g}" if isinstance(finding.value, float) else finding.value
        mark = "" if finding.ok is None else "  ok" if finding.ok else "  FAILED"
        print(f"{finding.what}: {shown} {finding.unit} {finding.goal}{mark}", flush=True)
        write_json(self.path, [asdict(each) for each in self.findings])


def write_json(path: Path, value: Any) -> None:
    """Write atomically; numbers that JSON does not know become text."""

    def plain(part: Any) -> Any:
        if isinstance(part, float) and not math.isfinite(part):
            return str(part)
        if isinstance(part, dict):
            return {key: plain(each) for key, each in part.items()}
        return [plain(each) for each in part] if isinstance(part, list | tuple) else part

    text = json.dumps(plain(value), indent=1, default=str) + "\n"
    temporary = path.with_suffix(".part")
    temporary.write_text(text)
    temporary.replace(path)
