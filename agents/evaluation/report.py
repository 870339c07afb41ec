"""The tables of an evaluation, as Markdown that also reads well in a terminal."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lssvwm.agents.evaluation.anchors import Anchor
from lssvwm.agents.evaluation.plots import AXES, LABELS
from lssvwm.agents.evaluation.scores import Score
from lssvwm.agents.evaluation.starts import Starts
from lssvwm.agents.report.plots import number
from lssvwm.worldmodel.reporting.statistics import Interval

NONE = "–"


def versions() -> dict[str, str]:
    """What the figures were made with."""
    found = {"python": platform.python_version()}
    for name in ("lssvwm", "torch", "numpy", "gymnasium"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def markdown(results: Mapping[str, Any], scores: Sequence[Score], anchors: Sequence[Anchor]) -> str:
    """The whole report. `results` is what results.json holds."""
    parts: list[str] = []
    if scores:
        parts += played(results, scores, anchors)
    if "comparison" in results:
        parts += comparison(results["comparison"])
    parts.append(f"```\n{results['command']}\n```")
    return "\n\n".join(parts) + "\n"


def played(results: Mapping[str, Any], scores: Sequence[Score], anchors: Sequence[Anchor]) -> list[str]:
    """Real returns, anchors, what happens over runs, dreams, and where the videos are."""
    first = scores[0].results[0].evaluation.seeds
    scale = {score.normalised.by for score in scores if score.normalised is not None}
    heads = ["policy", "runs", "mean return", "IQM", "success", "steps"]
    heads += [f"{kind}-normalised" for kind in sorted(scale)]
    rows = [
        [
            score.name,
            str(len(score.results)),
            interval(score.mean),
            interval(score.iqm),
            interval(score.success),
            f"{score.length:,.1f}",
            *(
                f"{score.normalised.mean:.2f} [{score.normalised.low:.2f}, {score.normalised.high:.2f}]"
                if score.normalised is not None and score.normalised.by == kind
                else NONE
                for kind in sorted(scale)
            ),
        ]
        for score in scores
    ]
    rows += [
        [f"{anchor.kind} ({anchor.source})", NONE, number(anchor.value), *[NONE] * (len(heads) - 3)]
        for anchor in anchors
        if not anchor.source.startswith("played")
    ]
    parts = [
        f"# {results['env']['id']}",
        f"{len(first)} real episodes for each policy or run, seeds {first[0]} to {first[-1]}. In brackets the 95 % "
        "interval over episodes, within the runs: Student's (Welch), of successes Wilson's, of the interquartile mean "
        "a stratified bootstrap; normalised scores are 0 for random play and 1 for the "
        "anchor, which is taken as it is.",
        table(heads, rows),
    ]
    if results.get("starts"):
        told = [f"{name}: {Starts(**found)}" for name, found in results["starts"].items()]
        parts.append(f"Where episodes begin, whole grid and all, and what each run recorded. {'; '.join(told)}.")
    several = [score for score in scores if score.over_runs is not None]
    if several:
        over = [[s.name, str(len(s.results)), interval(s.over_runs), interval(s.success_over_runs)] for s in several]
        parts += [
            "Over runs, each one value (Student's interval): how well the method does with another seed.",
            table(["method", "runs", "mean return", "success"], over),
        ]
    if results["improvement"]:
        pairs = [
            [e["of"], e["over"], f"{e['mean']:.2f} [{e['low']:.2f}, {e['high']:.2f}]"] for e in results["improvement"]
        ]
        parts += [
            "Probability of improvement: that a run of one method earns more than a run of another (bootstrap over "
            "runs).",
            table(["a run of", "over a run of", "probability"], pairs),
        ]
    dreamers = [score for score in scores if score.imagined is not None]
    if dreamers:
        gaps = [[s.name, interval(s.imagined), interval(s.mean), interval(s.gap)] for s in dreamers]
        parts += [
            "The same policy in its own dreams; the gap is what it earns there beyond its real return.",
            table(["policy", "imagined return", "real return", "gap"], gaps),
        ]
    if distances := [(r.contestant.name, f) for s in scores for r in s.results if (f := r.evaluation.familiarity)]:
        buckets = list(dict.fromkeys(bucket for _, found in distances for bucket in found))
        parts += [
            "How far the features in real play lie from those that the policy was trained on, by step of the episode "
            "(mean |z|; 1 is as far as in training).",
            table(
                ["policy", *buckets],
                [[name, *(number(f[b]) if b in f else NONE for b in buckets)] for name, f in distances],
            ),
        ]
    if results["imagined_against_real"]["all"]["count"]:
        against = results["imagined_against_real"]
        known = [("all", against["all"]), *against["methods"].items()]
        lines = [[name, str(e["count"]), coefficient(e, "pearson"), coefficient(e, "spearman")] for name, e in known]
        parts += [
            "Whether imagined returns tell which checkpoint is better for real (checkpoints of all rounds and runs).",
            table(["checkpoints of", "n", "Pearson", "Spearman"], lines),
            "![imagined against real returns](imagined.png)",
        ]
    if results["options"]["videos"]:
        names = [result.contestant.folder for score in scores for result in score.results]
        links = [f"{name}: " + ", ".join(f"[{kind}]({name}/{kind}.mp4)" for kind in KINDS) for name in names]
        parts.append("Videos by return: " + "; ".join(links) + ".")
    return parts


KINDS = ("best", "median", "worst")


def comparison(found: Mapping[str, Any]) -> list[str]:
    """What it took each method to reach the threshold and the best common level."""
    metric = LABELS[found["metric"]]
    parts = [f"# Learning curves: {metric}", f"![{metric} over real steps and over wall-clock](curves.png)"]
    for axis, (label, unit) in AXES.items():
        if not found[axis]:
            parts.append(f"The runs do not say their {label.split(',')[0]}.")
            continue
        heads = ["method", "level", "reached by", f"median {label}", "first", "last"]
        rows = [
            [
                name,
                f"{asked['level']:.3g} ({what})",
                f"{asked['runs']} of {asked['count']}",
                *(NONE if asked[k] is None else f"{asked[k] / unit:,.1f}" for k in ("median", "first", "last")),
            ]
            for name, figures in found[axis].items()
            for what, asked in (("threshold", figures["threshold"]), ("best common", figures["best_common"]))
            if asked is not None
        ]
        parts.append(table(heads, rows))
    return parts


def interval(value: Interval | None) -> str:
    """A figure and its interval."""
    return NONE if value is None else f"{number(value.mean)} [{number(value.low)}, {number(value.high)}]"


def coefficient(found: Mapping[str, Any], name: str) -> str:
    """A correlation and its interval, or why there is none."""
    value = found[name]
    if value is None:
        return str(found["note"])
    return f"{value['value']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up as plain text."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (heads, *rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(heads))]

    def text(line: Sequence[str]) -> str:
        first, *others = zip(line, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return f"| {' | '.join(cells)} |"

    rule = f"|{'-' * (widths[0] + 2)}|{'|'.join('-' * (width + 1) + ':' for width in widths[1:])}|"
    return "\n".join([text(lines[0]), rule, *map(text, lines[1:])])
