"""The page that a run leaves: one HTML file with nothing beside it, and the figures as JSON."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from lssvwm.agents.report.now import Now, banner
from lssvwm.agents.report.plots import Curve, number, plot_curve, plot_returns
from lssvwm.worldmodel.common.atomic import replace
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.reporting.statistics import Interval

PAGE, RESULTS = "index.html", "results.json"
GROUPS = ("world_model", "policy", "evaluation")


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
    figures = json.dumps(plain(report.results, "results"), indent=2, ensure_ascii=False, allow_nan=False)
    replace(folder / RESULTS, lambda path: path.write_text(figures + "\n", encoding="utf-8"))
    return write_page(folder, report)


def write_page(folder: Path, report: Report) -> Path:
    """Write `index.html` alone, and return it."""
    page = render(report)
    replace(folder / PAGE, lambda path: path.write_text(page, encoding="utf-8"))
    return folder / PAGE


def plain(value: Any, where: str) -> Any:
    """`value` with nothing in it but what JSON has; an `InputError` names the first entry that does not fit."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(f"{where} is {value}, which JSON cannot hold: find where it comes from, or put None")
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InputError(f"{where} has the key {key!r}, which is no string: use str({key!r})")
        return {key: plain(entry, f"{where}[{key!r}]") for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry, f"{where}[{index}]") for index, entry in enumerate(value)]
    raise InputError(f"{where} is a {type(value).__name__}, which JSON does not have: make it a number, text or list")


def render(report: Report) -> str:
    """The whole page as HTML."""
    sections: tuple[tuple[str, Callable[[Report], str]], ...] = (
        ("Return in the real environment", evaluations),
        ("Videos", videos),
        ("Learning curves", learning_curves),
        ("How this was made", making),
    )
    body = "".join(f"<section><h2>{h}</h2>{text}</section>" for h, part in sections if (text := part(report)))
    cards = "".join(f"<div><dt>{escape(what)}</dt><dd>{escape(figure)}</dd></div>" for what, figure in report.summary)
    title, now = escape(report.title), "" if report.now is None else banner(report.now)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{title}</title><style>{STYLE}</style></head>'
        f"<body><main><h1>{title}</h1>{now}"
        f"{f'<dl class=cards>{cards}</dl>' if cards else ''}{body}</main></body></html>\n"
    )


def evaluations(report: Report) -> str:
    """A plot of the returns, and the table of everything that was measured."""
    if not report.evaluations:
        return ""
    plot = svg(plot_returns([(e.name, e.interval, e.returns) for e in report.evaluations]), "returns")
    heads = ("Policy", "Mean return", "95% interval", "Success", "Mean length", "Episodes")
    head = "".join(f"<th scope=col>{text}</th>" for text in heads)
    rows = "".join(evaluation_row(evaluated) for evaluated in report.evaluations)
    return (
        f'<figure class="panel wide">{plot}<figcaption>Dots are single episodes; the bar is the 95% interval of '
        "the mean (Student).</figcaption></figure>"
        f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def evaluation_row(evaluated: Evaluated) -> str:
    """One policy as a row of the table."""
    count, interval = len(evaluated.returns), evaluated.interval
    success = "–" if evaluated.successes is None else f"{100 * sum(evaluated.successes) / count:.1f}%"
    cells = (
        f"<b>{number(interval.mean)}</b>",
        f"{number(interval.low)} to {number(interval.high)}",
        success,
        f"{sum(evaluated.lengths) / count:,.1f}",
        f"{count:,}",
    )
    note = f"<small>{escape(evaluated.note)}</small>" if evaluated.note else ""
    values = "".join(f"<td>{cell}</td>" for cell in cells)
    return f"<tr><th scope=row>{escape(evaluated.name)}{note}</th>{values}</tr>"


def learning_curves(report: Report) -> str:
    """A plot per curve, grouped by what stands before the slash of its tag."""
    groups: dict[str, list[str]] = {}
    for tag, curve in report.curves.items():
        group, slash, name = tag.partition("/")
        drawn = svg(plot_curve(curve, (name if slash else tag).replace("_", " ")), tag)
        groups.setdefault(group if slash else "other", []).append(f"<figure class=panel>{drawn}</figure>")
    order = sorted(groups, key=lambda group: (GROUPS.index(group) if group in GROUPS else len(GROUPS), group))
    return "".join(
        f"<h3>{escape(group.replace('_', ' ').capitalize())}</h3><div class=grid>{''.join(groups[group])}</div>"
        for group in order
    )


def videos(report: Report) -> str:
    """Every clip with its caption."""
    return "".join(video(clip) for clip in report.clips)


def video(clip: Clip) -> str:
    """One clip, with its bytes in the page."""
    try:
        data = clip.video.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"the video {clip.video} of clip {clip.title!r} does not exist: write it first") from error
    poster = f' poster="{data_uri("image/png", clip.poster_png)}"' if clip.poster_png else ""
    still = (
        f'<img alt="{escape(clip.title)}: still frames" src="{data_uri("image/png", clip.still_png)}">'
        if clip.still_png
        else ""
    )
    return (
        f"<figure class=clip><h3>{escape(clip.title)}</h3>"
        f'<video controls loop muted playsinline preload="metadata"{poster} aria-label="{escape(clip.title)}"'
        f' src="{data_uri("video/mp4", data)}"></video>{still}<figcaption>{escape(clip.caption)}</figcaption></figure>'
    )


