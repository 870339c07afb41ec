"""What a stage is told, and the sheet on which it writes what it finds, so that nothing is lost when it is cut off."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from worldmodel.atomic import replace

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
    replace(path, lambda temporary: temporary.write_text(text))


def settle(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(work: Any, device: str, *, repeats: int = 3, least: float = 0.05) -> float:
    """Least seconds of a call, of `repeats` turns that take at least `least` seconds each; wall time."""
    work()
    settle(device)
    begin = time.perf_counter()
    work()
    settle(device)
    times = max(1, math.ceil(least / max(1e-6, time.perf_counter() - begin)))
    best = math.inf
    for _ in range(repeats):
        begin = time.perf_counter()
        for _ in range(times):
            work()
        settle(device)
        best = min(best, (time.perf_counter() - begin) / times)
    return best


def product_rate(setting: Setting) -> float:
    """Operations per second of a bfloat16 product of square matrices: what every rate is compared with."""
    side = 8192 if setting.cuda else 192
    a, b = (torch.randn(side, side, device=setting.device).bfloat16() for _ in range(2))
    return 2 * side**3 / seconds_of(lambda: a @ b, setting.device)
