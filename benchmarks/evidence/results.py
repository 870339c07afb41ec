"""What judged runs came to, as plain JSON beside the page: every table can be made and checked from it alone.

A claim of five seeds takes hours, and not all on one machine: what was judged anywhere counts as long as the run was
told the same, and is not run again.
"""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evidence.claims import Claim, Method
from benchmarks.evidence.running import EPISODES, JUDGED_SEED, Plan, cpu_seconds, options
from benchmarks.shared.machine import cpu
from lssvwm.agents.evaluation.files import Evaluations
from lssvwm.agents.evaluation.runs import evaluations_of, open_run
from lssvwm.agents.running.cli import LoopOptions, parse
from lssvwm.agents.running.settings import LoopSettings
from lssvwm.agents.running.settings_file import to_json
from lssvwm.worldmodel.checkpoint import read_json
from lssvwm.worldmodel.common.atomic import write_text
from lssvwm.worldmodel.common.errors import InputError

PLACES = ("world_model", "contexts")
"""Settings that name folders."""


@dataclass(frozen=True)
class Judged:
    """The real episodes of a run, or of a policy that learns nothing, in the order of their seeds."""

    returns: tuple[float, ...]
    successes: tuple[bool, ...]
    imagined: tuple[float, ...] | None = None
    """Returns in its own dreams."""
    options: str = ""
    """Of train_agent.py, without folders: for people."""
    settings: str = ""
    """A hash of all that decides how the run comes out: its settings, presets and defaults written out, those of the
    run in whose world model it learns, and the episodes in which it was judged."""
    machine: str = ""
    """On which it was judged."""
    cpu_seconds: float | None = None
    """Of the run and its evaluations; None: not measured."""
    evaluations: Evaluations | None = None
    """Those while it learned."""


Results = Mapping[str, Judged]
"""By the name of the run, METHOD-SEED, or of the policy."""


def published(page: Path, claim: Claim) -> Path:
    """Where the results of a claim stand beside `page`."""
    return page.parent / page.stem / f"{claim.name}.json"


def digest(*settings: LoopSettings) -> str:
    """Of the settings of a run, and of the one in whose world model it learns."""
    kept = [{name: value for name, value in to_json(each).items() if name not in PLACES} for each in settings]
    return hashlib.sha256(json.dumps([kept, EPISODES, JUDGED_SEED]).encode()).hexdigest()[:16]


def asked(claim: Claim, method: Method, seed: int, plan: Plan) -> str:
    """The hash that a run has when it is told what the claim tells today."""
    chain = [method, *(each for each in claim.methods if each.name == method.world)]
    nowhere = ["--out", str(plan.folder(claim) / "asked")]
    return digest(*(parse(LoopOptions, [*options(claim, each, seed, plan), *nowhere]) for each in chain))


def read(path: Path, claim: Claim) -> dict[str, Judged]:
    """All that was published, by whomever and of whatever settings; nothing where there is no file.

    Raises InputError for one that holds something else.
    """
    if not path.exists():
        return {}
    try:
        return {name: _judged(values) for name, values in read_json(path, "published results").items()}
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise InputError(f"{path} holds no results of a claim ({error}): delete it, or restore it from git") from error


def usable(found: Results, claim: Claim, plan: Plan) -> dict[str, Judged]:
    """Those of the seeds of `plan` that were told what the claim tells today, and of policies that learn nothing.

    Where one of those that learn in a run's world model is missing, that run and all of them are: figures are no world
    model to learn in. Nothing where a policy is missing, which is judged beside runs alone.
    """
    runs = plan.runs(claim)
    known = {
        name: found[name]
        for name, (method, seed) in runs.items()
        if name in found and found[name].settings == asked(claim, method, seed, plan)
    }
    worlds = {name: f"{method.world}-{seed}" for name, (method, seed) in runs.items() if method.world}
    again = {world for name, world in worlds.items() if name not in known or world not in known}
    known = {name: each for name, each in known.items() if name not in again and worlds.get(name) not in again}
    policies = {name: found[name] for name in claim.policies if name in found}
    return {**known, **policies} if len(policies) == len(claim.policies) else {}


def _judged(values: Mapping[str, Any]) -> Judged:
    lists = {name: tuple(values[name]) for name in ("returns", "successes")}
    imagined, curve = values["imagined"], values["evaluations"]
    if curve is not None:
        kinds = {"steps": np.int64, "lengths": np.int64, "successes": np.bool_}
        curve = Evaluations(**{name: np.array(each, kinds.get(name, np.float64)) for name, each in curve.items()})
    rest = {name: values[name] for name in ("options", "settings", "machine", "cpu_seconds")}
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
        for name in ("seconds", "imagined"):  # JSON has no NaN; numpy reads None as one
            found["evaluations"][name] = [None if math.isnan(each) else each for each in found["evaluations"][name]]
    return found


def judged(claim: Claim, plan: Plan, known: Results) -> dict[str, Judged]:
    """What was judged in the folder of `plan`, of all that is not known.

    Raises InputError for a run that was told something else than the claim tells.
    """
    if plan.covered(claim, known):
        return {}
    spent, machine = cpu_seconds(plan.folder(claim)), cpu().rpartition(", load")[0]
    found = {}
    for name, (method, seed) in plan.runs(claim).items():
        if name in known:
            continue
        methods = read_json(plan.judged(claim, name) / "results.json", "an evaluation")["methods"]
        folder, run = plan.run(claim, method.name, seed), methods[method.name]["runs"][name]
        worlds = [plan.run(claim, method.world, seed)] if method.world else []
        settings = digest(*(open_run(each).settings for each in (folder, *worlds)))
        if settings != asked(claim, method, seed, plan):
            raise InputError(
                f"{folder} was told something else than claim {claim.name} tells today: `python -m benchmarks.evidence "
                f"{claim.name} --list` prints the command; give another --out"
            )
        found[name] = Judged(
            tuple(run["returns"]),
            tuple(run["successes"]),
            None if run["imagined_returns"] is None else tuple(run["imagined_returns"]),
            shlex.join(options(claim, method, seed, plan)),
            settings,
            machine,
            spent.get(name),
            evaluations_of(folder),
        )
        for policy in methods.keys() & set(claim.policies):
            (run,) = methods[policy]["runs"].values()
            found[policy] = Judged(tuple(run["returns"]), tuple(run["successes"]))
    return found