def making(report: Report) -> str:
    """The command, and the versions it ran with."""
    versions = report.results.get("versions")
    rows = "".join(
        f"<tr><th scope=row>{escape(name)}</th><td>{escape(str(version))}</td></tr>"
        for name, version in (versions.items() if isinstance(versions, Mapping) else ())
    )
    table = f"<div class=scroll><table class=versions><tbody>{rows}</tbody></table></div>" if rows else ""
    return (
        f"<pre><code>{escape(report.command)}</code></pre>{table}"
        f"<p>Every figure, with seeds and settings, {'stands' if report.now is None else 'will in the end stand'} in "
        f"<code>{RESULTS}</code> beside this page.</p>"
    )


def svg(data: bytes, label: str) -> str:
    """An SVG file as part of the page, with `label` for who cannot see it."""
    text = data.decode("utf-8")
    return f'<svg role="img" aria-label="{escape(label)}"' + text[text.index("<svg") + len("<svg") :]


def data_uri(kind: str, data: bytes) -> str:
    """A file of MIME type `kind` as an address that holds all of it."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


STYLE = """
:root { --page: #f6f7f9; --panel: #fff; --text: #1c1e23; --faint: #666b76; --line: #e2e4e9; }
@media (prefers-color-scheme: dark) {
  :root { --page: #131418; --panel: #1b1d22; --text: #e4e6ea; --faint: #979ca8; --line: #2d3038; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; letter-spacing: -.015em; margin: 0 0 1.5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; letter-spacing: -.01em; margin: 3rem 0 1rem; }
h3 { font-size: .95rem; margin: 1.5rem 0 .6rem; }
dl, dd, figure, pre { margin: 0; }
figcaption, small, dt, p { color: var(--faint); font-size: .875rem; }
figcaption { margin-top: .6rem; }
small { display: block; font-weight: 400; white-space: normal; }
svg, img, video { display: block; max-width: 100%; height: auto; }
svg { width: 100%; }
svg text { font-family: inherit !important; }
.cards { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); }
.cards div, .panel, .clip, .scroll, pre { background: var(--panel); border: 1px solid var(--line);
  border-radius: 10px; }
.cards div { padding: .8rem 1rem; display: flex; flex-direction: column; justify-content: space-between; }
.cards dd { font-size: 1.3rem; font-weight: 600; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.grid { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); }
.panel { padding: .75rem; }
.wide { padding: 1rem 1.25rem; margin-bottom: .75rem; }
.now { margin-bottom: 1.5rem; }
.now h2 { margin: .5rem 0; }
.now p { margin: .25rem 0; font-variant-numeric: tabular-nums; }
.now progress { width: 100%; accent-color: #3b82f6; }
.wide svg { max-width: 42rem; margin: 0 auto; }
.clip { padding: 1rem 1.25rem; margin-bottom: .75rem; }
.clip h3 { margin-top: 0; }
.clip img { margin: .75rem auto 0; }
.clip video { width: 100%; max-height: 24rem; background: #17181c; }
.clip img, .clip video { border-radius: 6px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .6rem 1rem; text-align: right; white-space: nowrap; }
th:first-child { text-align: left; min-width: 10rem; }
thead th { color: var(--faint); font-weight: 500; font-size: .8rem; }
tbody tr { border-top: 1px solid var(--line); }
thead + tbody tr:first-child, tr + tr { border-top: 1px solid var(--line); }
.versions tr:first-child { border-top: 0; }
.versions th, .versions td { padding: .35rem 1rem; font-weight: 400; }
.versions th { color: var(--faint); width: 1%; }
.versions td { text-align: left; }
pre { padding: .9rem 1rem; margin-bottom: .75rem; overflow-x: auto; }
code { font: .85rem ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
"""
