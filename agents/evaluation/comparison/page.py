"""The sections of an evaluation's page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lssvwm.agents.evaluation.comparison.anchors import Anchor, Normalised
from lssvwm.agents.evaluation.comparison.plots import AXES, LABELS
from lssvwm.agents.evaluation.comparison.scores import Score
from lssvwm.agents.evaluation.starts import Starts
from lssvwm.worldmodel.reporting.page import Section
from lssvwm.worldmodel.reporting.statistics import Interval
from lssvwm.worldmodel.reporting.tables import NONE, estimate, number

VIDEOS = ("best", "median", "worst")


def played(results: Mapping[str, Any], scores: Sequence[Score], anchors: Sequence[Anchor]) -> Iterator[Section]:
    """Real returns, anchors, what happens over runs, dreams, and where the videos are. `results`: results.json."""
    seeds = scores[0].results[0].evaluation.seeds
    kinds = sorted({score.normalised.by for score in scores if score.normalised is not None})
    lines = [("policy", "runs", "mean return", "IQM", "success", "steps", *(f"{kind}-normalised" for kind in kinds))]
    for s in scores:
        scaled = (interval(s.normalised if s.normalised and s.normalised.by == kind else None) for kind in kinds)
        figures = (interval(s.mean), interval(s.iqm), interval(s.success), f"{s.length:,.1f}", *scaled)
        lines.append((s.name, str(len(s.results)), *figures))
    for anchor in anchors:
        if not anchor.source.startswith("played"):
            nothing = [NONE] * (len(lines[0]) - 3)
            lines.append((f"{anchor.kind} ({anchor.source})", NONE, number(anchor.value), *nothing))
    yield Section(
        "Real episodes",
        f"{len(seeds)} real episodes for each policy or run, seeds {seeds[0]} to {seeds[-1]}. In brackets the 95 % "
        "interval over episodes, within the runs: Student's (Welch), of successes Wilson's, of the interquartile mean "
        "a stratified bootstrap; normalised scores are 0 for random play and 1 for the anchor, taken as it is.",
        lines,
    )
    if results["starts"]:
        told = "; ".join(f"{name}: {Starts(**found)}" for name, found in results["starts"].items())
        yield Section("Starts", f"Where episodes begin, whole grid and all, and what each run recorded. {told}.")
    if over := [s for s in scores if s.over_runs is not None]:
        yield Section(
            "Over runs",
            "Runs, each one value (Student's interval): how well the method does with another seed.",
            [
                ("method", "runs", "mean return", "success"),
                *((s.name, str(len(s.results)), interval(s.over_runs), interval(s.success_over_runs)) for s in over),
            ],
        )
    if results["improvement"]:
        yield Section(
            "Probability of improvement",
            "That a run of one method earns more than a run of another (bootstrap over runs).",
            [
                ("a run of", "over a run of", "probability"),
                *((e["of"], e["over"], estimate(e["mean"], e["low"], e["high"])) for e in results["improvement"]),
            ],
        )
    if dreamers := [s for s in scores if s.imagined is not None]:
        yield Section(
            "In their own dreams",
            "The same policy in its own dreams; the gap is what it earns there beyond its real return.",
            [
                ("policy", "imagined return", "real return", "gap"),
                *((s.name, interval(s.imagined), interval(s.mean), interval(s.gap)) for s in dreamers),
            ],
        )
    if distances := [(r.contestant.name, f) for s in scores for r in s.results if (f := r.evaluation.familiarity)]:
        steps = list(dict.fromkeys(step for _, found in distances for step in found))
        yield Section(
            "Familiarity",
            "How far the features in real play lie from those that the policy was trained on, by step of the episode "
            "(mean |z|; 1 is as far as in training).",
            [("policy", *steps), *((name, *(number(found.get(step)) for step in steps)) for name, found in distances)],
        )
    against = results["imagined_against_real"]
    if against["all"]["count"]:
        known = [("all", against["all"]), *against["methods"].items()]
        yield Section(
            "Imagined against real returns",
            "Whether imagined returns tell which checkpoint is better for real (checkpoints of all rounds and runs).",
            [
                ("checkpoints of", "n", "Pearson", "Spearman"),
                *((name, str(e["count"]), coefficient(e, "pearson"), coefficient(e, "spearman")) for name, e in known),
            ],
            ("imagined.png",),
        )
    if results["options"]["videos"]:
        names = [result.contestant.folder for score in scores for result in score.results]
        links = (f"{name}: {', '.join(f'[{kind}]({name}/{kind}.mp4)' for kind in VIDEOS)}" for name in names)
        yield Section("Videos", f"By return: {'; '.join(links)}.")


def learned(found: Mapping[str, Any]) -> Iterator[Section]:
    """What it took each method to reach the threshold and the best common level."""
    metric = LABELS[found["metric"]]
    pictures: tuple[str, ...] = ("curves.png",)
    for axis, (label, unit) in AXES.items():
        if not found[axis]:
            yield Section(f"Learning curves: {label}", f"The runs do not say their {label.split(',')[0]}.")
            continue
        lines = [("method", "level", "reached by", f"median {label}", "first", "last")]
        for name, figures in found[axis].items():
            for what, asked in (("threshold", figures["threshold"]), ("best common", figures["best_common"])):
                if asked is not None:
                    at = (NONE if (x := asked[k]) is None else f"{x / unit:,.1f}" for k in ("median", "first", "last"))
                    level, runs = f"{asked['level']:.3g} ({what})", f"{asked['runs']} of {asked['count']}"
                    lines.append((name, level, runs, *at))
        yield Section(
            f"Learning curves: {label}",
            f"Where the runs first reached a {metric}: median, first and last.",
            lines,
            pictures,
        )
        pictures = ()


def interval(value: Interval | Normalised | None) -> str:
    """A figure and its interval."""
    return NONE if value is None else estimate(value.mean, value.low, value.high)


def coefficient(found: Mapping[str, Any], name: str) -> str:
    """A correlation and its interval, or why there is none."""
    value = found[name]
    return str(found["note"]) if value is None else estimate(value["value"], value["low"], value["high"])
