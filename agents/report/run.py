"""The report of one run: what its stages measured, and real episodes beside the dreams of them."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from agents.evaluation import Evaluation
from agents.report.page import Clip, Evaluated, Report, write_report
from agents.report.plots import read_curves
from agents.statistics import bootstrap_interval, separated
from worldmodel import __version__
from worldmodel.episodes import Episode, EpisodeStore
from worldmodel.episodes.data import KEYS
from worldmodel.evaluation import Dreamt, dream_along
from worldmodel.model import WorldModel
from worldmodel.video import Panel, encode_png, filmstrip, montage, write_mp4

CONTEXT = 8
ONLY_IMAGINED = "trained only in imagination, judged for real"
ANCHOR = "trained in the real environment, the model-free anchor"
SHOWN = 96
"""Frames of an episode that are shown at most."""


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
    folder = out / "report"
    folder.mkdir(parents=True, exist_ok=True)
    random = Evaluation.from_dict(stages["random"])
    learned = [(name, figures) for name, figures in stages.items() if name.endswith("-evaluation")]
    last = Evaluation.from_dict(learned[-1][1])
    dreamt_returns = learned[-1][1].get("imagined_returns")
    imagined = None if dreamt_returns is None else bootstrap_interval(dreamt_returns)

    clips, drift = [], {}
    for name, evaluation in (("random", random), (learned[-1][0], last)):
        store = EpisodeStore(out / "examples" / name)
        episode = beginning(store.read(store.names[-1]), SHOWN)
        if model is None:
            clips.append(_clip(folder, evaluation.name, episode, None))
            continue
        dreamt = dream_along(model, episode, context=CONTEXT, steps=settings["dreamer"]["steps"])
        drift[evaluation.name] = {"context": dreamt.context, "psnr_by_frame": dreamt.psnr}
        clips.append(_clip(folder, evaluation.name, episode, dreamt))

    versions = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "gymnasium": gymnasium.__version__,
        "numpy": np.__version__,
        "lssvwm": __version__,
    }
    results = {
        "env": settings["env"],
        "command": command,
        "versions": versions,
        "settings": settings,
        "stages": stages,
        "real_return": {e.name: e.interval.to_dict() for e in (random, last)},
        "imagined_return": None if imagined is None else imagined.to_dict(),
        "exploitation_gap": None if imagined is None else imagined.mean - last.interval.mean,
        "beats_random": separated(last.interval, random.interval),
        "dream_drift": drift,
    }
    report = Report(
        title=f"{settings['env']}: {'learned' if model is None else 'learned in dreams, judged'} for real",
        command=command,
        summary=_summary(random, last, None if imagined is None else imagined.mean, stages),
        evaluations=[
            _evaluated("random", random, "uniform over the same actions"),
            *(
                _evaluated(
                    f"{last.name}, round {name.split('-')[0]}",
                    Evaluation.from_dict(figures),
                    ANCHOR if model is None else ONLY_IMAGINED,
                )
                for name, figures in learned
            ),
        ],
        curves={k: v for part in sorted((out / "tensorboard").iterdir()) for k, v in read_curves(part).items()},
        clips=clips,
        results=results,
    )
    return write_report(folder, report)


def beginning(episode: Episode, frames: int) -> Episode:
    """The first `frames` frames of an episode, without its extras."""
    return Episode(*(getattr(episode, key)[:frames] for key in KEYS))


def _summary(
    random: Evaluation, last: Evaluation, imagined: float | None, stages: Mapping[str, Mapping[str, Any]]
) -> list[tuple[str, str]]:
    def shown(e: Evaluation) -> str:
        return f"{e.interval.mean:.2f} ({e.interval.low:.2f} to {e.interval.high:.2f})"

    figures = [
        (f"Real return, {last.name}", shown(last)),
        ("Real return, random", shown(random)),
        (f"Success rate, {last.name}", f"{np.mean(last.successes):.0%}"),
        ("Success rate, random", f"{np.mean(random.successes):.0%}"),
    ]
    if imagined is not None:
        figures.append(("Return in its own dreams", f"{imagined:.2f}"))
    collected = [f for name, f in stages.items() if name.endswith("-collect")]
    if collected:
        figures.append(("Real frames recorded", f"{sum(f['frames'] for f in collected):,}"))
    policies = [f for name, f in stages.items() if name.endswith("-policy")]
    steps = {"imagined_frames": "Imagined frames", "real_steps": "Real steps learned from"}
    figures += [(told, f"{policies[-1][key]:,}") for key, told in steps.items() if key in policies[-1]]
    return figures


def _evaluated(name: str, e: Evaluation, note: str) -> Evaluated:
    return Evaluated(name, list(e.returns), list(e.lengths), list(e.successes), e.interval, note)


def _clip(folder: Path, name: str, episode: Episode, dreamt: Dreamt | None) -> Clip:
    panels, first = [Panel("real", episode.image)], 0
    title, caption = f"{name}: a real episode", "One of the first ten of the evaluation, the longest."
    if dreamt is not None:
        panels, first = [*panels, Panel(f"dream from frame {dreamt.context}", dreamt.frames)], dreamt.context
        title = f"{name}: real and dreamt"
        caption = (
            f"The same episode twice: as it was, and dreamt from its first {dreamt.context} frames under the same "
            f"actions. The dreamt frames agree with the real ones to {np.mean(dreamt.psnr):.1f} dB on average. What "
            "was hidden so far may differ: the dream has to guess it."
        )
    path = folder / f"{name.replace(' ', '-')}.mp4"
    write_mp4(path, montage(panels), fps=5)
    shown = min(len(episode.image), 40)
    strip = filmstrip([Panel(p.label, p.frames[:shown]) for p in panels], every=max(1, shown // 10))
    poster = montage([Panel(p.label, p.frames[first : first + 1]) for p in panels])[0]
    return Clip(title=title, caption=caption, video=path, poster_png=encode_png(poster), still_png=encode_png(strip))
