"""The command: checkpoints and recorded episodes in; figures, curves and videos out."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from torch import Tensor

from worldmodel.checkpoint import device_of
from worldmodel.episodes import Clips, EpisodeStore
from worldmodel.errors import InputError
from worldmodel.evaluation import report
from worldmodel.evaluation.clips import draw_windows, read_windows
from worldmodel.evaluation.fvd import VideoFeatures
from worldmodel.evaluation.heads import judge_heads_on_real
from worldmodel.evaluation.judging import Judged, judge, judge_cold_start, trial_for
from worldmodel.evaluation.metrics import compare
from worldmodel.evaluation.models import Model, describe, load_models, versions
from worldmodel.evaluation.perceptual import Perceptual, load_lpips
from worldmodel.evaluation.probing import probe_memory
from worldmodel.evaluation.rollout import rollout
from worldmodel.evaluation.trials import CORRUPTED, Corruption, Protocol, Trial

RESULTS = "results.json"
STILL, REAL = "last frame held", "real frames"
"""What the models are seen beside: the frame before the first one asked for, held; and, after a cold start, reality."""


@dataclass(frozen=True)
class Options:
    """Judge world models on recorded episodes: how well they continue them, and what they remember.

    Name several checkpoints to see a model and its baselines side by side, on the same clips.
    """

    checkpoints: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of world models, made by train_wm.py or train_agent.py. The first names the table's order."""
    episodes: Path
    """Folder of recorded episodes, better ones that no model was trained on."""
    out: Path
    """Folder for results.json, drift-*.png, grid-*.mp4 and strip-*.png."""
    protocols: tuple[Protocol, ...] = ("reasoning",)
    """reasoning: the recorded actions; retrieval: the path replayed backwards (models with a pose); one-step: every
    frame after the true ones; cold-start: no context; dropped, noised, jumped: reasoning after a corrupted context."""
    context: int = 48
    """Frames that the models are shown."""
    horizon: int = 48
    """Frames that they continue."""
    clips: int = 64
    """Clips to judge, at most; they are held in memory."""
    steps: int = 4
    """Denoising steps per frame."""
    rows: int = 16
    """Clips computed at once: less takes less memory."""
    seed: int = 0
    """Which clips are drawn, with which noise, and what corruptions take."""
    pose: tuple[str, ...] = ()
    """Extras of the episodes that make up the agent's pose, as in training; by default what the checkpoint names."""
    corruption: Corruption = field(default_factory=Corruption)
    """What is wrong with corrupted contexts."""
    lpips: Path | None = None
    """Weights of torchvision's AlexNet or VGG16 (.pth or .safetensors): adds LPIPS."""
    fvd: Path | None = None
    """I3D as TorchScript (i3d_torchscript.pt): adds FVD."""
    probe: tuple[str, ...] = ()
    """Extras of the episodes to look for in memory, such as maze_layout and agent_pos."""
    shown: int = 3
    """Clips in the videos; 0 writes none."""
    device: str = "auto"
    """Where to compute: cpu, cuda, or auto for CUDA where there is one."""
    progress: bool = True
    """Show progress bars."""


def evaluate(options: Options) -> dict[str, Any]:
    """Run everything that is asked for and write it to `options.out`; returns what results.json holds."""
    for name in ("context", "horizon", "clips", "steps", "rows"):
        least = 0 if name == "context" else 1
        if getattr(options, name) < least:
            raise InputError(f"--{name} {getattr(options, name)}: give at least {least}")
    device = device_of(options.device)
    models = load_models(options.checkpoints, options.episodes, options.pose, device)
    lpips = None if options.lpips is None else load_lpips(options.lpips).to(device)
    fvd = None if options.fvd is None else VideoFeatures(options.fvd, device)
    if options.out.exists() and not options.out.is_dir():
        raise InputError(f"--out {options.out} is a file: name a folder")
    options.out.mkdir(parents=True, exist_ok=True)
    protocols: dict[str, dict[str, Any]] = {}
    clean: dict[str, Judged] = {}
    for protocol in protocols_of(options):
        judged = run_protocol(options, protocol, models, lpips, fvd)
        protocols[protocol] = {name: report.figures_of(each, options.seed) for name, each in judged.items()}
        if protocol == "reasoning":
            clean = judged
        elif protocol in CORRUPTED:
            for name, figures in protocols[protocol].items():
                figures["loss"] = losses(clean[name], judged[name], options.seed)
    probes = {
        model.name: [
            found.to_dict()
            for found in probe_memory(
                model.checkpoint.model,
                model.store,
                options.probe,
                context=options.context,
                clips=options.clips,
                seed=options.seed,
                rows=options.rows,
                progress=options.progress,
            )
        ]
        for model in models
        if options.probe
    }
    results = {
        "command": shlex.join(["python", "-m", "worldmodel.evaluation", *sys.argv[1:]]),
        "versions": versions(),
        "options": asdict(options),
        "models": {model.name: described(model, options) for model in models},
        "protocols": protocols,
        "probes": probes,
    }
    report.write_results(options.out / RESULTS, results)
    print(report.table(protocols))
    if probes:
        print("\n" + report.probe_table(probes))
    return results


