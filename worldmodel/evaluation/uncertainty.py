"""Does the model know when it is wrong? Its uncertainty beside the real error of the same frames.

    python -m lssvwm.worldmodel.evaluation.uncertainty CHECKPOINT --episodes HELD_OUT --out FOLDER

writes `uncertainty.json`, the figures by protocol and kind of uncertainty, and `uncertainty.png`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from lssvwm.worldmodel.checkpoint import device_of
from lssvwm.worldmodel.common.atomic import write_json
from lssvwm.worldmodel.common.command_line import run_main, started_as
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.evaluation.calibration import KINDS, Watched, calibrate, watch
from lssvwm.worldmodel.evaluation.models import Model, describe, load_models
from lssvwm.worldmodel.evaluation.protocols.clips import draw_windows, read_windows
from lssvwm.worldmodel.evaluation.protocols.judging import trial_for
from lssvwm.worldmodel.evaluation.protocols.trials import Protocol
from lssvwm.worldmodel.reporting.plots import Line, Plot, alone, plotted, write_plot
from lssvwm.worldmodel.reporting.results import plain, versions
from lssvwm.worldmodel.reporting.tables import estimate
from lssvwm.worldmodel.reporting.tables import table as markdown
from lssvwm.worldmodel.sampling import Sampler, Sampling
from lssvwm.worldmodel.uncertainty import DRAWS

Figures = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""What `calibrate` found, by protocol and kind of uncertainty."""


@dataclass(frozen=True)
class Options:
    """Calibrate a world model's uncertainty on recorded episodes."""

    checkpoint: tyro.conf.Positional[Path]
    """World model: a checkpoint folder, a name of `python -m lssvwm.worldmodel.worlds`, or hf://OWNER/NAME."""
    episodes: Path
    """Folder of recorded episodes that the model was not trained on."""
    out: Path
    """Folder for uncertainty.json and uncertainty.png."""
    protocols: tuple[Protocol, ...] = ("reasoning", "one-step")
    """reasoning: dreams along the recorded actions; one-step: every frame after the true ones; dropped, noised, jumped:
    dreams after a corrupted context."""
    context: int = 8
    """Frames that the model is shown."""
    horizon: int = 32
    """Frames that it dreams."""
    clips: int = 64
    """Clips, at most."""
    steps: int | None = None
    """Denoising steps per frame; None: 2, or 1 of a world model with `shortcut`."""
    draws: int = DRAWS
    """Other draws of every frame."""
    wrong_below: float = 30.0
    """PSNR in dB below which a frame counts as wrong."""
    rows: int = 16
    """Clips computed at once: less takes less memory."""
    seed: int = 0
    """Which clips are drawn, and with which noise."""
    pose: tuple[str, ...] = ()
    """Extras of the episodes that make up the agent's pose; by default what the checkpoint names."""
    device: str = "auto"
    """Where to compute: cpu, cuda, or auto for CUDA where there is one."""
    progress: bool = True
    """Show progress bars."""


def evaluate(options: Options) -> dict[str, Any]:
    """Judge every protocol and kind, and write it to `options.out`; returns what uncertainty.json holds."""
    for name in ("context", "horizon", "clips", "steps", "draws", "rows"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise InputError(f"--{name} {getattr(options, name)}: give at least 1")
    if refused := [name for name in options.protocols if name in ("cold-start", "retrieval")]:
        raise InputError(f"--protocols {refused[0]}: dreams along recorded actions are judged, choose reasoning")
    [model] = load_models([options.checkpoint], options.episodes, options.pose, device_of(options.device))
    options.out.mkdir(parents=True, exist_ok=True)
    seen = {protocol: watched(options, protocol, model) for protocol in options.protocols}
    judged: Figures = {
        protocol: {
            kind: calibrate(observed, kind, wrong_below=options.wrong_below, seed=options.seed)
            for kind in observed.scores
        }
        for protocol, observed in seen.items()
    }
    results = {
        "versions": versions("torchmetrics"),
        "options": asdict(options),
        "model": describe(model),
        "protocols": judged,
    }
    write_json(options.out / "uncertainty.json", plain(results))
    plot(options.out / "uncertainty.png", judged)
    print(table(judged))
    return results


def watched(options: Options, protocol: Protocol, model: Model) -> Watched:
    """`watch` the clips that the options ask for."""
    length = options.context + options.horizon
    windows = draw_windows(model.store, options.clips, length, np.random.default_rng(options.seed))
    world, clips = model.checkpoint.model, read_windows(model.store, windows)
    trial = trial_for(
        world, clips, protocol, context=options.context, horizon=options.horizon, corruption=None, seed=options.seed
    )
    return watch(
        Sampler(world, Sampling(options.steps or world.config.usual_steps)),
        trial,
        draws=options.draws,
        seed=options.seed,
        rows=options.rows,
        progress=options.progress,
    )


def table(judged: Figures) -> str:
    """The figures that decide: value [95 % interval over clips].

    "so far" is the area for the highest uncertainty since the context: what `truncate_above` goes by.
    """

    lines = [("protocol", "kind", "error", "pearson", "spearman", "at fixed step", "AUROC of wrong frames", "so far")]
    for protocol, kinds in judged.items():
        for kind, figures in kinds.items():
            for name, found in figures["correlations"].items():
                finds = figures["wrong_frames"]
                areas = (told(finds[area]) if name == "frame" else "" for area in ("auroc", "auroc_so_far"))
                measures = (told(found[measure]) for measure in ("pearson", "spearman", "at_fixed_step"))
                lines.append((protocol, kind, name, *measures, *areas))
    return markdown(lines)


def told(found: Mapping[str, float | None]) -> str:
    """A figure and its interval."""
    return estimate(found["value"], found["low"], found["high"])


def plot(path: Path, judged: Figures) -> None:
    """Write a PNG: the error of frames by how uncertain the model was, a panel per kind, a line per protocol."""
    labels = {"heads": "entropy of the heads (nats)", "draws": "distance between draws (pixel RMS)"}
    plots = []
    for kind in KINDS:
        lines = []
        for protocol, kinds in judged.items():
            groups = kinds[kind]["reliability"]
            said, so = ([group[key] for group in groups] for key in ("uncertainty", "error"))
            lines.append(Line(protocol, said, alone(so)))
        if kind == "draws":
            ends = [0.0, max(max(line.x) for line in lines)]
            lines.append(Line("error as large as said", ends, alone(ends), reference=True))
        plots.append(Plot(lines, labels[kind], "error of the frame (pixel RMS)"))
    write_plot(path, plotted(plots))


def main(args: Sequence[str] | None = None) -> None:
    """Parse the command line and calibrate."""
    evaluate(tyro.cli(Options, args=args, prog=started_as("lssvwm.worldmodel.evaluation.uncertainty")))


if __name__ == "__main__":
    run_main(main)
