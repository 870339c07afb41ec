"""The script for a GPU: whatever becomes of a stage, the others run and nothing found is lost; its rehearsal."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import waiting
from benchmarks.gpu.__main__ import grouped, pick
from benchmarks.gpu.running import Outcome, run_together
from benchmarks.gpu.sheet import Setting, Sheet
from benchmarks.gpu.stages import Stage, stages
from benchmarks.gpu.summary import summary
from benchmarks.gpu.wheels import slim

ROOT = Path(__file__).parent.parent
TOLD = {"device": "cpu", "rehearse": True, "out": "."}


def stage(name: str, **given: int) -> Stage:
    return Stage(name, f"gpu_stages:{name}", f"what {name} does", 10, given=given)


def alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{number}/stat").read_text().split(") ")[1][0] != "Z"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """All of them side by side; what hangs has time to begin."""
    asked = [(stage(name), 60.0) for name in ("wrong", "breaks", "cannot")]
    asked += [(stage("hangs"), 12.0), (stage("good", number=2), 60.0)]
    found = run_together(asked, 3, tmp_path_factory.mktemp("shared"), TOLD)
    return {outcome.stage.name: outcome for outcome in found}


def test_what_becomes_of_stages(outcomes: dict[str, Outcome]) -> None:
    status = {name: outcome.status for name, outcome in outcomes.items()}
    assert status == {
        "good": "done",
        "wrong": "failed: 2 of its checks",
        "breaks": "broke off (exit status 3), see the log",
        "hangs": "cut off after 12 s",
        "cannot": "not run: needs something else",
    }


def test_nothing_found_is_lost_and_nothing_goes_on(outcomes: dict[str, Outcome]) -> None:
    assert [finding["what"] for finding in outcomes["breaks"].findings] == ["before"]
    assert outcomes["wrong"].failed == ["not a number", "too little"]
    child = int(outcomes["hangs"].findings[0]["value"])
    for _ in range(50):
        if not alive(child):
            break
        time.sleep(0.1)
    assert not alive(child)


def test_the_summary_shows_stages_checks_and_what_is_to_come(outcomes: dict[str, Outcome]) -> None:
    page = summary(list(outcomes.values()), ["later"], "Heading")
    assert "| wrong | what wrong does | failed: 2 of its checks |" in page
    assert "| 1 of 3 |" in page
    assert "| later | | not yet | | |" in page
    assert "| not a number | nan  | <= 1 | **does not hold** |" in page
    assert "| another | not run: needs CUDA  |  |  |" in page


def test_stages_are_picked_by_name_or_group() -> None:
    known = stages(rehearse=False)
    assert len({each.name for each in known}) == len(known)
    assert "retrieval" not in [each.name for each in pick(known, None)]
    assert [each.name for each in pick(known, ["retrieval", "promises"])] == ["segments", "rows", "tests", "retrieval"]
    assert [len(group) for group in grouped(pick(known, ["environment", "kernels", "rows"]))] == [1, 6, 1]
    with pytest.raises(SystemExit, match="no stage unknown"):
        pick(known, ["unknown"])


def test_a_step_waits_at_places_with_a_name_alone(tmp_path: Path) -> None:
    """On a CPU, by the operations that would wait; the figures that are expected of a dream step."""
    sheet = Sheet(tmp_path / "sheet.json")
    waiting.look(Setting("cpu", True, 100.0, tmp_path, tmp_path), sheet)
    assert [finding.ok for finding in sheet.findings if finding.ok is not None] == [True, True]
    found = {finding.what.split(" (")[0]: finding.value for finding in sheet.findings}
    assert found["dream step waits in worldmodel/layers/conditioning.py:check"] == 1
    assert found["dream step waits in envs/dream/validation.py:_numbers"] == 1
    assert not [what for what in found if what.startswith("dream") and "checks.py" in what]


def test_waits_are_seen() -> None:
    x, mask = torch.arange(3), torch.tensor([True, False, True])
    with waiting.waits("cpu") as found:
        int(x[0])
        x[mask]
        mask.nonzero()
        x.tolist()
        x.cumsum(0)
    assert found == {"elsewhere": 4}


def test_a_wheel_without_what_nothing_reads(tmp_path: Path) -> None:
    wheel = tmp_path / "some-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        for name in ("some/code.py", "some/mesh.stl"):
            file.writestr(name, "content")
        file.writestr("some-1.dist-info/RECORD", "some/code.py,,\nsome/mesh.stl,,\n")
    slim(wheel, re.compile(r"\.stl$"))
    with zipfile.ZipFile(wheel) as file:
        assert file.namelist() == ["some/code.py", "some-1.dist-info/RECORD"]
        assert file.read("some-1.dist-info/RECORD") == b"some/code.py,,\n"


def rehearse(out: Path, *only: str) -> dict[str, str]:
    """What becomes of the stages; everything is tiny."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--rehearse", "--out", str(out)]
    done = subprocess.run([*command, *only], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads((out / "results.json").read_text())["stages"]
    assert (out / "summary.md").read_text() in done.stdout
    return {name: each["status"] for name, each in told.items()}


def test_a_rehearsal_of_some_stages(tmp_path: Path) -> None:
    status = rehearse(tmp_path, "--only", "environment", "attention-bfloat16", "segments", "scans")
    assert status == dict.fromkeys(("environment", "attention-bfloat16", "segments", "scans"), "done")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_rehearsal(tmp_path: Path) -> None:
    """Every stage that runs unasked; what comes back is at most eight files in two folders."""
    status = rehearse(tmp_path, "--minutes", "28")
    assert set(status) == {each.name for each in stages(rehearse=True) if not each.extra}
    assert {name: each for name, each in status.items() if each != "done"} == {"tests": "not run: needs CUDA"}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) <= 8
    assert {path.relative_to(tmp_path).parent.name for path in files} == {"", "world_model", "episodes"}


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "no CUDA device here: add --rehearse" in done.stderr