def run_protocol(
    options: Options, protocol: Protocol, models: Sequence[Model], lpips: Perceptual | None, fvd: VideoFeatures | None
) -> dict[str, Judged]:
    """Judge all models in one protocol, and what they are to be seen beside; write its plot and its videos."""
    judged: dict[str, Judged] = {}
    imagined: dict[str, Tensor] = {}
    trial: Trial | None = None
    for model in models:
        world, clips = model.checkpoint.model, clips_of(options, protocol, model.store)
        trial = trial_for(
            world,
            clips,
            protocol,
            context=options.context,
            horizon=options.horizon,
            corruption=options.corruption,
            seed=options.seed,
        )
        if options.progress:
            print(f"{protocol}: {model.name}", file=sys.stderr)
        rolled = rollout(
            world, trial, steps=options.steps, seed=options.seed, rows=options.rows, progress=options.progress
        )
        if protocol == "cold-start":
            judged[model.name] = judge_cold_start(rolled.frames, trial.ahead)
        else:
            with_heads = protocol in ("reasoning", "one-step")
            judged[model.name] = judge(trial, rolled, heads=with_heads, lpips=lpips, fvd=fvd)
        imagined[model.name] = rolled.frames[: options.shown]
    assert trial is not None
    if protocol == "cold-start":
        reference = {REAL: judge_cold_start(trial.ahead.frames, trial.ahead)}
    else:
        reference = {STILL: held(trial)}
    judged |= reference
    report.plot_drift(options.out / f"drift-{protocol}.png", protocol, judged, options.seed, list(reference))
    if options.shown > 0:
        report.write_grid(options.out, protocol, trial, imagined)
    return judged


def held(trial: Trial) -> Judged:
    """What holding the last real frame would give: that of the context, or with a teacher the one before."""
    ahead, last = trial.ahead.frames, trial.context.frames[:, -1:]
    frames = torch.cat([last, ahead[:, :-1]], 1) if trial.teacher else last.expand_as(ahead)
    return Judged(compare(frames, ahead, trial.ahead.mask))


def losses(clean: Judged, corrupted: Judged, seed: int) -> dict[str, Any]:
    """What each metric loses against the clean context, clip by clip: clean minus corrupted."""
    before, after = report.metrics_of(clean), report.metrics_of(corrupted)
    return {name: report.summary(before[name] - after[name], seed) for name in after}


def protocols_of(options: Options) -> tuple[Protocol, ...]:
    """The protocols asked for, once each, and reasoning first where corrupted contexts are compared with it."""
    first: tuple[Protocol, ...] = ("reasoning",) if set(options.protocols) & set(CORRUPTED) else ()
    return tuple(dict.fromkeys((*first, *options.protocols)))


def clips_of(options: Options, protocol: Protocol, store: EpisodeStore) -> Clips:
    """The clips of a protocol: the same windows for every model, and for all protocols after a context."""
    generator = np.random.default_rng(options.seed)
    if protocol == "cold-start":
        windows = draw_windows(store, options.clips, options.horizon, generator, start="episode")
    else:
        windows = draw_windows(store, options.clips, options.context + options.horizon, generator)
    return read_windows(store, windows)


def described(model: Model, options: Options) -> dict[str, Any]:
    """What a model is, and how its heads do on real frames: clips as long as the protocols', or as episodes allow."""
    length = min(int(model.store.lengths.max()), options.context + options.horizon)
    windows = draw_windows(model.store, options.clips, length, np.random.default_rng(options.seed))
    heads = judge_heads_on_real(model.checkpoint.model, read_windows(model.store, windows), rows=options.rows)
    return {**describe(model), "heads_on_real_frames": heads.to_dict()}


def main() -> None:
    """Parse the command line and evaluate."""
    evaluate(tyro.cli(Options))
