"""What the scripts say: help for every option, and one line for everything that cannot work."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import train_agent
import train_wm
from lssvwm.agents.running.cli import LearnOptions, LoopOptions, claimed, parse
from lssvwm.agents.running.environment import Probe
from lssvwm.agents.running.loop import Loop
from lssvwm.agents.running.presets import PRESETS
from lssvwm.agents.running.run import EVALUATION_SEEDS, RUNS, SEEDS_PER_RUN
from lssvwm.agents.running.settings import LearnSettings, TrainingOptions
from lssvwm.agents.running.settings_file import from_json, to_json
from lssvwm.worldmodel.actions import ActionSpec
from lssvwm.worldmodel.checkpoint import load_checkpoint
from lssvwm.worldmodel.common.command_line import RESUMABLE, Main, run_main
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.episodes.packed import CONTEXTS
from lssvwm.worldmodel.worlds import resolve
from runs import TINY_LOOP, TINY_WORLD, start
from worlds import small_store

SCRIPTS: dict[str, Main] = {"train_agent.py": train_agent.main, "train_wm.py": train_wm.main}
SHORT_WORLD = (*TINY_WORLD, "--collect-episodes", "4", "--world-steps", "3")
SHORT_LOOP = (
    *TINY_LOOP,
    *("--collect-episodes", "4", "--world-steps", "3", "--dreams", "2", "--eval-episodes", "2"),
)


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def call(monkeypatch: pytest.MonkeyPatch, script: str, *args: object) -> int:
    """Run a script in this process; its exit status."""
    monkeypatch.setattr(sys, "argv", [script, *map(str, args)])
    try:
        run_main(SCRIPTS[script], RESUMABLE)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of train_wm.py; tests copy what they change."""
    out = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        assert call(patch, "train_wm.py", *SHORT_WORLD, "--out", out) == 0
    return out


