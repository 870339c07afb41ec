"""The command: runs and named policies in; real episodes, their figures, videos and comparisons out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tyro

from lssvwm.agents.evaluation.anchors import Anchor, has_success, measured, merged, published
from lssvwm.agents.evaluation.curves import Method, Metric, compared
from lssvwm.agents.evaluation.judging import Contestant, How, Result, judge, named_policy
from lssvwm.agents.evaluation.plots import plot_comparison, plot_gap
from lssvwm.agents.evaluation.real import rows_for
from lssvwm.agents.evaluation.report import markdown, versions
from lssvwm.agents.evaluation.runs import TrainedRun, alike, evaluations_of, names_of, open_run
from lssvwm.agents.evaluation.scores import Score, correlation, improvements, score
from lssvwm.agents.evaluation.starts import Starts, starts
from lssvwm.agents.report.page import plain
from lssvwm.agents.running.run import EVALUATION_SEEDS, SEEDS_PER_RUN, recorded_by
from lssvwm.envs.factory import EnvConfig
from lssvwm.worldmodel.checkpoint import device_of
from lssvwm.worldmodel.common.atomic import replace as write_atomically
from lssvwm.worldmodel.common.atomic import write_json
from lssvwm.worldmodel.common.command_line import started_as, typed
from lssvwm.worldmodel.common.errors import InputError, require
from lssvwm.worldmodel.episodes import EpisodeStore

Value = TypeVar("Value")

RESULTS, REPORT, CURVES, GAP = "results.json", "report.md", "curves", "imagined"


@dataclass(frozen=True)
class Options:
    """Judge what runs have learned, and policies beside it, on the same real episodes; compare how methods learned."""

    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Folders of runs (train_agent.py --out). Runs that differ in their seed alone are one method; NAME=RUN,RUN names
    a method and its runs."""
    out: Path = Path("evaluation")
    """Folder for results.json, report.md, plots, and a folder for each policy with its episodes and videos."""
    policies: tuple[str, ...] = ()
    """Policies that learn nothing, played beside: random, scripted, oracle. Random and oracle are anchors as well."""
    compare: tuple[str, ...] = ()
    """NAME=RUN,RUN,... for each method: plots what the evaluations during training were, over real steps and
    wall-clock, with bands over the runs. Nothing is played for this."""
    metric: Metric = "success"
    """What is compared."""
    threshold: float = 0.9
    """Level of the metric for which steps and time are counted."""
    env: str | None = None
    """Gymnasium id of the environment to play; None takes that of the runs."""
    size: int | tuple[int, int] | None = None
    """Side, or height and width, of the frames in pixels; None takes that of the runs."""
    actions: tuple[int, ...] | None = None
    """Which of the environment's discrete actions to use; None takes those of the runs."""
    from_render: bool = False
    """Show what the environment renders; runs do as they were told."""
    max_episode_steps: int | None = None
    """Truncate episodes after so many steps; None takes the runs' limit."""
    env_options: str | None = None
    """What else the environment is made with, as a JSON object; None takes that of the runs."""
    every: int | None = None
    """Act at every n-th frame of the environment only; None takes that of the runs."""
    image_key: str | None = None
    """Entry of a dictionary observation that is the image; None takes that of the runs, or finds it."""
    layouts: tuple[int, int] | None = None
    """The first and how many of the layouts to play, of a procedurally made world; None takes those of the runs'
    evaluations."""
    episodes: int = 100
    """Real episodes for each policy, on the seeds from --seed on, the same for all."""
    seed: int = EVALUATION_SEEDS
    """First seed. Runs record on smaller ones."""
    imagined: int | None = None
    """Dreams for the imagined return of a policy; None takes as many as real episodes, 0 none."""
    greedy: bool = False
    """Play the most likely action of what was learned, instead of drawing one as in training."""
    num_envs: int | None = None
    """Environments played at once; None: one for each core, at least 2, or 64 with --no-processes. Figures do not
    depend on it, but for what rounding makes of a learned policy."""
    processes: bool = True
    """Play each of them in a process of its own: for slow ones."""
    videos: bool = True
    """Write videos of each policy's best, median and worst episode."""
    device: str = "auto"
    """Where policies and dreams are computed: cpu, cuda, or auto for CUDA where there is one."""
    progress: bool = True
    """Show progress bars."""


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
    """Do everything that is asked for and write it to `options.out`; returns what results.json holds.

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
        "versions": versions(),
    }
    scores: list[Score] = []
    anchors: tuple[Anchor, ...] = ()
    if groups:
        config = groups[0].contestants[0].config
        anchors = anchors_of(config, results)
        scores = [score(name, each, anchors, success=has_success(config)) for name, each in results.items()]
        found["env"] = replace(config, extra_obs=False).to_dict()
        found["starts"] = {name: asdict(each) for name, each in started(results).items()}
        found["anchors"] = [anchor.to_dict() for anchor in anchors]
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
    text = markdown(found, scores, anchors)
    write_atomically(options.out / REPORT, lambda path: path.write_text(text, encoding="utf-8"))
    kept: dict[str, Any] = plain(found, "results")
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
    if not runs:
        if options.env is None:
            raise InputError("no environment is named: add --env ID, or a run")
        return EnvConfig(
            options.env,
            size=options.size,
            actions=options.actions,
            max_episode_steps=options.max_episode_steps,
            options=_first(options.env_options, ""),
            every=_first(options.every, 1),
            image_key=options.image_key,
            from_render=options.from_render,
            layouts=options.layouts,
        )
    own = []
    for run in runs:
        if run.settings.env is None and options.env is None:
            raise InputError(f"{run.folder} names no environment: add --env ID")
        told, same = run.settings, options.env in (None, run.settings.env)
        own.append(
            EnvConfig(
                options.env or told.env_config.id,
                size=options.size or told.size,
                actions=options.actions or told.actions,
                max_episode_steps=options.max_episode_steps or told.max_episode_steps,
                options=_first(options.env_options, told.env_options if same else ""),
                every=_first(options.every, told.every if same else 1),
                image_key=options.image_key or (told.image_key if same else None),
                from_render=options.from_render or (same and told.from_render),
                layouts=options.layouts or (told.eval_config.layouts if same else None),
            )
        )
    for run, config in zip(runs, own, strict=True):
        if config != own[0]:
            raise InputError(
                f"{runs[0].folder} plays {own[0]}, {run.folder} plays {config}: evaluate them apart, or make them play "
                "the same with --env, --size, --actions, --max-episode-steps, --env-options, --every and --image-key"
            )
    return own[0]


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
        if run is not None:
            store = EpisodeStore(run.recorded) if run.recorded.exists() else None
            if (of_run := starts(config, result.evaluation.seeds, store)) is not None:
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


def _first(asked: Value | None, own: Value) -> Value:
    """What was asked for, which may be 0 or empty, else the run's own."""
    return own if asked is None else asked


def _checked(config: EnvConfig | None) -> EnvConfig:
    assert config is not None  # there is one wherever something is played
    return config


def _check_seeds(options: Options, groups: Sequence[Group]) -> None:
    """Raise InputError for seeds on which one of the runs may have recorded what it learned from."""
    for run in (each.run for group in groups for each in group.contestants if each.run is not None):
        first = run.settings.seed * SEEDS_PER_RUN
        if options.seed < first + recorded_by(run.settings) and first < options.seed + options.episodes:
            raise InputError(
                f"--seed {options.seed}: {run.folder} learned from such seeds, use {EVALUATION_SEEDS} or more"
            )


def main(args: Sequence[str] | None = None) -> None:
    """Parse the command line, evaluate, and print the tables."""
    options = tyro.cli(Options, args=args, prog=started_as("lssvwm.agents.evaluation"))
    evaluate(options)
    print((options.out / REPORT).read_text(encoding="utf-8"))
