"""`lssvwm`: its table of commands, its help, and what it makes of commands that end in errors."""

from __future__ import annotations

import errno
import fnmatch
import importlib
import inspect
import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from lssvwm import __version__
from lssvwm.agents import commands
from lssvwm.agents.commands import COMMANDS, Command, page, start
from lssvwm.worldmodel.common.command_line import RESUMABLE, run_main, started_as, typed
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import EpisodeStore
from worlds import small_store

ROOT = Path(__file__).parent.parent
ALL = {name: command for purpose in COMMANDS.values() for name, command in purpose.items()}


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it printed."""

    status: int
    output: str
    errors: str


class Shell:
    """`lssvwm ARGS` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *args: object) -> Said:
        self.monkeypatch.setattr(sys, "argv", ["/usr/bin/lssvwm", *map(str, args)])
        status = 0
        try:
            commands.main()
        except SystemExit as end:
            status = int(end.code or 0)
        return Said(status, *self.capsys.readouterr())


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capsys)


def test_it_is_what_pip_installs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    module, _, name = project["project"]["scripts"]["lssvwm"].partition(":")
    assert getattr(importlib.import_module(module), name) is commands.main


def test_the_image_has_what_its_build_reads_and_no_more() -> None:
    """No daemon builds it in the tests: that nothing is left out that `make setup` and `make demo` read."""
    lines = (ROOT / ".dockerignore").read_text().split()

    def left_out(path: str) -> bool:
        return any(fnmatch.fnmatch(path, line.replace("**/", "*")) for line in lines)

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    read = ["Makefile", "pyproject.toml", "constraints.txt", ".ci/system-packages", project["project"]["readme"]]
    read += [*project["project"]["license-files"], "train_agent.py", "train_wm.py"]
    read += [package.replace(".", "/") for package in project["tool"]["setuptools"]["packages"]]
    for path in read:
        assert (ROOT / path).exists(), path
        assert not any(left_out(str(part)) for part in (Path(path), *Path(path).parents)), path
    made = (".venv", ".venv-rllib", ".git", ".mypy_cache", ".hypothesis", "lssvwm.egg-info", "build", "runs", "wheels")
    assert all(map(left_out, (*made, "docs/_build", "agents/__pycache__")))


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_a_main_that_takes_arguments(name: str) -> None:
    parameters = inspect.signature(importlib.import_module(ALL[name].module).main).parameters
    assert list(parameters) == ["args"]


@pytest.mark.parametrize("name", ["push", "pull", "push-episodes", "pull-episodes"])
def test_help_calls_a_command_what_was_typed(shell: Shell, name: str) -> None:
    said = shell(name, "--help")
    assert said.output.startswith(f"usage: lssvwm {name} [-h]")
    assert "python -m lssvwm.worldmodel.hub" not in said.output


def test_help_fits_a_screen_and_loads_no_torch() -> None:
    lines = page().splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 90
    assert all(f"  {name} " in page() for name in ALL)
    heavy = ("torch", "tyro")
    code = "import sys; sys.argv = ['lssvwm']; from lssvwm.agents.commands import main; main()\n"
    code += f"print([name for name in {heavy} if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said == page() + "\n[]\n"


def test_it_starts_the_command_that_is_named(shell: Shell, tmp_path: Path) -> None:
    said = shell("repack", "--help")
    assert (said.status, said.errors) == (0, "")
    assert said.output.startswith("usage: lssvwm repack [-h]")
    small_store(tmp_path / "from")
    said = shell("repack", tmp_path / "from", tmp_path / "to", "--no-progress")
    assert (said.status, said.errors) == (0, "")
    assert len(EpisodeStore(tmp_path / "to")) == len(EpisodeStore(tmp_path / "from"))
    said = shell("repack", tmp_path / "none", tmp_path / "to")
    assert (said.status, said.output, len(said.errors.splitlines())) == (2, "", 1)
    assert said.errors.startswith(f"error: episode folder {tmp_path / 'none'} does not exist")


def test_what_is_left_of_an_interrupted_run_is_said_however_it_was_started() -> None:
    for name in ("train", "train-wm"):
        assert importlib.import_module(ALL[name].module).INTERRUPTED == RESUMABLE


AT_TORCH = """
import os, runpy, sys

class Torch:
    def find_spec(self, name, *_):
        if name == "torch":
            print(os.environ["OMP_WAIT_POLICY"], flush=True)
            os._exit(0)

sys.meta_path.insert(0, Torch())
sys.argv = sys.argv[1:]
if sys.argv[0] == "lssvwm":
    from lssvwm.agents.commands import main
    main()
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script or `lssvwm`, says how OpenMP's threads wait where it comes to import torch, and ends there."""


@pytest.mark.parametrize("told", [None, "ACTIVE"])
@pytest.mark.parametrize(
    "command", [("train_agent.py", "--help"), ("train_wm.py", "--help"), ("lssvwm", "evaluate", "--help")]
)
def test_threads_that_wait_sleep_unless_told_otherwise(command: tuple[str, ...], told: str | None) -> None:
    env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    env |= {} if told is None else {"OMP_WAIT_POLICY": told}
    ran = subprocess.run([sys.executable, "-c", AT_TORCH, *command], cwd=ROOT, env=env, capture_output=True, text=True)
    assert ran.stdout == f"{told or 'PASSIVE'}\n", ran.stderr


