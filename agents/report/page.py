"""The page that a run leaves: one HTML file with nothing beside it, and the figures as JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import jinja2

from lssvwm.agents.report.now import Now
from lssvwm.agents.report.plots import Curve, plot_curve, plot_returns
from lssvwm.worldmodel.common.atomic import write_text
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.reporting.results import exact
from lssvwm.worldmodel.reporting.statistics import Interval
from lssvwm.worldmodel.reporting.tables import number, span

PAGE, RESULTS = "index.html", "results.json"
GROUPS = ("world_model", "cloning", "policy", "evaluation")


@dataclass(frozen=True)
class Evaluated:
    """Real episodes of one policy: per episode the return, the length in steps, and the success where it is defined.

    `interval` is that of the mean return. Lists of different lengths are an `InputError`.
    """

    name: str
    returns: list[float]
    lengths: list[int]
    successes: list[bool] | None
    interval: Interval
    note: str = ""

    def __post_init__(self) -> None:
        counts = {"returns": len(self.returns), "lengths": len(self.lengths), "interval": self.interval.count}
        if self.successes is not None:
            counts["successes"] = len(self.successes)
        if len(set(counts.values())) > 1 or not self.returns:
            raise InputError(f"evaluation {self.name!r} needs one entry per episode and at least one, got {counts}")


@dataclass(frozen=True)
class Clip:
    """A video on the page: an mp4 file, the picture shown before it plays, and a still (a filmstrip) to go under it."""

    title: str
    caption: str
    video: Path
    poster_png: bytes | None = None
    still_png: bytes | None = None


@dataclass(frozen=True)
class Report:
    """All that a report shows. `summary` holds the key figures, (what, figure), ready to read; `results` everything.

    `now` is what the run is doing, as long as this is not its final report.
    `results` becomes results.json: mappings with string keys, lists, strings, finite numbers, booleans and None.
    `results["versions"]`, a mapping where present, is also shown on the page.
    """

    title: str
    command: str
    summary: Sequence[tuple[str, str]]
    evaluations: Sequence[Evaluated]
    curves: Mapping[str, Curve]
    clips: Sequence[Clip]
    results: Mapping[str, Any]
    now: Now | None = None


def write_report(folder: Path, report: Report) -> Path:
    """Write `results.json` and the self-contained `index.html` to `folder`, made when missing; returns the page.

    Either file is the old or the new one, never half. An `InputError` names the entry of `results` that JSON cannot
    hold, such as a return that is nan, or the video that is missing; without matplotlib, a `MissingExtraError` says
    how to get it, and the figures have been written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / RESULTS, json.dumps(exact(report.results), indent=2, ensure_ascii=False) + "\n")
    return write_page(folder, report)


def write_page(folder: Path, report: Report) -> Path:
    """Write `index.html` alone, and return it."""
    write_text(folder / PAGE, render(report))
    return folder / PAGE


def render(report: Report) -> str:
    """The whole page as HTML: `page.html` filled in."""
    entries = [(e.name, e.interval, e.returns) for e in report.evaluations]
    returns = svg(plot_returns(entries), "returns") if entries else ""
    page = TEMPLATES.get_template("page.html")
    return page.render(report=report, returns=returns, curves=learning_curves(report.curves))


def learning_curves(curves: Mapping[str, Curve]) -> dict[str, list[str]]:
    """A plot per curve, grouped by what stands before the slash of its tag."""
    groups: dict[str, list[str]] = {}
    for tag, curve in curves.items():
        group, slash, name = tag.partition("/")
        drawn = svg(plot_curve(curve, (name if slash else tag).replace("_", " ")), tag)
        groups.setdefault(group if slash else "other", []).append(drawn)
    order = sorted(groups, key=lambda group: (GROUPS.index(group) if group in GROUPS else len(GROUPS), group))
    return {group: groups[group] for group in order}


def video(clip: Clip) -> bytes:
    """The bytes of a clip's video."""
    try:
        return clip.video.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"the video {clip.video} of clip {clip.title!r} does not exist: write it first") from error


def svg(data: bytes, label: str) -> str:
    """An SVG file as part of the page, with `label` for who cannot see it."""
    text = data.decode("utf-8")
    return f'<svg role="img" aria-label="{escape(label)}"' + text[text.index("<svg") + len("<svg") :]


def data_uri(kind: str, data: bytes) -> str:
    """A file of MIME type `kind` as an address that holds all of it."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
)
TEMPLATES.globals |= {"number": number, "span": span, "data_uri": data_uri, "video": video}
