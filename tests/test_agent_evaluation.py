"""`python -m lssvwm.agents.evaluation` on real MiniGrid runs: what it writes, what it keeps, what it refuses."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from lssvwm.agents import load_policy
from lssvwm.agents.evaluation.command import Options, evaluate, groups_of, named
from lssvwm.agents.evaluation.files import EVALUATIONS, append_evaluation, read_episodes, read_evaluations
from lssvwm.agents.evaluation.real import Evaluation
from lssvwm.agents.evaluation.runs import evaluations_of, names_of
from lssvwm.agents.evaluation.starts import Starts
from lssvwm.agents.report import read_curves
from lssvwm.agents.running.cli import LoopOptions, claimed, parse
from lssvwm.agents.running.loop import Loop
from lssvwm.agents.running.run import EVALUATION_SEEDS
from lssvwm.envs import EnvConfig, make_vec
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.common.stepping import HEARD
from runs import ROOT, TINY_LOOP, stop

ENV = "MiniGrid-MemoryS7-v0"
TINY = ("--collect-episodes", "4", "--world-steps", "2", "--dreams", "2", "--eval-episodes", "4", "--no-processes")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`first`, a real run; `second`, a copy that says it had another seed."""
    root = tmp_path_factory.mktemp("runs")
    options = parse(LoopOptions, [*TINY_LOOP, *TINY, "--out", str(root / "first")])
    with claimed(options):
        Loop(options.out, options, progress=False).run()
    shutil.copytree(root / "first", root / "second")
    change(root / "second", seed=1)
    return root


def change(run: Path, **settings: Any) -> None:
    path = run / "settings.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def options(out: Path, *runs: Path, **changes: Any) -> Options:
    asked = {"episodes": 4, "processes": False, "videos": False, "device": "cpu", "progress": False}
    return Options(runs=tuple(map(str, runs)), out=out, **{**asked, **changes})


