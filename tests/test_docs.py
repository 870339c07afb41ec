"""README and the pages of the site: their Python runs as it stands there, their commands and links exist.

A block marked `python` runs, after those before it on its page; one marked `py` is a fragment, and only parsed. The
notebook's cells run likewise, without what only a notebook understands.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import io
import json
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest

from lssvwm.agents.commands import COMMANDS
from lssvwm.agents.running.cli import HELP_ALL
from runs import ROOT, TINY_WORLD, finish

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OURS = {name: command for commands in COMMANDS.values() for name, command in commands.items()}
TEXT = {page.relative_to(ROOT).as_posix(): page.read_text() for page in PAGES if "_build" not in page.parts}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT[page], re.DOTALL | re.MULTILINE)


def with_blocks(language: str) -> list[str]:
    return [page for page in TEXT if blocks(page, language)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the pages suppose that the reader is: with a run in `runs/demo`."""
    folder = tmp_path_factory.mktemp("docs")
    out = folder / "runs" / "demo"
    finish("train_wm.py", *TINY_WORLD, "--out", str(out), "--world-steps", "3", "--collect-episodes", "12")
    return folder


@pytest.mark.parametrize("page", with_blocks("python"))
def test_python_runs(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), names)


def test_the_notebook_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    matplotlib.use("Agg")  # whatever tests before this one have chosen in this process
    names: dict[str, object] = {"__name__": "__main__"}
    cells = json.loads((ROOT / "examples" / "tour.ipynb").read_text())["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":
            code = "".join(line for line in cell["source"] if not line.startswith("%"))
            exec(compile(code, "tour.ipynb", "exec"), names)


def test_every_page_is_in_the_contents_once() -> None:
    contents = ["index"]
    for page, folder in (("docs/index.md", ""), ("docs/reference/index.md", "reference/")):
        for block in blocks(page, r"\{toctree\}"):
            contents += [folder + name for name in re.findall(r"^[\w/]+$", block, re.MULTILINE)]
    pages = [page.removeprefix("docs/").removesuffix(".md") for page in TEXT if page.startswith("docs/")]
    assert sorted(contents) == sorted(pages)


@pytest.mark.parametrize("page", with_blocks("py"))
def test_fragments_are_python(page: str) -> None:
    for block in blocks(page, "py"):
        ast.parse(block)


@functools.cache
def help_of(*command: str) -> str:
    """What `COMMAND --help` prints, of all options."""
    printed = io.StringIO()
    before = sys.argv
    every = any(part.startswith("train_") for part in command)  # their --help is the first options alone
    sys.argv = [command[-1], *command[2:], HELP_ALL if every else "--help"]
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            if command[0] == "-m":
                runpy.run_module(command[1], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(str(ROOT / command[0]), run_name="__main__")
    finally:
        sys.argv = before
    return printed.getvalue()


def commands(page: str) -> Iterator[list[str]]:
    """The words of every command in the page's shell blocks, without what only sets its surroundings."""
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                del words[0]
            if words:
                yield words


@pytest.mark.parametrize("page", with_blocks("bash"))
def test_commands_and_their_options_exist(page: str) -> None:
    for words in commands(page):
        script = next((at for at, word in enumerate(words) if word.endswith(".py")), None)
        if "-m" in words and words[0].endswith("python"):
            at = words.index("-m")
            called, rest = ("-m", words[at + 1]), words[at + 2 :]
        elif script is not None:
            called, rest = (words[script],), words[script + 1 :]
        elif words[0] == "lssvwm":
            assert words[1] in OURS, f"{page}: {shlex.join(words)}: no such command"
            command = OURS[words[1]]
            called, rest = ("-m", command.module, *command.before), words[2:]
        else:
            continue
        shown = help_of(*called)
        for word in rest:
            if word.startswith("--") and word != "--":
                name = word.split("=")[0]
                assert re.search(rf"(?<![\w-]){name}(?![\w-])", shown), f"{page}: {shlex.join(words)}: no option {name}"


@pytest.mark.parametrize("page", list(TEXT))
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\((?!https?:|#)([^)\s#]+)[^)]*\)", TEXT[page]):
        assert ((ROOT / page).parent / link).exists(), f"{page}: {link}"


@pytest.mark.parametrize("page", list(TEXT))
def test_files_named_exist(page: str) -> None:
    ours = r"`((?:worldmodel|envs|agents|tests|benchmarks|docs|examples)/[\w/.]*|train_\w+\.py)`"
    for name in re.findall(ours, TEXT[page]):
        assert (ROOT / name).exists(), f"{page}: {name}"


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`make ([a-z-]+)", "".join(TEXT.values())))))
def test_make_targets_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_tour_of_the_code_names_what_is_there() -> None:
    """Every path of the page exists, and what is named behind a colon is defined in that file."""
    page = TEXT["docs/architecture.md"]
    found = re.findall(r"`((?:worldmodel|envs|agents|tests|examples)/[\w/]*(?:\.py)?)(?::(\w+))?`", page)
    assert len(found) > 40
    for path, name in found:
        assert (ROOT / path).exists(), path
        assert not name or re.search(rf"^(def|class) {name}\b", (ROOT / path).read_text(), re.MULTILINE), (path, name)
