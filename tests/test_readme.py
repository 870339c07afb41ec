"""The Python in README runs as it stands there, and the files it names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runs import ROOT, TINY_WORLD, finish

README = (ROOT / "README.md").read_text()


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "runs" / "demo"
    finish("train_wm.py", *TINY_WORLD, "--out", str(out), "--world-steps", "3", "--collect-episodes", "12")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_what_it_names_is_there() -> None:
    links = re.findall(r"\]\((?!http)([^)]+)\)", README)
    named = re.findall(r"`((?:worldmodel|envs|agents|tests|benchmarks|docs)/[\w/.]*|train_\w+\.py)`", README)
    assert links
    assert named
    for name in [*links, *named]:
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\bmake ([a-z-]+)", README))))
def test_its_make_targets_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