@pytest.fixture(scope="module")
def finished(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command leaves for two seeds of a method, with random play beside."""
    out = tmp_path_factory.mktemp("finished") / "evaluation"
    evaluate(options(out, runs / "first", runs / "second", policies=("random",), videos=True))
    return out


def test_a_policy_plays_in_a_loop_of_ones_own(runs: Path) -> None:
    """As docs/agents.md does it."""
    policy = load_policy(runs / "first", greedy=True)
    envs = make_vec(EnvConfig(ENV, actions=(0, 1, 2), max_episode_steps=12), 2, processes=False)
    seeds = np.array([7, 8])
    frames, info = envs.reset(seed=seeds.tolist())
    policy.reset(np.arange(2), seeds)
    taken, begun = [], 0
    for step in range(13):
        taken.append(policy.act(frames, info))
        frames, _, terminated, truncated, info = envs.step(taken[-1])
        if (ended := np.flatnonzero(terminated | truncated)).size:
            frames, info = envs.reset(options={"reset_mask": terminated | truncated})
            policy.reset(ended, 1000 * step + ended)
            begun += len(ended)
    assert begun >= 2
    assert np.stack(taken).shape == (13, 2)
    again = load_policy(str(runs / "first"), greedy=True)
    frames, info = envs.reset(seed=seeds.tolist())
    again.reset(np.arange(2), seeds)
    assert np.array_equal(again.act(frames, info), taken[0])
    envs.close()


def test_everything_is_written(finished: Path) -> None:
    files = {"0.monitor.csv", "asked.json", "episodes.csv", "evaluations.npz", "tensorboard"}
    videos = {"best.mp4", "median.mp4", "worst.mp4"}
    assert {path.name for path in finished.iterdir()} == {
        *("first", "second", "random"),
        *("report.md", "results.json", "imagined.png", "imagined.svg"),
    }
    for name in ("first", "second", "random"):
        assert {path.name for path in (finished / name).iterdir()} == files | videos
        assert set(read_curves(finished / name / "tensorboard")) >= {"eval/mean_reward", "eval/success_rate"}


def test_all_files_tell_the_same(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    assert results["env"]["id"] == ENV
    assert list(results["methods"]) == ["first, second", "random"]
    assert list(results["methods"]["first, second"]["runs"]) == ["first", "second"]
    for method in results["methods"].values():
        for name, run in method["runs"].items():
            episodes = read_episodes(finished / name / "episodes.csv", name)
            assert Evaluation.from_dict(run) == episodes
            assert episodes.seeds == tuple(range(EVALUATION_SEEDS, EVALUATION_SEEDS + 4))
            assert all(0 < taken <= end for taken, end in zip(episodes.seconds, episodes.ended, strict=True))
            kept = read_evaluations(finished / name / EVALUATIONS)
            assert kept.returns.tolist() == [list(episodes.returns)]
            assert kept.lengths.tolist() == [list(episodes.lengths)]
            assert run["return"]["mean"] == pytest.approx(np.mean(episodes.returns))
            lines = (finished / name / "0.monitor.csv").read_text().splitlines()
            assert len(lines) == 2 + 4
    ours = results["methods"]["first, second"]
    assert (ours["mean"]["count"], ours["over_runs"]["count"]) == (8, 2)
    # The second run is a copy of the first: it plays the same episodes.
    assert ours["runs"]["first"]["returns"] == ours["runs"]["second"]["returns"]
    assert len(ours["runs"]["first"]["imagined_returns"]) == 4
    assert ours["gap"]["mean"] == pytest.approx(ours["imagined"]["mean"] - ours["mean"]["mean"])
    assert results["methods"]["random"]["imagined"] is None
    assert [anchor["kind"] for anchor in results["anchors"]] == ["random"]
    # One evaluation in each run, of the same weights: two checkpoints are too few.
    assert results["imagined_against_real"]["all"] == {
        "count": 2,
        "pearson": None,
        "spearman": None,
        "note": "not enough checkpoints",
    }


def test_the_report_holds_the_figures(finished: Path) -> None:
    report = (finished / "report.md").read_text()
    results = json.loads((finished / "results.json").read_text())
    figures = results["methods"]["random"]["mean"]
    shown = f"{figures['mean']:.3f} [{figures['low']:.3f}, {figures['high']:.3f}]"
    (line,) = (line for line in report.splitlines() if line.startswith("| random"))
    assert shown in line
    assert "not enough checkpoints" in report
    familiarity = results["methods"]["first, second"]["runs"]["first"]["familiarity"]
    assert next(iter(familiarity)) == "0-49"
    assert all(f" {distance:,.3f} |" in report for distance in familiarity.values())
    for link in re.findall(r"\]\(([^)]+)\)", report):
        assert (finished / link).exists(), link


def test_it_is_told_whether_starts_had_been_recorded(runs: Path, finished: Path) -> None:
    """Of four episodes that were recorded, and by the run itself too."""
    told = json.loads((finished / "results.json").read_text())["starts"]
    assert list(told) == ["first", "second"]
    found = Starts(**told["first"])
    assert 1 <= found.distinct <= 4
    assert found.recorded in (0.0, 0.25, 0.5, 0.75, 1.0)
    assert f"first: {found}; second: {found}." in (finished / "report.md").read_text()
    stage = json.loads((runs / "first" / "stages" / "0-evaluation.json").read_text())
    assert stage["starts"] == told["first"]


def test_videos_show_the_episodes_that_they_say(finished: Path) -> None:
    episodes = read_episodes(finished / "random" / "episodes.csv", "random")
    order = np.argsort(episodes.returns, kind="stable")
    for name, at in (("worst", order[0]), ("median", order[1]), ("best", int(np.argmax(episodes.returns)))):
        with av.open(str(finished / "random" / f"{name}.mp4")) as container:
            assert len(list(container.decode(video=0))) == episodes.lengths[at] + 1


def test_figures_do_not_depend_on_rows_or_processes(runs: Path, finished: Path, tmp_path: Path) -> None:
    wanted = json.loads((finished / "results.json").read_text())["methods"]
    asked = options(tmp_path, runs / "first", policies=("random",), num_envs=1, imagined=0)
    assert figures(evaluate(asked)["methods"]["first"]["runs"]["first"]) == figures(
        wanted["first, second"]["runs"]["first"]
    )
    several = options(tmp_path / "two", policies=("random",), env=ENV, actions=(0, 1, 2), max_episode_steps=60)
    apart = evaluate(Options(**{**vars(several), "processes": True, "num_envs": 2}))
    assert figures(apart["methods"]["random"]["runs"]["random"]) == figures(wanted["random"]["runs"]["random"])


def figures(run: dict[str, Any]) -> dict[str, Any]:
    return {key: run[key] for key in ("seeds", "returns", "lengths", "successes", "iqm")}


def test_what_was_played_is_not_played_again_unless_it_changed(runs: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(runs / "first", run)
    asked = options(out, run, episodes=2, imagined=2)
    first = evaluate(asked)
    written = (out / "run" / "episodes.csv").stat().st_mtime_ns
    assert evaluate(asked)["methods"] == first["methods"]
    assert (out / "run" / "episodes.csv").stat().st_mtime_ns == written
    state = torch.load(run / "policy" / "policy.pt", weights_only=True)
    last = list(state["agent"])[-1]
    state["agent"][last] = state["agent"][last] + 1
    torch.save(state, run / "policy" / "policy.pt")
    evaluate(asked)
    again = (out / "run" / "episodes.csv").stat().st_mtime_ns
    assert again > written
    evaluate(options(out, run, episodes=2, imagined=2, seed=5))
    other = (out / "run" / "episodes.csv").stat().st_mtime_ns
    assert other > again
    evaluate(options(out, run, episodes=2, imagined=2, seed=5, greedy=True))
    assert (out / "run" / "episodes.csv").stat().st_mtime_ns > other


def test_interrupted_it_says_so_at_once_and_leaves_nothing_half_done(tmp_path: Path) -> None:
    out = tmp_path / "out"
    args = ("lssvwm.agents.evaluation", "--policies", "random", "--env", ENV, "--episodes", "5000", "--num-envs", "1")
    playing = out / "random"
    stopped = stop(
        *("-m", *args, "--no-progress", "--out", str(out)),
        when=lambda: any(playing.glob(".episodes-*/*.episode")),
        number=signal.SIGINT,
    )
    assert (stopped.returncode, stopped.stdout) == (130, "")
    kept = "interrupted; policies that were played to the end are kept: the same command goes on"
    assert stopped.stderr == f"{HEARD.decode()}{kept}\n"
    assert list(playing.iterdir()) == []
    assert not (out / "results.json").exists()


# Methods and runs


def test_runs_that_differ_in_their_seed_alone_are_one_method(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "first", tmp_path / "other")
    change(tmp_path / "other", dreams=3)
    asked = options(tmp_path, runs / "first", tmp_path / "other", runs / "second", policies=("random",))
    assert [group.name for group in groups_of(asked)] == ["first, second", "other", "random"]
    name = Options(runs=(f"mine={runs / 'first'},{tmp_path / 'other'}", str(runs / "second")))
    assert [[each.name for each in group.contestants] for group in groups_of(name)] == [["second"], ["first", "other"]]
    assert [group.name for group in groups_of(name)] == ["second", "mine"]


def test_the_best_round_of_a_run_is_no_other_seed_of_it(runs: Path, tmp_path: Path) -> None:
    found = groups_of(options(tmp_path, runs / "first", runs / "first" / "best", runs / "second"))
    assert [group.name for group in found] == ["first, second", "best"]
    last, best = (found[at].contestants[0].run for at in (0, 1))
    assert last is not None
    assert best is not None
    folders = [[store.root.resolve() for store in run.recorded] for run in (best, last)]
    assert folders == [[(runs / "first" / "episodes").resolve()]] * 2


def test_names_tell_runs_apart() -> None:
    assert names_of([Path("/a/x/run"), Path("/b/y/run")]) == ["x/run", "y/run"]
    assert names_of([Path("/a/run")]) == ["run"]
    with pytest.raises(InputError, match="named twice"):
        names_of([Path("/a/run"), Path("/a/b/../run")])
    assert [each.folders for each in named(["a=x,y"])] == [(Path("x"), Path("y"))]
    with pytest.raises(InputError, match="NAME=RUN,RUN"):
        named(["a=x,,y"])
    with pytest.raises(InputError, match="named twice"):
        named(["a=x", "a=y"])


def test_learning_curves_come_from_the_file_that_the_loop_writes(runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "first", run)
    stages = {path.stem: json.loads(path.read_text()) for path in (run / "stages").iterdir()}
    steps = stages["0-collect"]["frames"] - stages["0-collect"]["episodes"]
    found = evaluations_of(run)
    assert found.steps.tolist() == [steps]
    assert found.returns.tolist() == [stages["0-evaluation"]["returns"]]
    assert found.imagined[0] == pytest.approx(np.mean(stages["0-evaluation"]["imagined_returns"]))
    assert found.seconds[0] > 0
    append_evaluation(run / EVALUATIONS, Evaluation.from_dict(stages["random"]), steps=steps + 77)
    assert evaluations_of(run).steps.tolist() == [steps, steps + 77]


def test_methods_are_compared_without_playing(runs: Path, tmp_path: Path) -> None:
    asked = Options(compare=(f"dream={runs / 'first'},{runs / 'second'}",), out=tmp_path, metric="return")
    found = evaluate(asked)
    assert {path.name for path in tmp_path.iterdir()} == {"curves.png", "curves.svg", "report.md", "results.json"}
    assert found["comparison"]["steps"]["dream"]["band"]["count"] == 2
    assert "methods" not in found
    assert "| dream" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "name at least one run, --policies with --env, or methods to --compare"),
        ({"runs": ("absent",)}, "there is no run absent"),
        ({"runs": (".",)}, r"settings\.json does not exist: \. is not a run"),
        ({"compare": ("a=absent",)}, "there is no run absent"),
        ({"compare": ("absent",)}, "'absent' names no method"),
        ({"policies": ("random",)}, "no environment is named: add --env ID"),
        (
            {"policies": ("clever",), "env": ENV},
            "there is no policy 'clever': choose one of random, scripted, seeker, oracle",
        ),
        (
            {"policies": ("oracle",), "env": "MiniGrid-Empty-5x5-v0"},
            "'oracle' does not play MiniGrid-Empty-5x5-v0: choose random",
        ),
        ({"policies": ("random",), "env": "MiniGrid-MemoryS7-v9"}, "did you mean MiniGrid-MemoryS7-v0"),
        ({"episodes": 0}, "--episodes 0: give at least 1"),
        ({"num_envs": 0}, "--num-envs 0: give at least 1"),
        ({"seed": -1}, "--seed -1: give 0 or more"),
        ({"imagined": -1}, "--imagined -1: give 0 or more"),
        ({"out": ROOT / "README.md"}, "is a file: name a folder"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(Options(**{"out": tmp_path / "out", "device": "cpu", **changes}))
    assert not (tmp_path / "out").exists()


def test_runs_that_cannot_play_are_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--seed 3: .*first learned from such seeds, use 1000000000 or more"):
        evaluate(options(tmp_path / "out", runs / "first", seed=3))
    run = tmp_path / "run"
    shutil.copytree(runs / "first", run)
    with pytest.raises(InputError, match=r"has frames of \(40, 40\) and 3 actions, .* learned with \(56, 56\) and 3"):
        evaluate(options(tmp_path / "out", run, size=40))
    change(run, max_episode_steps=30)
    with pytest.raises(InputError, match="evaluate them apart"):
        evaluate(options(tmp_path / "out", runs / "first", run))
    assert groups_of(options(tmp_path / "out", runs / "first", run, max_episode_steps=9))
    (run / EVALUATIONS).unlink()
    with pytest.raises(InputError, match="was never evaluated"):
        evaluate(options(tmp_path / "out", compare=(f"a={run}",)))
    shutil.rmtree(run / "policy")
    with pytest.raises(InputError, match="has no policy: train one"):
        evaluate(options(tmp_path / "out", run))
    assert not (tmp_path / "out").exists()
