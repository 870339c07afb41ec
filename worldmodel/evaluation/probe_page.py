"""Probes as a section of the report, and how what is known grows with what was seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lssvwm.worldmodel.evaluation.report import number
from lssvwm.worldmodel.evaluation.studies.study import Line, Study
from lssvwm.worldmodel.reporting.statistics import Band

Probes = Mapping[str, Sequence[Mapping[str, Any]]]
"""What `Probed.to_dict` gave, by model."""


def probe_study(probes: Probes, about: str) -> Study:
    """Probes of every model beside their base rates: as a whole, and after each number of frames seen."""
    first = next(iter(probes.values()))[0]
    head = ("target", "reading", "probe", "model", "measure", "score", "base rate", "examples")
    table = [(*head, *(f"after {age}" for age in first["ages"]))]
    lines: list[Line] = []
    for model, found in probes.items():
        for p in found:
            names = (p["target"], p["reading"], p["kind"], model, p["measure"])
            figures = (number(p["score"]), number(p["base"]), str(p["test_examples"]))
            table.append((*names, *figures, *map(number, p["scores"])))
            if p["target"] == first["target"]:
                lines.append(Line(f"{model}: {p['reading']}, {p['kind']}", p["ages"], alone(p["scores"])))
    lines.append(Line("base rate", first["ages"], alone(first["bases"]), reference=True))
    axes = ("frames seen", f"{first['measure']} of {first['target']}")
    return Study("probes", "Probes", about, tuple(table), probes, tuple(lines), axes)


def alone(values: Sequence[float]) -> Band:
    """Figures without an interval."""
    nothing = np.full(len(values), np.nan)
    return Band(np.array(values), nothing, nothing, np.ones(len(values), np.int64))
