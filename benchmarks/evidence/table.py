"""What a claim's runs came to: a table, a verdict for everything that is claimed, and plots."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

from benchmarks.evidence.claims import Claim
from benchmarks.evidence.results import Results
from benchmarks.evidence.running import Plan
from lssvwm.agents.evaluation.comparison.curves import Method as Learned
from lssvwm.agents.evaluation.comparison.curves import lines, reached
from lssvwm.agents.evaluation.comparison.plots import plot_comparison
from lssvwm.agents.evaluation.comparison.scores import shares
from lssvwm.agents.evaluation.files import Evaluations
from lssvwm.worldmodel.common.atomic import replace
from lssvwm.worldmodel.reporting.resampling import iqm, stratified_interval
from lssvwm.worldmodel.reporting.statistics import (
    FloatArray,
    Interval,
    combined_interval,
    mean_interval,
    rate_interval,
    separated,
    within,
)

matplotlib.use("Agg")
from matplotlib import pyplot as plt

LEVEL = 0.9
"""The success of which the real steps are counted."""
HONEST = 0.25
"""The share of the real return that the imagined one may lie above it."""
NONE = "–"


@dataclass(frozen=True)
class Row:
    """A method with the values of its runs, or a policy that learns nothing, whose values are its episodes."""

    name: str
    title: str
    values: FloatArray
    """Of the claim's metric: (runs,) means over episodes, or (episodes,)."""
    interval: Interval
    """Of their mean: Student's, of rates no further than 0 and 1; of a policy's successes Wilson's. Of a single run it
    has no width (NaN)."""
    iqm: Interval
    """Interquartile mean of the returns, with its bootstrap over episodes."""
    returns: FloatArray
    """Mean real return of each run, (runs,); of a policy its episodes."""
    imagined: FloatArray | None
    """Mean return of each run in its own dreams, (runs,)."""
    learned: tuple[Evaluations, ...] = ()
    cpu: float = math.nan
    """Mean CPU seconds of a run."""

    @property
    def gap(self) -> Interval | None:
        """Imagined minus real mean return, Student's over runs."""
        return None if self.imagined is None else mean_interval(self.imagined - self.returns)


def rows(claim: Claim, plan: Plan, found: Results) -> list[Row]:
    """Everything that was judged, methods first."""
    made = []
    for method in claim.methods:
        runs = [found[f"{method.name}-{seed}"] for seed in range(plan.seeds)]
        values, returns = (
            np.array([np.mean(getattr(run, key)) for run in runs], np.float64) for key in (_key(claim), "returns")
        )
        whole, imagined = mean_interval(values), None
        if all(run.imagined for run in runs):
            imagined = np.array([np.mean(run.imagined) for run in runs], np.float64)
        made.append(
            Row(
                method.name,
                method.title,
                values,
                shares(whole) if claim.metric == "success" else whole,
                stratified_interval([run.returns for run in runs], iqm),
                returns,
                imagined,
                tuple(run.evaluations for run in runs if run.evaluations is not None),
                float(np.mean([math.nan if run.cpu_seconds is None else run.cpu_seconds for run in runs])),
            )
        )
    for name in claim.policies:
        run = found[name]
        values, returns = (np.array(each, np.float64) for each in (getattr(run, _key(claim)), run.returns))
        whole = rate_interval(values.sum(), len(values)) if claim.metric == "success" else within([values])
        made.append(Row(name, name, values, whole, stratified_interval([run.returns], iqm), returns, None))
    return made


def section(claim: Claim, plan: Plan, made: Sequence[Row], pictures: Sequence[Path]) -> list[str]:
    """The lines that stand between the markers of a claim."""
    told = f"--seeds {plan.seeds}" if not plan.quick else "--quick"
    steps = [f" real steps to {LEVEL:.0%} |"] if claim.metric == "success" and claim.curves else []
    heads = f"| learns | {claim.metric} of each run | mean | IQM of returns | imagined - real return | real steps |"
    count = len(made[-1].values)
    return [
        *(["Made by `--quick`, of sizes at which nothing can be learned: no results.", ""] if plan.quick else []),
        f"`python -m benchmarks.evidence {claim.name} {told}`: {plan.seeds} {'run' if plan.seeds == 1 else 'runs'} of "
        f"each method, {count} real episodes of each. In brackets 95 %: of means and of imagined - real Student's "
        "interval over runs, of policies that learn nothing over episodes; of the interquartile mean a bootstrap over "
        "episodes. Minutes of one run: wall-clock of recording and learning, and CPU time of everything with the run's "
        "evaluations; where a method learns in another's world model, without that.",
        "",
        f"{heads}{''.join(steps)} minutes | CPU minutes |",
        "|---" * (8 + len(steps)) + "|",
        *(_line(claim, row, bool(steps)) for row in made),
        "",
        *(f"- {verdict}" for verdict in verdicts(claim, made)),
        *(line for picture in pictures for line in ("", f"![{picture.stem}]({picture.name})")),
    ]