def test_modules_of_the_folder_that_it_is_started_in_are_found(tmp_path: Path) -> None:
    """As with `python -m`; the command that pip installs is started from its own folder."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "lssvwm"
    command.write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom lssvwm.agents.commands import main\nmain()\n"
    )
    (tmp_path / "my_worlds.py").write_text("print('mine')\nraise SystemExit(3)\n")
    run = [sys.executable, str(command), "check", "my_worlds:Light-v0"]
    said = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (3, "mine\n")


def test_record_keeps_what_a_policy_played(shell: Shell, tmp_path: Path) -> None:
    asked = ("record", "--env", "MiniGrid-MemoryS7-v0", "--out", tmp_path / "episodes", "--max-episode-steps", "5")
    small = ("--num-envs", "1", "--no-processes", "--no-progress", "--seed", "7")
    said = shell(*asked, *small, "--episodes", "2")
    assert (said.status, said.errors) == (0, "")
    assert said.output.startswith("2 episodes, 12 frames, mean return 0")
    store = EpisodeStore(tmp_path / "episodes")
    seeds = {int(store.read(name).extras["seed"]) for name in store.names}
    assert (seeds, set(store.lengths.tolist())) == ({7, 8}, {6})
    assert shell(*asked, *small, "--episodes", "3").status == 0
    assert set(store.names) < set(EpisodeStore(tmp_path / "episodes").names)
    shown = ("--policy", "scripted:1,random:1", "--extra-obs", "--layouts", "3", "2", "--size", "28", "56")
    said = shell(*asked[:3], "--out", tmp_path / "both", *shown, "--every", "2", *small, "--episodes", "2")
    assert (said.status, said.errors) == (0, "")
    store = EpisodeStore(tmp_path / "both")
    mixed = "Mixture(MemoryOracle(epsilon=0.1, wrong=0.5):0.5, RandomPolicy:0.5)"
    told = json.loads(str(store.read(store.names[0]).extras["recording"]))
    assert (told["policy"], store.image_shape) == (mixed, (28, 56))
    assert {name: told["env"][name] for name in ("layouts", "every")} == {"layouts": [3, 2], "every": 2}
    said = shell(*asked, *small, "--policy", "random:1,oracle:1")
    assert said.errors == "error: --policy oracle plays MiniGrid-MemoryS7-v0 by more than its frames: add --extra-obs\n"
    said = shell(*asked, *small, "--policy", "clever")
    assert (said.status, len(said.errors.splitlines())) == (2, 1)
    assert "there is no policy 'clever': choose one of random, scripted, seeker, oracle" in said.errors


def test_what_is_no_command(shell: Shell) -> None:
    said = shell("trian")
    assert (said.status, said.output, len(said.errors.splitlines())) == (2, "", 1)
    assert said.errors.startswith("error: no command is called 'trian': did you mean 'train'? there are train,")
    assert shell() == shell("-h") == Said(0, page() + "\n", "")
    assert shell("--version") == Said(0, f"lssvwm {__version__}\n", "")


def test_the_command_can_be_typed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["lssvwm evaluate", "a run", "--out", "x"])
    assert typed("lssvwm.agents.evaluation") == "lssvwm evaluate 'a run' --out x"
    assert started_as("lssvwm.agents.evaluation") == "lssvwm evaluate"
    monkeypatch.setattr(sys, "argv", ["/there/agents/evaluation/__main__.py", "run"])
    assert typed("lssvwm.agents.evaluation") == "python -m lssvwm.agents.evaluation run"
    assert started_as("lssvwm.agents.evaluation") == "python -m lssvwm.agents.evaluation"
    monkeypatch.setattr(sys, "argv", ["train_agent.py", "--seed", "1"])
    assert typed() == "python train_agent.py --seed 1"


def test_a_command_gets_what_stands_before_and_says_its_own_last_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Sequence[str] | None] = []

    def main(args: Sequence[str] | None) -> int:
        seen.append(args)
        raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "made_up", SimpleNamespace(main=main, INTERRUPTED="all is kept"))
    with pytest.raises(SystemExit) as end:
        start(Command("made_up", "nothing", ("push",)), ["a", "b"])
    assert (end.value.code, seen, capsys.readouterr().err) == (130, [["push", "a", "b"]], "all is kept\n")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (InputError("no such thing: name another"), "error: no such thing: name another\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "file"),
            "error: [Errno 28] No space left on device: 'file'\n",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "dir"), "error: [Errno 13] Permission denied: 'dir'\n"),
    ],
)
def test_what_the_user_can_mend_is_one_line(error: Exception, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    def main(args: Sequence[str] | None) -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        run_main(main, "interrupted")
    assert (end.value.code, capsys.readouterr().err) == (2, said)


def test_a_fault_of_ours_keeps_its_traceback_and_a_status_is_passed_on() -> None:
    def fails(args: Sequence[str] | None) -> None:
        raise IsADirectoryError(errno.EISDIR, "Is a directory", "x")

    with pytest.raises(IsADirectoryError):
        run_main(fails, "interrupted")
    with pytest.raises(SystemExit) as end:
        run_main(lambda args: 3, "interrupted")
    assert end.value.code == 3
    run_main(lambda args: None, "interrupted")


def test_bad_input_sigterm_and_a_full_disk_are_dealt_with_in_one_place() -> None:
    sources = [path for part in ("agents", "envs", "worldmodel") for path in (ROOT / part).rglob("*.py")]
    own = [path.relative_to(ROOT).as_posix() for path in sources if "sys.exit(2)" in path.read_text()]
    assert own == ["worldmodel/common/command_line.py"]
