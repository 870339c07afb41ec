"""`make evidence`: plain data is sound, a claim goes all the way in small, tables and verdicts are right by hand."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import train_agent
from benchmarks.evidence import __main__ as evidence
from benchmarks.evidence import results, running, table
from benchmarks.evidence.claims import CLAIMS, SEEDS, Claim, Method
from benchmarks.evidence.commands import Ended, Process
from benchmarks.evidence.running import Plan, commands, cpu_seconds, learning, show
from benchmarks.memory import __main__ as memory
from benchmarks.shared.page import markers
from lssvwm.agents.evaluation import command
from lssvwm.agents.evaluation.files import Evaluations
from lssvwm.agents.running.algorithms import check_algorithm
from lssvwm.agents.running.cli import LoopOptions, parse
from lssvwm.agents.running.settings_file import to_json
from lssvwm.envs.minecraft.minetest import build
from lssvwm.worldmodel.common.atomic import write_json
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.reporting.statistics import Interval, mean_interval
from runs import ROOT

PAGE = ROOT / "docs" / "evidence.md"


class Fake:
    """A command that ends when it is looked at, after `looks` times in vain."""

    def __init__(self, status: int = 0, looks: int = 0) -> None:
        self.ended, self.looks, self.interrupted = Ended(status, 1.5), looks, 0

    def poll(self) -> Ended | None:
        self.looks -= 1
        return self.ended if self.looks < 0 else None

    def wait(self) -> Ended:
        return self.ended

    def interrupt(self) -> None:
        self.interrupted += 1


def inside(words: Sequence[str]) -> Fake:
    """In this process, which has loaded everything already."""
    if words[0] == "train_agent.py":
        train_agent.main(words[1:])
    else:
        command.main(words[2:])
    return Fake()


@pytest.mark.parametrize("name", CLAIMS)
def test_commands_exist_hold_out_and_give_controls_as_many_real_steps(name: str, tmp_path: Path) -> None:
    claim, plan = CLAIMS[name], Plan(tmp_path, 1)
    told = {}
    for method in claim.methods:
        script, *words = learning(claim, replace(method, world=""), 3, plan)
        options = told[method.name] = parse(LoopOptions, words)
        check_algorithm(options)
        assert (script, options.seed, options.out) == ("train_agent.py", 3, tmp_path / name / f"{method.name}-3")
        if options.eval_layouts is not None:
            assert options.layouts is not None
            assert sum(options.layouts) <= options.eval_layouts[0], "what is evaluated is recorded too"
    dreams = told[claim.methods[0].name]
    of_episodes = dreams.collect_episodes * (250 if "5x5" in str(dreams.env) else 1000)
    for options in told.values():
        if options.place == "real":
            assert options.env_steps * options.rounds == (dreams.collect_frames or of_episodes) * dreams.rounds
        if options.demonstrator:
            cloned = options.demonstrations * (options.cloning.best or 1.0)
            assert int(options.cloning.held_out * cloned) >= 1, "nothing says when the clone knows them by heart"
            cloning = options.cloning.steps * (options.rounds if options.algo == "clone" else 1)
            assert cloning == told["clone"].cloning.steps * told["clone"].rounds
    quick = parse(LoopOptions, learning(claim, claim.methods[0], 0, replace(plan, quick=True))[1:])
    assert (quick.eval_episodes, quick.rounds, quick.world_steps) == (2, 1, 3)
    judged = commands(claim, plan)[len(claim.methods) :]
    assert [words[:2] for words in judged] == [["-m", "lssvwm.agents.evaluation"]] * len(claim.methods)
    assert [words[2].split("=")[0] for words in judged] == list(told)
    assert ["--policies" in words for words in judged] == [True, *[False] * (len(judged) - 1)]
    first = judged[0]
    assert int(first[first.index("--num-envs") + 1]) <= (2 if claim.minetest else 64), "an engine for each"


def test_a_claim_goes_all_the_way_and_is_not_done_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin, end = markers("minigrid-s7")
    page = tmp_path / "page.md"
    page.write_text(f"{begin}\nold\n{end}\n")
    out = tmp_path / "out"
    asked = ["minigrid-s7", "--quick", "--out", str(out)]
    evidence.main(asked, start=inside, page=page)
    folder = out / "minigrid-s7"
    assert page.read_text() == f"{begin}\nold\n{end}\n", "what --quick made stands in the documentation"
    made = (folder / "table.md").read_text()
    assert made.startswith("Made by `--quick`")
    cells = [line.split(" | ") for line in made.splitlines() if line.startswith("| ")]
    assert [each[0] for each in cells[1:]] == [
        "| in dreams alone",
        "| recurrent PPO (ours), real",
        "| RecurrentPPO (SB3), real",
        "| random",
    ]
    assert [each[5] for each in cells[2:4]] == ["32", "32"]
    assert made.count("not shown, one run has no interval") == 4
    assert {path.name for path in folder.glob("*.png")} == {
        "evidence-minigrid-s7.png",
        "evidence-minigrid-s7-curves.png",
    }
    runs = ("dreams-0", "ppo-0", "sb3-recurrent-ppo-0")
    assert set(cpu_seconds(folder)) == {*runs, *(f"judged/{run}" for run in runs)}
    evidence.main(asked, start=lambda words: pytest.fail("done again"), page=page)
    assert (folder / "table.md").read_text() == made
    capsys.readouterr()


SMALL = Claim(
    "toy", "a", "", (Method("new", "new"), Method("old", "old", world="new")), "return", (("new", "old"),), 1, ""
)


def test_runs_follow_one_another_and_stop_at_the_first_that_fails(tmp_path: Path) -> None:
    plan, started = Plan(tmp_path, 2), list[str]()

    def start(words: Sequence[str]) -> Fake:
        started.append(Path(words[words.index("--out") + 1]).name)
        return Fake(130 if started[-1] == "new-1" else 0)

    with pytest.raises(KeyboardInterrupt):
        show(SMALL, plan, start, say=lambda _: None)
    assert started == ["new-0", "old-0", "new-1"]
    report = plan.run(SMALL, "new", 0) / "report"
    report.mkdir(parents=True)
    (report / "index.html").write_text("growing")  # stands there from the beginning
    with pytest.raises(InputError, match="toy: new-0 failed with status 2"):
        show(SMALL, plan, lambda words: Fake(2), say=lambda _: None)
    (report / "results.json").write_text("{}")
    with pytest.raises(InputError, match="toy: old-0 failed"):
        show(SMALL, plan, lambda words: Fake(2), say=lambda _: None)
    words = learning(SMALL, SMALL.methods[1], 1, plan)
    assert words[words.index("--world-model") + 1] == str(tmp_path / "toy" / "new-1" / "world_model")


def test_an_interruption_is_passed_on_once_and_waited_for(tmp_path: Path) -> None:
    child = tmp_path / "child.py"
    child.write_text(
        "import sys, time, pathlib\n"
        "out = pathlib.Path(sys.argv[1])\n"
        "import signal; signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
        "try:\n    (out / 'up').touch(); time.sleep(60)\n"
        "except KeyboardInterrupt:\n    time.sleep(0.5); (out / 'saved').touch(); sys.exit(130)\n"
    )

    def interrupt() -> None:
        deadline = time.monotonic() + 60
        while not (tmp_path / "up").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)  # a worker of pytest-xdist ignores it
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            show(SMALL, Plan(tmp_path, 1), lambda words: Process([str(child), str(tmp_path)]), say=lambda _: None)
        thread.join()
    finally:
        signal.signal(signal.SIGINT, ours)
    assert (tmp_path / "saved").exists()


def test_the_benchmark_of_memory_goes_on_where_only_the_growing_page_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(memory.subprocess, "run", lambda command, **_: started.append(command))
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").touch()
    memory.train(tmp_path, "S7", "ppo", 0)
    (tmp_path / "report" / "results.json").touch()
    memory.train(tmp_path, "S7", "ppo", 0)
    assert len(started) == 1


def test_a_process_says_its_status_and_cpu_time() -> None:
    process = Process(["-c", "sum(range(10_000_000)); raise SystemExit(7)"])
    ended = process.wait()
    assert ended.status == 7
    assert ended.cpu_seconds > 0
    process.interrupt()
    assert process.poll() == process.wait() == ended
    finished = Process(["-c", "raise SystemExit(3)"])
    time.sleep(0.5)
    finished.interrupt()  # of what has ended, and was not looked at
    assert finished.wait().status == 3


def test_runs_side_by_side_wait_for_the_world_that_they_learn_in(tmp_path: Path) -> None:
    plan, started = Plan(tmp_path, 3, jobs=2), dict[str, Fake]()

    def start(words: Sequence[str]) -> Fake:
        folder = Path(words[words.index("--out") + 1])
        name = str(folder.relative_to(plan.folder(SMALL)))
        going = [other for other, fake in started.items() if fake.looks >= 0]
        assert len(going) < 2
        if name.startswith("old"):
            assert name.replace("old", "new") not in going
        assert name.removeprefix("judged/") not in going
        started[name] = Fake(looks={"new-0": 3, "old-0": 1}.get(name, 0))
        return started[name]

    show(SMALL, plan, start, say=lambda _: None)
    runs = ["new-0", "new-1", "old-1", "new-2", "old-2", "old-0"]
    assert list(started)[: len(runs)] == runs
    assert set(started) == {*runs, *(f"judged/{name}" for name in runs)}
    assert cpu_seconds(plan.folder(SMALL)) == dict.fromkeys(started, 1.5)


def test_one_that_fails_ends_those_beside_it(tmp_path: Path) -> None:
    plan, started = Plan(tmp_path, 3, jobs=3), list[Fake]()

    def start(words: Sequence[str]) -> Fake:
        started.append(Fake(3 if len(started) == 1 else 130, looks=0 if len(started) == 1 else 9))
        return started[-1]

    with pytest.raises(InputError, match="toy: new-1 failed with status 3"):
        show(SMALL, plan, start, say=lambda _: None)
    assert [each.interrupted for each in started] == [1, 0, 1]
    assert set(cpu_seconds(plan.folder(SMALL))) == {"new-0", "new-1", "new-2"}


def row(name: str, values: list[float], imagined: list[float] | None = None) -> table.Row:
    runs = np.array(values)
    each = tuple(Evaluations(*(np.array([x]) for x in (1000, [value], [5], [True], 120.0, np.nan))) for value in values)
    dreamt = None if imagined is None else np.array(imagined)
    return table.Row(name, name, runs, mean_interval(runs), Interval(1.0, 0.5, 1.5, 4), runs, dreamt, each, 300.0)


def test_verdicts_by_hand() -> None:
    claim = replace(SMALL, honest=("new",))
    apart = table.verdicts(claim, [row("new", [4.0, 4.2], [4.1, 4.3]), row("old", [1.0, 1.0])])
    assert apart[0].startswith("new above old: 4.10 [2.83, 5.37] against 1.00 [1.00, 1.00], difference 3.10")
    assert apart[0].endswith("**shown**")
    # A quarter of 4.1 is 1.02, and imagined returns lie above by 0.1 in both runs.
    assert (
        apart[1]
        == "imagined minus real return of new below 1.02, a quarter of the real one: 0.10 [0.10, 0.10]: **shown**"
    )
    wide = table.verdicts(claim, [row("new", [4.0, 1.0], [6.0, 3.0]), row("old", [1.0, 1.0])])
    assert [verdict.split(": ")[-1] for verdict in wide] == ["not shown", "not shown"]
    single = table.verdicts(claim, [row("new", [4.0], [4.0]), row("old", [1.0])])
    assert all(verdict.endswith("not shown, one run has no interval") for verdict in single)


def judged_by_hand(claim: Claim, plan: Plan) -> dict[str, results.Judged]:
    """What is read of a folder in which each run of the first method earned 1 and 3 (seed 0), 3 and 5 (seed 1)."""
    run = {"returns": [1.0, 3.0], "successes": [True, False], "imagined_returns": [5.0, 5.0]}
    runs = {"new-0": run, "new-1": {**run, "returns": [3.0, 5.0], "successes": [True, True]}}
    lone = {**run, "returns": [0.0, 0.5], "imagined_returns": None}
    beside: dict[str, Any] = {"random": {"runs": {"random": lone}}}
    for name, earned in runs.items():
        plan.judged(claim, name).mkdir(parents=True)
        found = {"methods": {"new": {"runs": {name: earned}}, **beside}}
        (plan.judged(claim, name) / "results.json").write_text(json.dumps(found))
        beside = {}
    for name, (method, seed) in plan.runs(claim).items():
        folder = plan.run(claim, method.name, seed)
        (folder / "policy").mkdir(parents=True)
        (folder / "policy" / "policy.pt").touch()
        words = [*running.options(claim, method, seed, plan), "--out", str(tmp := folder / "none")]
        write_json(folder / "settings.json", to_json(parse(LoopOptions, words)))
        assert not tmp.exists(), name
        (folder / "report").mkdir()
        (folder / "report" / "results.json").write_text("{}")
        ones = {"results": np.ones((1, 2)), "ep_lengths": np.ones((1, 2), int), "seconds": np.array([60.0])}
        np.savez(folder / "evaluations.npz", timesteps=np.array([700]), **ones)
    (plan.folder(claim) / running.CPU).write_text(json.dumps({"new-0": 30.0, "new-1": 90.0}))
    return results.judged(claim, plan, {})


ALONE = replace(SMALL, methods=(Method("new", "new", "--dreams 3"),), better=(("new", "random"),))


def test_rows_from_results(tmp_path: Path) -> None:
    plan = Plan(tmp_path, 2)
    known = judged_by_hand(ALONE, plan)
    found = table.rows(ALONE, plan, known)
    assert found[0].values.tolist() == [2.0, 4.0]
    assert found[0].gap is not None
    assert found[0].gap.mean == 2.0
    assert found[0].iqm.mean == 3.0
    new, random, *_ = table.section(ALONE, plan, found, [Path("a.png")])[4:]
    cells = new.split(" | ")
    assert cells[:3] == ["| new", "2.00, 4.00", "3.00 [-9.71, 15.71]"]
    assert cells[4:] == ["2.00 [-10.71, 14.71]", "700", "1.0", "1.0 |"]
    assert random.startswith("| random | – | 0.25 [-2.93, 3.43] | 0.25 [")
    rates = table.rows(replace(ALONE, metric="success"), plan, known)[0].interval
    assert (rates.mean, rates.low, rates.high) == (0.75, 0.0, 1.0), "beyond what a rate can be"
    with pytest.raises(InputError, match="new-0 was told something else than claim toy tells today"):
        results.judged(replace(ALONE, methods=(Method("new", "new", "--dreams 4"),)), plan, {})
    (plan.run(ALONE, "new", 1) / "settings.json").write_text((plan.run(ALONE, "new", 0) / "settings.json").read_text())
    with pytest.raises(InputError, match="new-1 was told something else"):
        results.judged(ALONE, plan, {})


def test_what_is_published_makes_the_same_table_and_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, page = Plan(tmp_path / "here", 2), tmp_path / "docs" / "evidence.md"
    begin, end = markers("toy")
    page.parent.mkdir()
    page.write_text(f"{begin}\n{end}\n")
    known = judged_by_hand(ALONE, plan)
    path = results.published(page, ALONE)
    assert results.read(path, ALONE) == {}
    results.write(path, known)
    again = results.usable(results.read(path, ALONE), ALONE, plan)
    assert again["new-1"].cpu_seconds == 90.0
    assert again["new-1"].evaluations is not None
    assert np.isnan(again["new-1"].evaluations.imagined).all()

    # On another machine: nothing is run, and the page has the same table.
    monkeypatch.setitem(CLAIMS, "toy", ALONE)
    away = ["toy", "--published", "--out", str(tmp_path / "away")]
    evidence.main([*away, "--seeds", "2"], start=lambda words: pytest.fail("ran again"), page=page)
    told = table.section(ALONE, plan, table.rows(ALONE, plan, known), [Path("evidence-toy.png")])
    assert page.read_text() == "\n".join([begin, *told, end, ""])
    # One seed of them: the other stays published.
    evidence.main([*away, "--seeds", "1"], start=lambda words: pytest.fail("ran again"), page=page)
    assert set(results.read(path, ALONE)) == {"new-0", "new-1", "random"}
    capsys.readouterr()

    def start(words: Sequence[str]) -> Fake:
        started.append([word for word in words if str(tmp_path) in word])
        return Fake()

    more, started = Plan(tmp_path / "away", 3), list[list[str]]()
    show(ALONE, more, start, say=lambda _: None, known=results.usable(results.read(path, ALONE), ALONE, more))
    third = str(more.run(ALONE, "new", 2))
    assert started == [[third], [f"new={third}", str(more.judged(ALONE, "new-2"))]], (
        "seeds that stand there were run again"
    )

    other = replace(ALONE, methods=(Method("new", "new", "--dreams 4"),))
    assert set(results.usable(again, other, plan)) == {"random"}, "runs that were told something else"
    inside_it = replace(ALONE, methods=(*ALONE.methods, Method("late", "late", world="new")))
    assert set(results.usable(again, inside_it, plan)) == {"random"}, "there is no world model to learn in"
    assert results.usable(again, replace(ALONE, policies=("random", "oracle")), plan) == {}
    path.write_text('{"new-0": 3}')
    with pytest.raises(InputError, match="holds no results of a claim"):
        results.read(path, ALONE)


def test_page_has_a_place_for_every_claim_and_its_costs() -> None:
    text = PAGE.read_text()
    for name in CLAIMS:
        assert all(marker in text for marker in markers(name))
    assert "\n".join(table.overview(CLAIMS, SEEDS)) in text, "put what --list prints into docs/evidence.md"


def test_list_and_bad_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    evidence.main(["crafter", "--list"])
    printed = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("python train_agent.py") for line in printed) == 3
    said = [line.split()[3] for line in printed if line.startswith("python -m lssvwm.agents.evaluation ")]
    assert said == [f"{name}=runs/evidence/crafter/{name}-0" for name in ("dreams", "sb3-ppo", "sb3-recurrent-ppo")]
    with pytest.raises(InputError, match="no claim 'atari': choose of minigrid-s7"):
        evidence.main(["atari"])
    with pytest.raises(InputError, match="--quick is one seed"):
        evidence.main(["--quick", "--seeds", "2"])
    with pytest.raises(InputError, match="--published: --quick makes no results"):
        evidence.main(["--quick", "--published"])
    for option in ("--seeds", "--jobs"):
        with pytest.raises(InputError, match=f"{option} 0"):
            evidence.main([option, "0"])
    monkeypatch.setattr(build.shutil, "which", lambda name, path: None)
    with pytest.raises(InputError, match="make minecraft"):
        evidence.main(["crafter", "treechop"], start=lambda words: pytest.fail("began before all is there"))
    with pytest.raises(InputError, match=r"\['late'\] learn in a world that is not learned before"):
        replace(SMALL, methods=(Method("late", "", world="new"), Method("new", "")), better=())
    with pytest.raises(InputError, match=r"\['old'\] are none of its rows"):
        replace(SMALL, methods=SMALL.methods[:1])
