"""The command: runs and named policies in; real episodes, their figures, videos and comparisons out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from lssvwm.agents.evaluation.comparison.anchors import Anchor, has_success, measured, merged, published
from lssvwm.agents.evaluation.comparison.curves import Method, compared
from lssvwm.agents.evaluation.comparison.page import learned, played
from lssvwm.agents.evaluation.comparison.plots import plot_comparison, plot_gap
from lssvwm.agents.evaluation.comparison.scores import Score, correlation, improvements, score
from lssvwm.agents.evaluation.judging import Contestant, How, Result, judge, named_policy
from lssvwm.agents.evaluation.options import Options
from lssvwm.agents.evaluation.real import rows_for
from lssvwm.agents.evaluation.runs import TrainedRun, alike, evaluations_of, names_of, open_run
from lssvwm.agents.evaluation.starts import Starts, starts
from lssvwm.agents.running.run import EVALUATION_SEEDS, seeds_of
from lssvwm.envs.factory import EnvConfig
from lssvwm.worldmodel.checkpoint import device_of
from lssvwm.worldmodel.common.atomic import write_json
from lssvwm.worldmodel.common.command_line import started_as, typed
from lssvwm.worldmodel.common.errors import InputError, require
from lssvwm.worldmodel.reporting.page import write_page
from lssvwm.worldmodel.reporting.results import exact, versions

RESULTS, CURVES, GAP = "results.json", "curves", "imagined"


@dataclass(frozen=True)
class Group:
    """The contestants that make up one method."""

    name: str
    contestants: tuple[Contestant, ...]


@dataclass(frozen=True)
class Named:
    """A method as it was named: NAME=RUN,RUN."""

    name: str
    folders: tuple[Path, ...]


def evaluate(options: Options) -> dict[str, Any]:
    """Do everything that is asked for and write it to `options.out`, print the page; returns what results.json holds.

    Everything that can be wrong is found before anything is played.
    """
    for name in ("episodes", "num_envs"):
        if (count := getattr(options, name)) is not None and count < 1:
            raise InputError(f"--{name.replace('_', '-')} {count}: give at least 1")
    for name in ("seed", "imagined"):
        if (getattr(options, name) or 0) < 0:
            raise InputError(f"--{name} {getattr(options, name)}: give 0 or more")
    if options.out.exists() and not options.out.is_dir():
        raise InputError(f"--out {options.out} is a file: name a folder")
    require("matplotlib", "video", "plots")
    if options.videos:
        require("av", "video", "mp4 videos (--no-videos writes none)")
    methods = [Method(each.name, tuple(map(evaluations_of, each.folders))) for each in named(options.compare)]
    groups = groups_of(options)
    if not groups and not methods:
        raise InputError("name at least one run, --policies with --env, or methods to --compare")
    _check_seeds(options, groups)
    how = how_of(options)
    for contestant in (each for group in groups for each in group.contestants):
        contestant.learned(how.device, how.greedy)
    options.out.mkdir(parents=True, exist_ok=True)
    results = {group.name: [judge(each, how, options.out) for each in group.contestants] for group in groups}
    found: dict[str, Any] = {
        "command": typed("lssvwm.agents.evaluation"),
        "options": {**asdict(options), "out": str(options.out)},
        "versions": versions("gymnasium"),
    }
    scores: list[Score] = []
    anchors: tuple[Anchor, ...] = ()
    if groups:
        config = groups[0].contestants[0].config
        anchors = anchors_of(config, results)
        scores = [score(name, each, anchors, success=has_success(config)) for name, each in results.items()]
        found["env"] = replace(config, extra_obs=False).to_dict()
        found["starts"] = {name: asdict(each) for name, each in started(results).items()}
        found["anchors"] = [asdict(anchor) for anchor in anchors]
        found["methods"] = {each.name: each.to_dict() for each in scores}
        found["improvement"] = improvements(scores)
        pairs = {name: points for name, each in results.items() if (points := pairs_of(each))}
        found["imagined_against_real"] = {
            "all": correlation([pair for points in pairs.values() for pair in points]),
            "methods": {name: {**correlation(points), "pairs": points} for name, points in pairs.items()},
        }
        if pairs:
            plot_gap(options.out / GAP, pairs)
    if methods:
        found["comparison"] = compared(methods, options.metric, options.threshold)
        plot_comparison(options.out / CURVES, methods, options.metric, options.threshold)
    sections = [*(played(found, scores, anchors) if scores else ()), *(learned(found["comparison"]) if methods else ())]
    kept: dict[str, Any] = exact(found)
    print(
        write_page(options.out, found["env"]["id"] if groups else "Comparison", found["command"], "", sections), end=""
    )
    write_json(options.out / RESULTS, kept)
    return kept


def named(asked: Sequence[str]) -> list[Named]:
    """`NAME=RUN,RUN,...` for each; anything else, and a name given twice, is an `InputError`."""
    found = []
    for text in asked:
        name, equals, folders = text.partition("=")
        if not (name and equals and all(folders.split(","))):
            raise InputError(f"'{text}' names no method: write NAME=RUN,RUN,...")
        found.append(Named(name, tuple(Path(folder) for folder in folders.split(","))))
    if len({each.name for each in found}) < len(found):
        raise InputError(f"a method is named twice: {', '.join(each.name for each in found)}")
    return found


def groups_of(options: Options) -> list[Group]:
    """The methods to play: runs as they were named or as they are alike, then named policies."""
    bare = [Path(text) for text in options.runs if "=" not in text or Path(text).exists()]
    methods = named([text for text in options.runs if Path(text) not in bare])
    folders = [*bare, *(folder for method in methods for folder in method.folders)]
    runs = dict(zip(folders, map(open_run, folders), strict=True))
    labels = dict(zip(folders, names_of(folders), strict=True))
    together: list[list[Path]] = []
    for folder in bare:
        same = next((each for each in together if alike(runs[each[0]], runs[folder])), None)
        if same is None:
            together.append([folder])
        else:
            same.append(folder)
    methods = [*(Named(", ".join(labels[f] for f in each), tuple(each)) for each in together), *methods]
    config = config_of(options, list(runs.values())) if runs or options.policies else None
    groups = [
        Group(method.name, tuple(Contestant(labels[f], _checked(config), runs[f]) for f in method.folders))
        for method in methods
    ]
    groups += [Group(name, (named_policy(name, _checked(config)),)) for name in dict.fromkeys(options.policies)]
    names = [each.folder for group in groups for each in group.contestants]
    if len({group.name for group in groups}) < len(groups) or len(set(names)) < len(names):
        raise InputError(f"two policies have one name ({', '.join(names)}): name methods NAME=RUN")
    return groups


def config_of(options: Options, runs: Sequence[TrainedRun]) -> EnvConfig:
    """The environment that all contestants play: the runs', with what the options change of it."""
    own = [_config(options, run) for run in runs or (None,)]
    for run, config in zip(runs, own, strict=False):
        if config != own[0]:
            raise InputError(
                f"{runs[0].folder} plays {own[0]}, {run.folder} plays {config}: evaluate them apart, or make them play "
                "the same with --env, --size, --actions, --max-episode-steps, --env-options, --every and --image-key"
            )
    return own[0]


