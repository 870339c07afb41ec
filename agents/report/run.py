"""The report of one run: what its stages measured, and real episodes beside the dreams of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lssvwm.agents.evaluation import Evaluation
from lssvwm.agents.evaluation.starts import Starts
from lssvwm.agents.report.now import Now, round_of
from lssvwm.agents.report.page import Clip, Evaluated, Report, write_report
from lssvwm.agents.report.plots import read_curves
from lssvwm.worldmodel.episodes import Episode, EpisodeStore
from lssvwm.worldmodel.episodes.data import FPS_KEY
from lssvwm.worldmodel.evaluation import Dreamt, dream_along
from lssvwm.worldmodel.model import WorldModel
from lssvwm.worldmodel.reporting.results import versions
from lssvwm.worldmodel.reporting.statistics import Interval, separated, within
from lssvwm.worldmodel.reporting.video import Panel, encode_png, filmstrip, montage, write_mp4

CONTEXT = 8
NOTES = {
    "real": "trained in the real environment, the model-free anchor",
    "clone": "cloned from what was recorded, judged for real",
    "plan": "planned in dreams at every step, judged for real",
    "from a clone": "cloned from what was recorded, then trained in imagination, judged for real",
    "dream": "trained only in imagination, judged for real",
}
JUDGED = "One of the first ten of the evaluation, the longest."
SHOWN = 96
"""Frames of an episode that are shown at most."""


@dataclass(frozen=True)
class Shown:
    """A real episode as the page shows it; with a world model beside the dream of it, and how far that drifted."""

    clip: Clip
    dreamt: Dreamt | None


def report_run(
    out: Path,
    stages: Mapping[str, Mapping[str, Any]],
    model: WorldModel | None,
    *,
    settings: Mapping[str, Any],
    command: str,
) -> Path:
    """Write RUN/report and return its page. `stages` are the figures of all stages by name, in order.

    Without a world model there are no dreams to show, as the policy learned in the real environment.
    """
    shown = {}
    for name in ("random", [name for name in stages if name.endswith("-evaluation")][-1]):
        judged, steps = Evaluation.from_dict(stages[name]).name, settings["dreamer"]["steps"]
        shown[judged] = show(out, judged, JUDGED, example(out, name), model, steps, SHOWN)
    return write_report(out / "report", report_of(out, stages, shown, settings=settings, command=command))


def report_of(
    out: Path,
    stages: Mapping[str, Mapping[str, Any]],
    shown: Mapping[str, Shown],
    *,
    settings: Mapping[str, Any],
    command: str,
    now: Now | None = None,
) -> Report:
    """The report from what there is: figures of the stages that are done, in order, and episodes by whose they are."""
    random = Evaluation.from_dict(stages["random"]) if "random" in stages else None
    learned = {name: Evaluation.from_dict(f) for name, f in stages.items() if name.endswith("-evaluation")}
    last = list(learned)[-1] if learned else None
    dreamt_returns = None if last is None else stages[last].get("imagined_returns")
    imagined = None if dreamt_returns is None else within([dreamt_returns])

    results = {
        "env": settings["env"],
        "command": command,
        "versions": versions("gymnasium"),
        "settings": settings,
        "stages": stages,
        "dream_drift": {
            name: {"context": each.dreamt.context, "psnr_by_frame": each.dreamt.psnr}
            for name, each in shown.items()
            if each.dreamt is not None
        },
    }
    if random is not None and last is not None:
        results |= _compared(random, learned[last], imagined)
    gaps = {name.split("-")[0]: gap for name in learned if (gap := stages[name].get("imagined_minus_real"))}
    if gaps:
        results["imagined_minus_real"] = gaps
    real, curves = settings["place"] == "real", out / "tensorboard"
    in_dreams = NOTES.get(settings["algo"], NOTES["from a clone" if settings["clone"] else "dream"])
    note = NOTES["real"] if real else in_dreams
    rounds = [_evaluated(f"{each.name}, round {round_of(name)}", each, note) for name, each in learned.items()]
    return Report(
        title=f"{settings['env']}: {note}",
        command=command,
        summary=_summary(random, learned[last] if last else None, imagined, stages),
        evaluations=[*([_evaluated("random", random, "uniform over the same actions")] if random else []), *rounds],
        curves={
            tag: curve
            for part in (sorted(curves.iterdir()) if curves.is_dir() else ())
            for tag, curve in read_curves(part).items()
        },
        clips=[each.clip for each in shown.values()],
        results=results,
        now=now,
    )


def example(out: Path, stage: str) -> Episode:
    """The episode that was kept of an evaluation."""
    store = EpisodeStore(out / "examples" / stage)
    return store.read(store.names[-1])


def show(
    out: Path, name: str, chosen: str, episode: Episode, model: WorldModel | None, steps: int | None, frames: int
) -> Shown:
    """The beginning of an episode as a video in RUN/report, beside the dream of `model`; `chosen` says which it is."""
    episode = episode.beginning(frames)
    dreamt = None if model is None else dream_along(model, episode, context=CONTEXT, steps=steps)
    folder = out / "report"
    folder.mkdir(parents=True, exist_ok=True)
    return Shown(_clip(folder, name, chosen, episode, dreamt), dreamt)


def _compared(random: Evaluation, last: Evaluation, imagined: Interval | None) -> dict[str, Any]:
    return {
        "real_return": {e.name: e.interval.to_dict() for e in (random, last)},
        "imagined_return": None if imagined is None else imagined.to_dict(),
        "exploitation_gap": None if imagined is None else imagined.mean - last.interval.mean,
        "beats_random": separated(last.interval, random.interval),
    }


def _summary(
    random: Evaluation | None,
    last: Evaluation | None,
    imagined: Interval | None,
    stages: Mapping[str, Mapping[str, Any]],
) -> list[tuple[str, str]]:
    judged = [each for each in (last, random) if each is not None]
    figures = [(f"Real return, {each.name}", str(each.interval)) for each in judged]
    figures += [(f"Success rate, {each.name}", f"{np.mean(each.successes):.0%}") for each in judged]
    if imagined is not None:
        figures.append(("Return in its own dreams", f"{imagined.mean:.2f}"))
    if begun := [f["starts"] for f in stages.values() if "starts" in f]:
        figures.append(("Evaluated episodes", str(Starts(**begun[-1]))))
    for name, stage in stages.items():
        if gap := stage.get("imagined_minus_real"):
            shown_gap = f"{gap['mean']:+.2f} ({gap['low']:+.2f} to {gap['high']:+.2f})"
            figures.append((f"Imagined minus real, round {round_of(name)}", shown_gap))
    collected = [f for name, f in stages.items() if name.endswith("-collect") or name == "demonstrations"]
    if collected:
        figures.append(("Real frames recorded", f"{sum(f['frames'] for f in collected):,}"))
    policies = [f for name, f in stages.items() if name.endswith("-policy")]
    steps = {"imagined_frames": "Imagined frames, at most", "real_steps": "Real steps learned from"}
    figures += [(told, f"{policies[-1][key]:,}") for key, told in steps.items() if policies and key in policies[-1]]
    return figures


def _evaluated(name: str, e: Evaluation, note: str) -> Evaluated:
    return Evaluated(name, list(e.returns), list(e.lengths), list(e.successes), e.interval, note)


def _clip(folder: Path, name: str, chosen: str, episode: Episode, dreamt: Dreamt | None) -> Clip:
    panels, first = [Panel("real", episode.image)], 0
    title, caption = f"{name}: a real episode", chosen
    if dreamt is not None:
        panels, first = [*panels, Panel(f"dream from frame {dreamt.context}", dreamt.frames)], dreamt.context
        title = f"{name}: real and dreamt"
        caption = (
            f"The same episode twice: as it was, and dreamt from its first {dreamt.context} frames under the same "
            f"actions. The dreamt frames agree with the real ones to {np.mean(dreamt.psnr):.1f} dB on average. What "
            "was hidden so far may differ: the dream has to guess it."
        )
    path = folder / f"{name.replace(' ', '-')}.mp4"
    fps = float(episode.extras.get(FPS_KEY, 5))  # the real speed, or one at which steps can be told apart
    write_mp4(path, montage(panels), fps=fps)
    shown = min(len(episode.image), 40)
    strip = filmstrip([Panel(p.label, p.frames[:shown]) for p in panels], every=max(1, shown // 10))
    poster = montage([Panel(p.label, p.frames[first : first + 1]) for p in panels])[0]
    return Clip(title=title, caption=caption, video=path, poster_png=encode_png(poster), still_png=encode_png(strip))
