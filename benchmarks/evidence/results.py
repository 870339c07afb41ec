"""What judged runs came to, as plain JSON beside the page: every table can be made and checked from it alone.

A claim of five seeds takes hours, and not all on one machine: what was judged anywhere counts as long as the run was
told the same, and is not run again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evidence.claims import Claim
from benchmarks.evidence.running import Plan, cpu_seconds, told
from benchmarks.shared.machine import cpu
from lssvwm.agents.evaluation.files import Evaluations
from lssvwm.agents.evaluation.runs import evaluations_of
from lssvwm.worldmodel.checkpoint import read_json
from lssvwm.worldmodel.common.atomic import write_text
from lssvwm.worldmodel.common.errors import InputError


@dataclass(frozen=True)
class Judged:
    """The real episodes of a run, or of a policy that learns nothing, in the order of their seeds."""

    returns: tuple[float, ...]
    successes: tuple[bool, ...]
    imagined: tuple[float, ...] | None = None
    """Returns in its own dreams."""
    options: str = ""
    """Of train_agent.py: all that the run was told, without folders."""
    machine: str = ""
    cpu_seconds: float | None = None
    """Of the run and its evaluations; None: not measured."""
    evaluations: Evaluations | None = None
    """Those while it learned."""


Results = Mapping[str, Judged]
"""By the name of the run, METHOD-SEED, or of the policy."""


def published(page: Path, claim: Claim) -> Path:
    """Where the results of a claim stand beside `page`."""
    return page.parent / page.stem / f"{claim.name}.json"


def read(path: Path, claim: Claim, plan: Plan) -> dict[str, Judged]:
    """What was published of the seeds of `plan`, of runs that were told what the claim tells today, and of policies.

    Nothing where there is no file. Raises InputError for one that holds something else.
    """
    if not path.exists():
        return {}
    try:
        found = {name: _judged(values) for name, values in read_json(path, "published results").items()}
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise InputError(f"{path} holds no results of a claim ({error}): delete it, or restore it from git") from error
    asked = {name: told(claim, method, seed) for name, (method, seed) in plan.runs(claim).items()}
    known = {name: each for name, each in found.items() if name in claim.policies or each.options == asked.get(name)}
    for method, seed in plan.runs(claim).values():
        if method.world and f"{method.name}-{seed}" not in known:
            known.pop(f"{method.world}-{seed}", None)  # figures are no world model to learn in
    return known


def _judged(values: Mapping[str, Any]) -> Judged:
    lists = {name: tuple(values[name]) for name in ("returns", "successes")}
    imagined, curve = values["imagined"], values["evaluations"]
    if curve is not None:
        kinds = {"steps": np.int64, "lengths": np.int64, "successes": np.bool_}
        none = {"imagined": [math.nan if value is None else value for value in curve["imagined"]]}
        curve = Evaluations(**{k: np.array(v, kinds.get(k, np.float64)) for k, v in {**curve, **none}.items()})
    rest = {name: values[name] for name in ("options", "machine", "cpu_seconds")}
    return Judged(**lists, imagined=None if imagined is None else tuple(imagined), evaluations=curve, **rest)


def write(path: Path, results: Results) -> None:
    """Inverse of `read`, a line for each run."""
    lines = (
        f"{json.dumps(name)}: {json.dumps(_plain(each), allow_nan=False)}" for name, each in sorted(results.items())
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def _plain(run: Judged) -> dict[str, Any]:
    found = {field.name: getattr(run, field.name) for field in fields(run)}
    if (curve := run.evaluations) is not None:
        found["evaluations"] = {name: value.tolist() for name, value in vars(curve).items()}
        found["evaluations"]["imagined"] = [None if math.isnan(value) else value for value in curve.imagined.tolist()]
    return found


def judged(claim: Claim, plan: Plan) -> dict[str, Judged]:
    """What was judged in the folder of `plan`; nothing where nothing was."""
    path = plan.judged(claim) / "results.json"
    if not path.exists():
        return {}
    methods, spent = read_json(path, "an evaluation")["methods"], cpu_seconds(plan.folder(claim))
    found = {}
    for name, (method, seed) in plan.runs(claim).items():
        if method.name in methods and (run := methods[method.name]["runs"].get(name)) is not None:
            found[name] = Judged(
                tuple(run["returns"]),
                tuple(run["successes"]),
                None if run["imagined_returns"] is None else tuple(run["imagined_returns"]),
                told(claim, method, seed),
                cpu(),
                spent.get(name),
                evaluations_of(plan.run(claim, method.name, seed)),
            )
    for name in claim.policies:
        (run,) = methods[name]["runs"].values()
        found[name] = Judged(tuple(run["returns"]), tuple(run["successes"]))
    return found