def _config(options: Options, run: TrainedRun | None) -> EnvConfig:
    told = None if run is None else run.settings
    env = options.env or (None if told is None else told.env)
    if env is None:
        named = "no environment is named: add --env ID, or a run"
        raise InputError(named if run is None else f"{run.folder} names no environment: add --env ID")
    config = EnvConfig(env)
    if told is not None and env == told.env:
        config = replace(told.eval_config, extra_obs=False)
    elif told is not None:
        config = EnvConfig(env, size=told.size, actions=told.actions, max_episode_steps=told.max_episode_steps)
    asked: dict[str, Any] = {
        "size": options.size,
        "actions": options.actions,
        "max_episode_steps": options.max_episode_steps,
        "options": options.env_options,
        "every": options.every,
        "image_key": options.image_key,
        "layouts": options.layouts,
        "from_render": options.from_render or None,
    }
    return replace(config, **{key: value for key, value in asked.items() if value is not None})


def how_of(options: Options) -> How:
    """How all contestants are judged."""
    return How(
        episodes=options.episodes,
        seed=options.seed,
        imagined=options.episodes if options.imagined is None else options.imagined,
        greedy=options.greedy,
        num_envs=options.num_envs or rows_for(options.processes, 2),
        processes=options.processes,
        videos=options.videos,
        device=device_of(options.device),
        progress=options.progress,
    )


def anchors_of(config: EnvConfig, results: dict[str, list[Result]]) -> tuple[Anchor, ...]:
    """What is published for this environment, and what the policies played beside have earned."""
    played = [
        measured(result.contestant.name, result.evaluation.interval)
        for each in results.values()
        for result in each
        if result.contestant.run is None
    ]
    return merged(published(config), [anchor for anchor in played if anchor is not None])


def started(results: dict[str, list[Result]]) -> dict[str, Starts]:
    """Of every run, where its episodes began, and whether it had recorded that, where that can be told."""
    found = {}
    for result in (each for several in results.values() for each in several):
        run, config = result.contestant.run, result.contestant.config
        if run is not None and (of_run := starts(config, result.evaluation.seeds, *run.recorded)) is not None:
            found[result.contestant.name] = of_run
    return found


def pairs_of(results: Sequence[Result]) -> list[tuple[float, float]]:
    """(imagined, real) mean returns of every checkpoint that was evaluated while the runs of a method learned.

    A run that kept no such evaluations counts with what was measured now.
    """
    pairs: list[tuple[float, float]] = []
    for result in results:
        if result.contestant.run is None:
            continue
        try:
            own = evaluations_of(result.contestant.run.folder)
            known = np.isfinite(own.imagined)
            rounds = list(zip(own.imagined[known].tolist(), own.returns[known].mean(axis=1).tolist(), strict=True))
        except InputError:
            rounds = []
        if not rounds and result.imagined is not None:
            rounds = [(float(np.mean(result.imagined)), result.evaluation.interval.mean)]
        pairs += rounds
    return pairs


def _checked(config: EnvConfig | None) -> EnvConfig:
    assert config is not None  # there is one wherever something is played
    return config


def _check_seeds(options: Options, groups: Sequence[Group]) -> None:
    """Raise InputError for seeds on which one of the runs may have recorded what it learned from."""
    for run in (each.run for group in groups for each in group.contestants if each.run is not None):
        recorded = (seeds for seeds in seeds_of(run.settings) if seeds)
        if any(options.seed < seeds.stop and seeds.start < options.seed + options.episodes for seeds in recorded):
            raise InputError(
                f"--seed {options.seed}: {run.folder} learned from such seeds, use {EVALUATION_SEEDS} or more"
            )


def main(args: Sequence[str] | None = None) -> None:
    """Parse the command line and evaluate."""
    evaluate(tyro.cli(Options, args=args, prog=started_as("lssvwm.agents.evaluation")))
