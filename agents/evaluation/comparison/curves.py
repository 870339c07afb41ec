"""Learning curves of several methods, each with several runs: bands over runs, and the cost of reaching a level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from lssvwm.agents.evaluation.files import Evaluations
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.reporting.statistics import Band, FloatArray, student_band

Metric = Literal["success", "return"]
Axis = Literal["steps", "seconds"]


@dataclass(frozen=True)
class Method:
    """Runs of one method, which differ in their seeds."""

    name: str
    runs: tuple[Evaluations, ...]


@dataclass(frozen=True)
class Line:
    """One run: x (n,) rising, y (n,) the mean over the episodes of each evaluation."""

    x: FloatArray
    y: FloatArray


class Over(NamedTuple):
    """The mean over runs at x (n,), and its 95 % interval, which a single run does not have (NaN)."""

    x: FloatArray
    band: Band


@dataclass(frozen=True)
class Reached:
    """When a level was reached by `runs` of `count`, in units of the axis: their median, first and last."""

    level: float
    runs: int
    count: int
    median: float | None
    first: float | None
    last: float | None


def lines(method: Method, axis: Axis, metric: Metric) -> list[Line] | None:
    """Every run as a line; None where the runs do not say what they took on this axis."""
    found = []
    for run in method.runs:
        x = run.steps.astype(np.float64) if axis == "steps" else run.seconds
        if not np.isfinite(x).all():
            return None
        y = run.returns if metric == "return" else run.successes.astype(np.float64)
        found.append(Line(x, y.mean(axis=1)))
    return found


def band(runs: Sequence[Line]) -> Over:
    """The mean over runs, and Student's interval over runs at every point: the runs are what varies, not episodes.

    Between evaluations runs are interpolated linearly, nowhere extrapolated: the band spans what all of them cover.
    Runs that share no stretch, such as those of a single evaluation each, are matched by the number of the evaluation
    and stand at their mean x; where those numbers differ too, it is an `InputError`.
    """
    first, last = max(run.x[0] for run in runs), min(run.x[-1] for run in runs)
    x = np.unique(np.concatenate([run.x for run in runs]))
    x = x[(x >= first) & (x <= last)]
    if len(x):
        y = np.stack([np.interp(x, run.x, run.y) for run in runs])
    elif len({len(run.x) for run in runs}) == 1:
        x, y = np.mean([run.x for run in runs], axis=0), np.stack([run.y for run in runs])
    else:
        raise InputError("the runs of a method share no stretch of real steps: evaluate them at the same ones")
    return Over(x, student_band(y))


def reached(runs: Sequence[Line], level: float) -> Reached:
    """At which x the first evaluation of each run was at or above `level`."""
    at = [float(run.x[above[0]]) for run in runs if len(above := np.flatnonzero(run.y >= level))]
    if not at:
        return Reached(level, 0, len(runs), None, None, None)
    return Reached(level, len(at), len(runs), float(np.median(at)), min(at), max(at))


def common_level(methods: Sequence[Sequence[Line]]) -> float:
    """The best level that some evaluation of every run of every method has reached."""
    return min(float(run.y.max()) for method in methods for run in method)


def compared(methods: Sequence[Method], metric: Metric, threshold: float) -> dict[str, Any]:
    """Figures of a comparison: bands, and what it took to reach the threshold and the best common level, per axis."""
    found: dict[str, Any] = {"metric": metric}
    axes: tuple[Axis, ...] = ("steps", "seconds")
    for axis in axes:
        drawn = {method.name: lines(method, axis, metric) for method in methods}
        known = {name: each for name, each in drawn.items() if each is not None}
        best = common_level(list(known.values())) if len(known) == len(methods) else None
        found[axis] = {
            name: {
                "band": _plain(band(runs), len(runs)),
                "threshold": asdict(reached(runs, threshold)),
                "best_common": None if best is None else asdict(reached(runs, best)),
            }
            for name, runs in known.items()
        }
    return found


def _plain(over: Over, runs: int) -> dict[str, Any]:
    ends = {"low": over.band.low.tolist(), "high": over.band.high.tolist()} if runs > 1 else {"low": None, "high": None}
    return {"x": over.x.tolist(), "mean": over.band.mean.tolist(), **ends, "count": runs}
