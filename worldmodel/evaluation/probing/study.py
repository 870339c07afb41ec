"""Probes as a section of the report, and how what is known grows with what was seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lssvwm.worldmodel.evaluation.studies.study import Study
from lssvwm.worldmodel.reporting.plots import Line, Plot, alone
from lssvwm.worldmodel.reporting.tables import number

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
    return Study(
        "probes", "Probes", about, table, probes, Plot(lines, "frames seen", f"{first['measure']} of {first['target']}")
    )