class Refusal:
    """Calls that have to end in one line on standard error, with exit status 2."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, script: str, *args: object) -> str:
        self.capsys.readouterr()
        status = call(self.monkeypatch, script, *args)
        output, errors = self.capsys.readouterr()
        assert (status, output) == (2, ""), errors
        assert re.fullmatch(r"error: [^\n]+\n", errors), errors
        return errors


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refusal:
    return Refusal(monkeypatch, capsys)


# Help and settings


@pytest.mark.parametrize("kind", [LoopOptions, LearnOptions])
def test_every_option_has_a_line_of_help(
    kind: type[LoopOptions] | type[LearnOptions], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")  # wider ones get two columns
    with pytest.raises(SystemExit) as end:
        parse(kind, ["--preset", "demo", "--help-all"])
    assert end.value.code == 0
    lines = [line.strip("│ ") for line in capsys.readouterr().out.splitlines()]
    options = {}
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if match := re.match(r"(?:-h, )?(--[a-z][\w.-]*)", line):
            text = line.split("  ", 1)[1] if "  " in line else following
            options[match.group(1)] = text.strip()
    assert len(options) > 30
    assert [name for name, text in options.items() if not re.match(r"\w", text)] == []
    offered = set(options)
    assert {"--env", "--model.dim", "--training.batch", "--processes", "--resume"} <= offered
    derived = ("--model.height", "--model.width", "--model.num-actions", "--training.seed", "--dreamer.seed")
    assert not offered & set(derived)
    assert ("--dreamer.rows" in offered) == (kind is LoopOptions)


@pytest.mark.parametrize("kind", [LoopOptions, LearnOptions])
def test_help_shows_a_dozen_options_and_where_the_others_are(
    kind: type[LoopOptions] | type[LearnOptions], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as end:
        parse(kind, ["--preset", "demo", "--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    offered = re.findall(r"^[│ ] {0,2}(?:-h, )?--([a-z][\w.-]*)", said, flags=re.MULTILINE)
    names = ["in" if name == "place" else name.replace("_", "-") for name in kind.FIRST]
    assert sorted(offered) == sorted([*names, "help"])
    assert offered[:4] == ["help", "out", "preset", "config"]
    assert len(offered) <= 16
    assert len(said.splitlines()) <= 60
    assert "--help-all lists all, in groups: --model.*, --training.*, --heads.*" in said
    assert "Training steps of the world model in each round. (default: 450)" in said  # of the preset


def test_a_preset_gives_the_defaults_and_options_go_before_it(tmp_path: Path) -> None:
    parsed = parse(LoopOptions, ["--preset=smoke", "--out", str(tmp_path / "run"), "--world-steps", "7"])
    smoke = PRESETS["smoke"]
    assert (parsed.world_steps, parsed.collect_episodes, parsed.model) == (7, smoke.collect_episodes, smoke.model)
    assert not (tmp_path / "run").exists()
    learn = parse(LearnOptions, ["--preset", "memory-maze", "--out", str(tmp_path / "run")])
    assert (learn.env, learn.processes) == ("lssvwm/MemoryMaze-9x9-v0", True)


def test_a_preset_made_for_minigrid_takes_another_world_as_it_is(tmp_path: Path) -> None:
    args = ["--preset", "smoke", "--env", "lssvwm/Minetest-Treechop-v0", "--out", str(tmp_path / "run")]
    parsed = parse(LoopOptions, args)
    assert (parsed.env, parsed.actions, parsed.model.patch, parsed.processes) == (args[3], None, 0, True)
    assert (parsed.max_episode_steps, parsed.world_steps) == (100, PRESETS["smoke"].world_steps)
    asked = parse(LoopOptions, [*args, "--actions", "0", "1", "--model.patch", "8", "--max-episode-steps", "60"])
    assert (asked.actions, asked.model.patch, asked.max_episode_steps) == ((0, 1), 8, 60)
    minigrid = parse(LoopOptions, ["--preset", "demo", "--env", "MiniGrid-MemoryS11-v0", *args[-2:]])
    assert (minigrid.actions, minigrid.model.patch) == ((0, 1, 2), PRESETS["demo"].model.patch)
    for env, grid in (("MiniGrid-MemoryS7-v0", 56), ("lssvwm/MemoryMaze-9x9-v0", 64)):
        tiny = parse(LearnOptions, ["--preset", "tiny", "--env", env, *args[-2:]]).model
        config = tiny.of_world(Probe((grid, grid), ActionSpec.discrete(3)))
        assert config.patch == {56: 28, 64: 16}[grid]
    whole = parse(LearnOptions, ["--out", str(tmp_path / "run")]).model
    frames = ((56, 56), (64, 64), (84, 84), (60, 80), (64, 96))
    sides = [whole.of_world(Probe(frame, ActionSpec.discrete(3)), 0).patch for frame in frames]
    assert sides == [14, 16, 21, 10, 16]
    own = parse(LearnOptions, ["--preset", "tiny", *args[-2:]])
    assert own.model == PRESETS["tiny"].model
    assert parse(LearnOptions, ["--preset", "demo", "--episodes", str(tmp_path), *args[-2:]]).env is None


@pytest.mark.parametrize("name", PRESETS)
def test_settings_survive_json(name: str, tmp_path: Path) -> None:
    settings = replace(PRESETS[name], world_model=tmp_path, seed=3)
    assert from_json(type(settings), json.loads(json.dumps(to_json(settings))), tmp_path) == settings


# Bad input


@pytest.mark.parametrize(
    ("args", "names"),
    [
        (["--preset", "huge"], ["'huge'", "default, minigrid, demo, smoke, memory-maze"]),
        (["--env", "MiniGrid-MemoryS8-v0"], ["'MiniGrid-MemoryS8-v0'", "did you mean", "MiniGrid-MemoryS7-v0"]),
        (["--env", "nowhere:Maze-v0"], ["'nowhere'", "cannot be found"]),
        (["--actions", "0", "9"], ["(0, 9)", "actions 0..6"]),
        (["--model.patch", "10"], ["patch=10", "56x56"]),
        (["--size", "64"], ["patch=28", "64x64"]),
        (["--model.heads", "3"], ["heads=3"]),
        (["--collector", "oracle"], ["--collector oracle", "--extra-obs"]),
        (["--collect-episodes", "0"], ["collect_episodes is 0", "1 or more"]),
        (["--collect-frames", "0"], ["collect_frames is 0", "1 or more"]),
        (["--rounds", "0"], ["rounds is 0"]),
        (["--later-world-steps", "0"], ["later_world_steps is 0"]),
        (
            ["--curriculum", "8:60,16:1"],
            ["begins at step 60", "trained for 60", "--world-steps"],
        ),
        (["--dreamer.rows", "90000000"], ["90000000 dreams at once need", "--dreamer.rows"]),
        (["--seed", "-1"], ["--seed -1", "0 to 999"]),
        (["--seed", "1000"], ["--seed 1000", "0 to 999"]),
        (["--rounds", "2", "--collect-episodes", "500001"], ["collect_episodes: 1000002", "1000000 seeds of a run"]),
        (["--eval-episodes", "1000001"], ["eval_episodes: 1000001", "use fewer"]),
        (["--world-model", "/no/checkpoint"], ["/no/checkpoint/config.json", "does not exist"]),
        (["--contexts", "/no/episodes"], ["--contexts", "--world-model"]),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_written(
    args: list[str], names: list[str], refusal: Refusal, tmp_path: Path
) -> None:
    preset = [] if "--preset" in args else ["--preset", "smoke"]
    said = refusal("train_agent.py", *preset, *args, "--out", tmp_path / "run")
    assert [name for name in names if name not in said] == [], said
    assert not (tmp_path / "run").exists()


def test_an_error_is_one_line_without_a_traceback_and_exit_status_2(tmp_path: Path) -> None:
    process = start("train_wm.py", "--env", "NoSuchWorld-v0", "--out", str(tmp_path / "run"))
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, output, len(errors.splitlines())) == (2, "", 1)
    assert errors.startswith("error: unknown environment id 'NoSuchWorld-v0'")


def test_out_has_to_be_a_folder(refusal: Refusal, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert "file" in refusal("train_agent.py", "--out", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


# Settings in a file

YAML = """
# What a run is told, with reasons.
preset: smoke
env: MiniGrid-MemoryS11-v0  # longer
world_steps: 9
actions: [0, 1]
model:
  dim: 64
  tiles: [[1, 1]]
  mixer: {gate: false}