def verdicts(claim: Claim, made: Sequence[Row]) -> list[str]:
    """For everything that is claimed whether it is shown."""
    known = {row.name: row for row in made}
    found = []
    for one, other in claim.better:
        a, b = known[one], known[other]
        shown = separated(a.interval, b.interval)
        text = f"{a.title} above {b.title}: {told(claim, a.interval)} against {told(claim, b.interval)}"
        if min(len(a.values), len(b.values)) > 1:
            apart = combined_interval([a.values, b.values], [1, -1])
            text += f", difference {told(claim, apart)} (Welch)"
        found.append(f"{text}: {_verdict(shown, a)}")
    for name in claim.honest:
        row, gap = known[name], known[name].gap
        if gap is not None:
            limit = HONEST * float(row.returns.mean())
            text = f"imagined minus real return of {row.title} below {limit:.3g}, a quarter of the real one: {_in(gap)}"
            found.append(f"{text}: {_verdict(gap.count > 1 and gap.high < limit, row)}")
    return found


def _verdict(shown: bool, row: Row) -> str:
    if shown:
        return "**shown**"
    return "not shown, one run has no interval" if len(row.values) < 2 else "not shown"


def told(claim: Claim, interval: Interval) -> str:
    """A mean of the claim's metric and its interval, where there is one."""
    if claim.metric == "return":
        return _in(interval)
    low, high = (f"{100 * value:.0f}" for value in (interval.low, interval.high))
    return f"{interval.mean:.0%}" + ("" if math.isnan(interval.low) else f" [{low}, {high}]")


def _in(interval: Interval) -> str:
    return f"{interval.mean:.2f}" + ("" if math.isnan(interval.low) else f" [{interval.low:.2f}, {interval.high:.2f}]")


def _key(claim: Claim) -> str:
    return "successes" if claim.metric == "success" else "returns"


def _line(claim: Claim, row: Row, with_steps: bool) -> str:
    each = ", ".join(f"{value:.0%}" if claim.metric == "success" else f"{value:.2f}" for value in row.values)
    cells = [row.title, each if row.learned else NONE, told(claim, row.interval), _in(row.iqm)]
    cells.append(NONE if row.gap is None else _in(row.gap))
    if not row.learned:
        return f"| {' | '.join([*cells, *[NONE] * (3 + with_steps)])} |"
    real, seconds = (np.mean([getattr(run, key)[-1] for run in row.learned]) for key in ("steps", "seconds"))
    cells.append(f"{real:,.0f}" if real else "those of its world model")
    if with_steps:
        when = reached(lines(Learned(row.title, row.learned), "steps", "success") or [], LEVEL)
        cells.append(f"{NONE if when.median is None else f'{when.median:,.0f}'} ({when.runs} of {when.count})")
    minutes = ("not measured" if math.isnan(each) else f"{each / 60:,.1f}" for each in (seconds, row.cpu))
    return f"| {' | '.join([*cells, *minutes])} |"


def plots(claim: Claim, made: Sequence[Row], folder: Path, stem: str) -> list[Path]:
    """Every run as a dot with the interval over them, and where all learn from real steps the curves over these."""
    path = folder / f"{stem}-{claim.name}.png"
    figure, axis = plt.subplots(figsize=(1.2 + 1.5 * len(made), 3.2), layout="constrained")
    for at, row in enumerate(made):
        if row.learned:
            axis.plot(np.full(len(row.values), at), row.values, "o", color="C0", alpha=0.6)
        if not math.isnan(row.interval.low):
            axis.errorbar(
                [at],
                [row.interval.mean],
                [[row.interval.mean - row.interval.low], [row.interval.high - row.interval.mean]],
                fmt="_",
                color="black",
                capsize=4,
            )
    axis.set_xticks(range(len(made)), [textwrap.fill(row.title, 16) for row in made], fontsize=8)
    axis.set(ylabel=f"real {claim.metric}", xlim=(-0.5, len(made) - 0.5))
    replace(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))
    plt.close(figure)
    if not claim.curves:
        return [path]
    curves = folder / f"{stem}-{claim.name}-curves"
    methods = [Learned(row.title, row.learned) for row in made if row.learned]
    plot_comparison(curves, methods, claim.metric, LEVEL if claim.metric == "success" else None)
    return [path, curves.with_suffix(".png")]


def overview(claims: Mapping[str, Claim], seeds: int) -> list[str]:
    """What every claim says and costs."""
    made = [
        "| claim | says | runs | CPU minutes of a seed | CPU hours of " + f"{seeds} seeds |",
        "|---" * 5 + "|",
    ]
    for claim in claims.values():
        cost = f"{claim.minutes} ({claim.measured or 'reckoned, not measured'})"
        made.append(
            f"| `{claim.name}` | {claim.says} | {len(claim.methods)} a seed | {cost} "
            f"| {claim.minutes * seeds / 60:.0f} |"
        )
    return made
