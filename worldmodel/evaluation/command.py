"""The command: checkpoints and recorded episodes in; figures, curves and videos out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, NamedTuple

import numpy as np
import tyro

from lssvwm.worldmodel.checkpoint import device_of
from lssvwm.worldmodel.common.atomic import write_json
from lssvwm.worldmodel.common.command_line import started_as, typed
from lssvwm.worldmodel.common.errors import InputError, require
from lssvwm.worldmodel.evaluation.metrics.fvd import VideoFeatures
from lssvwm.worldmodel.evaluation.metrics.heads import judge_heads_on_real
from lssvwm.worldmodel.evaluation.metrics.perceptual import load_lpips
from lssvwm.worldmodel.evaluation.models import Model, describe, load_models
from lssvwm.worldmodel.evaluation.options import Options, StudyName
from lssvwm.worldmodel.evaluation.probing.memory import Probed, looked_for, probe_memory
from lssvwm.worldmodel.evaluation.probing.study import probe_study
from lssvwm.worldmodel.evaluation.protocols.clips import draw_windows, read_windows
from lssvwm.worldmodel.evaluation.protocols.figures import figures_of, table
from lssvwm.worldmodel.evaluation.protocols.judging import Judged
from lssvwm.worldmodel.evaluation.protocols.running import losses, protocols_of, run_protocol, trials, windows_of
from lssvwm.worldmodel.evaluation.protocols.trials import CORRUPTED
from lssvwm.worldmodel.evaluation.studies.memory_use import ages_of, memory_use
from lssvwm.worldmodel.evaluation.studies.palindrome import palindrome, walks_of
from lssvwm.worldmodel.evaluation.studies.recovery import disturbed_windows, recovery
from lssvwm.worldmodel.evaluation.studies.revisits import looked_at, revisits
from lssvwm.worldmodel.evaluation.studies.rewards import rewarded, rewards
from lssvwm.worldmodel.evaluation.studies.study import Settings, Study, plot_study
from lssvwm.worldmodel.evaluation.studies.wrong_actions import wrong_actions, wrong_of
from lssvwm.worldmodel.reporting.page import Section, write_page
from lssvwm.worldmodel.reporting.results import plain, versions

RESULTS = "results.json"


def evaluate(options: Options) -> dict[str, Any]:
    """Run everything that is asked for and write it to `options.out`; returns what results.json holds."""
    for module in ("torchmetrics.functional.image", "torchmetrics.functional.classification", "matplotlib.figure"):
        require(module, "evaluation", "judging world models")  # now, not after minutes
    if options.shown:
        require("av", "evaluation", "videos (--shown 0 writes none)")
    device = device_of(options.device)
    models = load_models(options.checkpoints, options.episodes, options.pose, device)
    lpips = None if options.lpips is None else load_lpips(options.lpips).to(device)
    fvd = None if options.fvd is None else VideoFeatures(options.fvd, device)
    if options.out.exists() and not options.out.is_dir():
        raise InputError(f"--out {options.out} is a file: name a folder")
    check(options, models)
    options.out.mkdir(parents=True, exist_ok=True)
    studies = [found for name in options.studies if (found := study(name, options, models)) is not None]
    protocols: dict[str, dict[str, Any]] = {}
    clean: dict[str, Judged] = {}
    for protocol in protocols_of(options):
        judged = run_protocol(options, protocol, models, lpips, fvd)
        protocols[protocol] = {name: figures_of(each) for name, each in judged.items()}
        if protocol == "reasoning":
            clean = judged
        elif protocol in CORRUPTED:
            for name, figures in protocols[protocol].items():
                figures["loss"] = losses(clean[name], judged[name])
    probes = {model.name: [found.to_dict() for found in probed(options, model)] for model in models if options.probe}
    command = typed("lssvwm.worldmodel.evaluation")
    results = {
        "command": command,
        "versions": versions("torchmetrics"),
        "options": asdict(options),
        "models": {model.name: described(model, options) for model in models},
        "protocols": protocols,
        "studies": {found.name: found.figures for found in studies},
        "probes": probes,
    }
    write_json(options.out / RESULTS, plain(results))
    if probes:
        studies.append(probe_study(probes, about_probes(options)))
    for found in studies:
        plot_study(options.out / found.picture, found)
    sections = [protocol_section(options, protocols)] if protocols else []
    sections += [found.section() for found in studies]
    print(write_page(options.out, "Evaluation", command, models_of(options, models), sections), end="")
    return results


def check(options: Options, models: Sequence[Model]) -> None:
    """Raise an InputError for what any study, protocol or probe lacks, before the first of them takes its minutes."""
    for name in options.studies:
        studies_of(options, models)[name].check()
    for protocol in protocols_of(options):
        for model in models:
            windows = windows_of(options, protocol, model.store)
            next(trials(options, protocol, model, windows.rows(slice(1)), 1))
            if protocol == "cold-start" and len(windows.episodes) < 2:
                raise InputError(f"{model.store.root}: a cold start is judged by other clips: use 2 --clips or more")
    for model in models if options.probe else ():
        looked_for(model.checkpoint.model, model.store, options.probe, **probing(options))


class Known(NamedTuple):
    """A study: what raises an InputError where something lacks for it, and what runs it."""

    check: Callable[[], object]
    run: Callable[[], Study | None]


def studies_of(options: Options, models: Sequence[Model]) -> Mapping[StudyName, Known]:
    """All studies, of these models."""
    shared = Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
    o, store = options, models[0].store
    return {
        "memory": Known(lambda: ages_of(o.memory, store.lengths), lambda: memory_use(models, o.memory, shared)),
        "actions": Known(lambda: [wrong_of(m, shared) for m in models], lambda: wrong_actions(models, shared)),
        "palindrome": Known(
            lambda: walks_of(models, o.palindrome, shared), lambda: palindrome(models, o.palindrome, shared)
        ),
        "recovery": Known(
            lambda: disturbed_windows(models, o.recovery, shared), lambda: recovery(models, o.recovery, shared)
        ),
        "revisits": Known(lambda: looked_at(store, o.revisits, shared), lambda: revisits(models, o.revisits, shared)),
        "rewards": Known(lambda: rewarded(models, shared), lambda: rewards(models, shared)),
    }


def probing(options: Options) -> dict[str, Any]:
    """Where probes look."""
    return {
        "context": options.context,
        "clips": options.clips,
        "reads": options.probe_reads,
        "whole": options.probe_whole,
        "given": options.probe_given,
        "seed": options.seed,
    }


def study(name: StudyName, options: Options, models: Sequence[Model]) -> Study | None:
    """One study of all models."""
    found = studies_of(options, models)[name].run()
    if found is None:
        print(f"use of {name} is not judged: no episode is longer than the short memory", file=sys.stderr)
    return found


def probed(options: Options, model: Model) -> list[Probed]:
    """The probes of one model."""
    return probe_memory(
        model.checkpoint.model,
        model.store,
        options.probe,
        **probing(options),
        config=options.probing,
        rows=options.rows,
        progress=options.progress,
    )


def about_probes(options: Options) -> str:
    """What the probes are of."""
    given = f", told {', '.join(options.probe_given)} too" if options.probe_given else ""
    begin = "from the beginning of episodes" if options.probe_whole else "anywhere in episodes"
    return (
        f"Windows of {options.context} frames {begin}, {options.clips} at most; three fifths of the episodes train the "
        f"probe{given}, one fifth chooses it, on the last fifth it is judged: no interval. The score is that of the "
        "second half of the window; the base rate is that of the most frequent value, or of the mean."
    )


def protocol_section(options: Options, protocols: Mapping[str, Mapping[str, Any]]) -> Section:
    """The place of the protocols on the page."""
    about = (
        f"Context {options.context}, horizon {options.horizon} frames, {options.steps} denoising steps. By "
        "distance from the context, in frames; means of decibels over clips, with 95 % intervals (Student's t) over "
        "the episodes that they are from. One run of each model: the intervals say nothing of other seeds of training."
    )
    return Section("Protocols", about, table(protocols), tuple(f"drift-{name}.png" for name in protocols))


def models_of(options: Options, models: Sequence[Model]) -> str:
    """What is judged and on what, in a sentence."""
    named = ", ".join(f"{model.name} (step {model.checkpoint.step})" for model in models)
    store = models[0].store
    return f"{named}; {len(store)} episodes of up to {store.lengths.max()} frames in `{options.episodes}`."


def described(model: Model, options: Options) -> dict[str, Any]:
    """What a model is, and how its heads do on real frames: clips as long as the protocols', or as episodes allow."""
    length = min(int(model.store.lengths.max()), options.context + options.horizon)
    windows = draw_windows(model.store, options.clips, length, np.random.default_rng(options.seed))
    parts = (slice(begin, begin + options.rows) for begin in range(0, len(windows.episodes), options.rows))
    batches = (read_windows(model.store, windows.rows(part)) for part in parts)
    heads = judge_heads_on_real(model.checkpoint.model, batches)
    return {**describe(model), "heads_on_real_frames": heads.to_dict()}


def main(args: Sequence[str] | None = None) -> None:
    """Parse the command line and evaluate."""
    evaluate(tyro.cli(Options, args=args, prog=started_as("lssvwm.worldmodel.evaluation")))