training: {adam_lr: 1e-4}
dreamer: {contexts: window}
"""


def test_a_file_goes_before_the_preset_and_the_command_line_before_both(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(YAML)
    args = ["--config", str(file), "--out", str(tmp_path / "run")]
    parsed, smoke = parse(LoopOptions, [*args, "--world-steps", "7", "--model.heads", "2"]), PRESETS["smoke"]
    assert (parsed.preset, parsed.env, parsed.actions) == ("smoke", "MiniGrid-MemoryS11-v0", (0, 1))
    assert (parsed.world_steps, parsed.collect_episodes) == (7, smoke.collect_episodes)
    mixer = replace(smoke.model.mixer, gate=False)
    assert parsed.model == replace(smoke.model, dim=64, heads=2, tiles=((1, 1),), mixer=mixer)
    assert parsed.training == replace(smoke.training, adam_lr=1e-4)
    assert parsed.dreamer == replace(smoke.dreamer, contexts="window")
    other = parse(LoopOptions, [*args, "--preset", "demo"])
    assert (other.preset, other.world_steps, other.rounds) == ("demo", 9, PRESETS["demo"].rounds)
    elsewhere = parse(LoopOptions, [*args, "--env", "lssvwm/MemoryMaze-9x9-v0"])
    assert (elsewhere.env, elsewhere.model.patch) == ("lssvwm/MemoryMaze-9x9-v0", 0)


def test_the_settings_of_a_run_are_such_a_file(tmp_path: Path, trained: Path) -> None:
    parsed = parse(LearnOptions, ["--config", str(trained / "settings.json"), "--out", str(tmp_path / "run")])
    asked = parse(LearnOptions, [*SHORT_WORLD, "--out", str(tmp_path / "run")])
    assert to_json(parsed) == to_json(asked)
    resumed = parse(LearnOptions, ["--config", str(trained / "settings.json"), "--out", str(trained), "--resume"])
    assert to_json(resumed) == to_json(asked)
    (tmp_path / "other.yaml").write_text("seed: 4")
    with pytest.raises(InputError, match=r"seed \(0 there, 4 here\)"):
        parse(LearnOptions, ["--config", str(tmp_path / "other.yaml"), "--out", str(trained), "--resume"])
    (tmp_path / "none.yaml").write_text("# nothing\n")
    assert parse(LearnOptions, ["--config", str(tmp_path / "none.yaml")]).seed == 0


def test_the_file_of_the_docs_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "commands.md").read_text()
    file = tmp_path / "run.yaml"
    file.write_text(page.split("```yaml\n")[1].split("```")[0])
    parsed = parse(LoopOptions, ["--config", str(file), "--out", str(tmp_path / "run")])
    assert (parsed.preset, parsed.model.dim, parsed.training.adam_lr) == ("memory-maze", 192, 5e-4)


def test_a_file_names_what_is_given(tmp_path: Path, trained: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"world_model: {trained / 'world_model'}")
    parsed = parse(LoopOptions, ["--config", str(file), "--out", str(tmp_path / "run")])
    assert (parsed.world_model, parsed.actions) == (trained / "world_model", (0, 1, 2))
    file.write_text(f"episodes: {trained / 'episodes'}")
    assert parse(LearnOptions, ["--config", str(file), "--out", str(tmp_path / "run")]).env is None


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("world-steps: 3", ["unknown key world-steps", "did you mean world_steps?"]),
        ("model: {dims: 3}", ["unknown key model.dims", "did you mean model.dim?"]),
        ("dreamer: {qqqq: 3}", ["unknown key dreamer.qqqq", "choose of dreamer.rows, "]),
        ("training: {seed: 3}", ["training.seed follows from the rest of the run", "leave it out"]),
        ("out: here", ["out is no setting of a run", "--out on the command line"]),
        ("world_steps: many", ["world_steps='many'", "a whole number"]),
        ("seed: yes", ["seed=True", "a whole number"]),
        ("model: 3", ["model=3"]),
        ("model: {dim: 1.5}", ["model.dim=1.5", "a whole number"]),
        ("algo: ppp", ["algo='ppp'", "'dreamer'"]),
        ("training: {curriculum: 64:20}", ["training.curriculum=3860", "text"]),
        ("training: {batch: 0}", ["batch=0", "at least 1"]),
        ("seed: 1\nseed: 2", ["seed is there twice", "line 1"]),
        ("seed: [", ["no YAML", "line 1"]),
        ("- 1", ["no names with values"]),
        ("seed: !!python/object/apply:os.system [exit]", ["no YAML", "could not determine a constructor"]),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_key(
    text: str, names: list[str], refusal: Refusal, tmp_path: Path
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    said = refusal("train_agent.py", "--config", file, "--out", tmp_path / "run")
    assert [name for name in (str(file), *names) if name not in said] == [], said
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_not_there(refusal: Refusal, tmp_path: Path) -> None:
    said = refusal("train_wm.py", "--config", tmp_path / "none.yaml", "--out", tmp_path / "run")
    assert f"--config {tmp_path / 'none.yaml'} cannot be read (No such file or directory)" in said


def test_seeds_for_recording_and_for_evaluation_do_not_meet() -> None:
    ranges = [range(seed * SEEDS_PER_RUN, (seed + 1) * SEEDS_PER_RUN) for seed in range(RUNS)]
    ranges += [range(EVALUATION_SEEDS + each.start, EVALUATION_SEEDS + each.stop) for each in ranges]
    assert all(before.stop <= after.start for before, after in pairwise(ranges))
    assert ranges[-1].stop < 2**31  # what some environments take


def test_a_folder_is_given_back_if_nothing_was_done(tmp_path: Path) -> None:
    options, names = LearnOptions(out=tmp_path / "run"), {"settings.json", "commands.txt"}

    def files() -> set[str]:
        return {path.name for path in options.out.iterdir()}

    def run(error: BaseException) -> None:
        with claimed(options):
            assert files() >= names
            (options.out / "clocks.json").write_text("{}")
            raise error

    def fail(error: BaseException) -> None:
        with pytest.raises(type(error)):
            run(error)

    fail(InputError("wrong option"))
    assert files() == set()
    fail(KeyboardInterrupt())
    fail(InputError("wrong option of a resumed run"))
    assert files() == {*names, "clocks.json"}
    for path in options.out.iterdir():
        path.unlink()
    (options.out / "episodes").mkdir()
    fail(InputError("after some work"))
    assert files() == {*names, "clocks.json", "episodes"}
    (options.out / "policy").mkdir()
    for name, hours in ((f".policy.pt.{'0' * 32}", 2), (going := f".policy.pt.{'1' * 32}", 0)):
        (path := options.out / "policy" / name).touch()
        then = time.time() - 3600 * hours
        os.utime(path, (then, then))
    fail(KeyboardInterrupt())
    assert [path.name for path in (options.out / "policy").iterdir()] == [going], "killed while it saved"


# Runs that are there


def test_a_run_is_not_overwritten_and_keeps_its_settings(refusal: Refusal, trained: Path) -> None:
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    assert "add --resume" in refusal("train_wm.py", *SHORT_WORLD, "--out", trained)
    resume = ("--out", trained, "--resume", "--no-progress")
    said = refusal("train_wm.py", *resume, "--model.dim", "64", "--seed", "5")
    assert "model.dim (32 there, 64 here)" in said
    assert "seed (0 there, 5 here)" in said
    assert "preset ('smoke' there, 'demo' here)" in refusal("train_wm.py", *resume, "--preset", "demo")
    said = refusal("train_agent.py", *resume)
    assert "another script" in said
    assert "episodes" in said
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


def test_only_rounds_may_grow(
    refusal: Refusal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert call(monkeypatch, "train_agent.py", *SHORT_LOOP, "--out", out, "--rounds", "2") == 0
    resume = ("--out", out, "--resume", "--no-progress")
    assert "2 rounds" in refusal("train_agent.py", *resume, "--rounds", "1")
    said = refusal("train_agent.py", *resume, "--dreamer.lr", "0.5")
    assert f"another policy in the same world: --world-model {out}/world_model --out NEW" in said
    first = {name: (out / "stages" / name).read_text() for name in ("0-collect.json", "1-evaluation.json")}
    assert call(monkeypatch, "train_agent.py", *resume, "--rounds", "3") == 0
    assert {name: (out / "stages" / name).read_text() for name in first} == first
    store = EpisodeStore(out / "episodes")
    assert sorted(int(store.read(name).extras["seed"]) for name in store.names) == list(range(12))
    stages = json.loads((out / "report" / "results.json").read_text())["stages"]
    assert [stages[f"{i}-world-model"]["steps"] for i in range(3)] == [3, 6, 9]
    assert [stages[f"{i}-policy"]["batches"] for i in range(3)] == [2, 4, 6]


def test_a_curriculum_may_go_on(tmp_path: Path) -> None:
    """And be taken back, should the training say that it has come too far for it."""
    resume = ["--out", str(tmp_path), "--resume", "--curriculum"]
    for before, now in (("8:2,12:3", "8:2,12:3,16:9"), ("8:2,12:3,16:9", "8:2,12:3")):
        settings = LearnSettings(training=TrainingOptions(curriculum=before))
        (tmp_path / "settings.json").write_text(json.dumps(to_json(settings)))
        assert parse(LearnOptions, [*resume, now]).training.curriculum == now
    with pytest.raises(InputError, match=r"training\.curriculum \('8:2,12:3,16:9' there, '8:2,16:3' here\)"):
        parse(LearnOptions, [*resume, "8:2,16:3"])


def test_where_a_run_is_logged_may_change(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text(json.dumps(to_json(LearnSettings())))
    resume = ["--out", str(tmp_path), "--resume"]
    assert parse(LearnOptions, resume).log == ("tensorboard",)
    assert parse(LearnOptions, [*resume, "--log", "tensorboard", "wandb"]).log == ("tensorboard", "wandb")


def test_a_damaged_episode_is_named_and_the_others_stay(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Even where the process was killed by the machine: the file is named, and its episode recorded again."""
    out = tmp_path / "run"
    shutil.copytree(trained, out)
    for stage in (out / "stages").iterdir():
        stage.unlink()
    files = sorted((out / "episodes").glob("*.episode"))
    whole = files[1].read_bytes()
    files[1].write_bytes(whole[: len(whole) // 2])
    others = {path: path.read_bytes() for path in files if path != files[1]}
    assert call(monkeypatch, "train_wm.py", "--out", out, "--resume", "--no-progress") == 0
    assert any(files[1].name in said and "delete it" in said for said in caplog.messages)
    assert {path: path.read_bytes() for path in others} == others
    store = EpisodeStore(out / "episodes")
    assert list(store.broken) == [files[1].name]
    assert sorted(int(store.read(name).extras["seed"]) for name in store.names) == list(range(4))


def test_clips_that_turn_round_are_not_gone_on_with(refusal: Refusal, tmp_path: Path) -> None:
    options = ("--out", tmp_path / "run", "--retrace", "0.5", "--training.carry", "0.9", "--extra-obs", "--pose")
    options += ("agent_pos",)
    assert "add --training.carry 0" in refusal("train_wm.py", *options)
    assert not (tmp_path / "run").exists()


def test_dead_reckoning_lacks_nothing(refusal: Refusal, tmp_path: Path) -> None:
    reckoning = ("--extra-obs", "--pose", "agent_pos", "agent_dir", "--model.dead-reckoning", "1")
    out = ("--out", tmp_path / "run")
    assert "--extra-obs --pose agent_pos agent_dir" in refusal("train_wm.py", *out, *reckoning[-2:])
    assert "recorded only with --extra-obs" in refusal("train_agent.py", *out, *reckoning[1:])
    assert "of 2 + 2 or 3 + 3 numbers" in refusal("train_wm.py", *out, *reckoning[:3], *reckoning[-2:])
    assert "is no environment" in refusal("train_agent.py", *out, *reckoning[:-2])
    turns = ("--retrace", "0.5", "--training.carry", "0")
    assert "leave out --model.dead-reckoning" in refusal("train_wm.py", *out, *reckoning, *turns)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("part", ["episodes", "stages"])
def test_a_folder_of_something_else_is_no_place_for_a_run(refusal: Refusal, tmp_path: Path, part: str) -> None:
    (tmp_path / "run" / part).mkdir(parents=True)
    said = refusal("train_agent.py", "--preset", "smoke", "--out", tmp_path / "run")
    assert f"holds {part} of something else" in said
    assert [path.name for path in (tmp_path / "run").iterdir()] == [part]


# World models and episodes that are given


@pytest.mark.parametrize("option", ["--world-model", "--distill"])
def test_a_world_model_has_no_module_run_but_that_of_an_environment_one_named(
    refusal: Refusal, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(trained / "world_model", copied)
    config = json.loads((copied / "config.json").read_text())
    config["world"]["env"]["id"] = "evilmod:Foo-v0"
    (copied / "config.json").write_text(json.dumps(config))
    (tmp_path / "evilmod.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    script = "train_wm.py" if option == "--distill" else "train_agent.py"
    said = refusal(script, option, copied, "--out", tmp_path / "run")
    assert "would run the module 'evilmod'" in said
    assert "--env" in said
    asked = [option, str(copied), "--env", "MiniGrid-MemoryS7-v0", "--out", str(tmp_path / "run")]
    parsed = parse(LearnOptions if option == "--distill" else LoopOptions, asked)
    assert parsed.env == "MiniGrid-MemoryS7-v0"


def test_a_given_world_model_brings_its_environment_and_its_contexts(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = (trained / "world_model" / "model.safetensors").read_bytes()
    out = tmp_path / "run"
    options = ("--world-model", trained / "world_model", "--out", out, "--no-progress", "--num-envs", "2")
    small = ("--no-processes", "--dreams", "2", "--eval-episodes", "2", "--dreamer.rows", "4", "--dreamer.context", "2")
    assert call(monkeypatch, "train_agent.py", *options, *small, "--dreamer.horizon", "3") == 0
    found = json.loads((out / "report" / "results.json").read_text())
    assert list(found["stages"]) == ["0-policy", "random", "0-evaluation"]
    assert found["settings"]["actions"] == [0, 1, 2]
    assert found["settings"]["max_episode_steps"] == 60
    assert not (out / "episodes").exists()
    assert (trained / "world_model" / "model.safetensors").read_bytes() == weights
    resumed = parse(LoopOptions, ["--out", str(out), "--resume"])
    assert resumed.world_model == (trained / "world_model").resolve()


def test_a_checkpoint_carries_contexts_from_its_run(trained: Path) -> None:
    carried, recorded = EpisodeStore(trained / "world_model" / CONTEXTS), EpisodeStore(trained / "episodes")
    assert sorted(carried.lengths) == sorted(recorded.lengths)


def test_a_world_of_the_package_is_named_as_a_folder_is(refusal: Refusal, tmp_path: Path) -> None:
    shipped, out = resolve("minigrid-memory-s7"), tmp_path / "run"
    options = parse(LoopOptions, ["--world-model", "minigrid-memory-s7", "--out", str(out)])
    assert options.world_model == shipped
    assert (options.env, options.actions) == ("MiniGrid-MemoryS7-v0", (0, 1, 2))
    checkpoint = Loop(out, options, progress=False).world()
    assert checkpoint.path == shipped
    said = refusal("train_agent.py", "--world-model", "minigrid-s7", "--out", out)
    assert re.search(r"minigrid-s7 is neither .* choose one of .*minigrid-memory-s7", said)
    said = refusal("train_wm.py", "--distill", "minigrid-memory-s7", "--out", out)
    assert "the episodes that it was trained on are not there; name some with --episodes" in said
    assert not out.exists()


@pytest.mark.parametrize(
    ("args", "names"),
    [
        (["--actions", "None"], ["7 actions", "--actions"]),
        (["--size", "28"], ["(28, 28)", "(56, 56)", "--size"]),
        (["--contexts", "/no/episodes"], ["/no/episodes", "does not exist"]),
    ],
)
def test_a_given_world_model_has_to_fit_the_environment(
    args: list[str], names: list[str], refusal: Refusal, trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    said = refusal("train_agent.py", "--world-model", trained / "world_model", *args, "--out", out)
    assert [name for name in names if name not in said] == [], said
    assert not out.exists()


def test_a_checkpoint_of_another_config_is_named(refusal: Refusal, trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    config = copy / "world_model" / "config.json"
    values = json.loads(config.read_text())
    values["model"]["dim"] = 64
    config.write_text(json.dumps(values))
    said = refusal("train_agent.py", "--world-model", copy / "world_model", "--out", tmp_path / "run")
    assert "model.safetensors" in said
    assert "config" in said
    # What training resumes from is checked as well.
    settings = json.loads((copy / "settings.json").read_text())
    settings["model"]["dim"] = 64
    (copy / "settings.json").write_text(json.dumps(settings))
    (copy / "stages" / "0-world-model.json").unlink()
    said = refusal("train_wm.py", "--out", copy, "--resume", "--no-progress")
    assert "training.pt" in said
    assert "dim (32 there, 64 here)" in said


def test_episodes_alone_are_enough_for_a_world_model(
    refusal: Refusal, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "episodes", tmp_path / "world"
    store = small_store(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    options = ("--episodes", folder, "--out", out, *TINY_WORLD, "--world-steps", "2")
    assert "latent_channels=128" in refusal("train_wm.py", *options, "--model.patch", "4")
    assert not out.exists()
    assert call(monkeypatch, "train_wm.py", *options, "--model.patch", "4", "--model.latent-channels", "8") == 0
    found = load_checkpoint(out / "world_model")
    assert found.world["env"] is None
    assert Path(found.world["episodes"]) == folder
    assert (found.model.config.height, found.model.config.width) == store.image_shape
    assert found.model.config.num_actions == store.max_action + 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not (out / "episodes").exists()
    # Nobody knows the environment of such a world model until it is named.
    said = refusal("train_agent.py", "--world-model", out / "world_model", "--out", tmp_path / "agent")
    assert "--env" in said
    said = refusal("train_wm.py", "--episodes", folder, "--env", "MiniGrid-MemoryS7-v0", "--out", tmp_path / "other")
    assert "(16, 8)" in said
    assert "(56, 56)" in said


def test_folders_without_whole_episodes_are_refused(refusal: Refusal, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert "does not exist" in refusal("train_wm.py", "--episodes", tmp_path / "none", "--out", out)
    (tmp_path / "empty").mkdir()
    assert "holds no episodes" in refusal("train_wm.py", "--episodes", tmp_path / "empty", "--out", out)
    shutil.copytree(trained / "episodes", tmp_path / "cut")
    for path in (tmp_path / "cut").glob("*.episode"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    first = min(path.name for path in (tmp_path / "cut").glob("*.episode"))
    assert f"{first} is damaged" in refusal("train_wm.py", "--episodes", tmp_path / "cut", "--out", out)
    np.savez(tmp_path / "empty" / "other.npz", image=np.zeros(3))
    assert "other.npz" in refusal("train_wm.py", "--episodes", tmp_path / "empty", "--out", out)
    assert not out.exists()
