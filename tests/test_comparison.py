"""The page that the paper's comparison makes of its runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.comparison import curve
from benchmarks.comparison.report import BEGIN, END, interval, write_report

HORIZON = 15
LEVEL = {"lssvwm": 30.0, "mamba2": 20.0}


def runs(out: Path, seeds: int) -> None:
    """PSNR falls by 1 dB after step 8, and seeds lie 1 dB apart."""
    for name, level in LEVEL.items():
        for seed in range(seeds):
            folder = out / "runs" / f"{name}-{seed}"
            folder.mkdir(parents=True)
            psnr = [level + seed - (step > 8) for step in range(1, HORIZON + 1)]
            curve = {"psnr": psnr, "ssim": [0.5 + 0.1 * seed] * HORIZON}
            figures = {"parameters": 1_234_000, "steps": 700, "cpu_seconds": 99.6, "config": {"layers": 4}}
            (folder / "figures.json").write_text(json.dumps({**figures, "retrieval": curve, "reasoning": curve}))
            frames = np.full((2, HORIZON, 8, 8, 3), 10 * seed, np.uint8)
            np.savez(folder / "retrieval.npz", truth=frames + 100, imagined=frames)


def test_page(tmp_path: Path) -> None:
    runs(tmp_path, seeds=3)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_report(tmp_path, list(LEVEL), 3, page, context=16, window=7)
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "old" not in lines
    assert "| mamba2 | 4 | 700 | 100 |" in lines
    # Three seeds, 1 apart: deviation 1, half interval 4.303 / sqrt(3).
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| mamba2 | 2")]
    assert len(rows) == 2
    assert rows[0] == [
        "mamba2",
        "21.0 ± 2.5",
        "21.0 ± 2.5",
        "20.0 ± 2.5",
        "20.5 ± 2.5",
        "0.600 ± 0.248",
        "10.0 ± 0.0 dB",
    ]
    assert {path.name for path in tmp_path.glob("*.png")} == {"page-curves.png", "page-frames.png"}


@pytest.mark.parametrize(("values", "text"), [([1.0, 3.0], "2.0 ± 12.7"), ([2.0], "2.0 ± nan")])
def test_interval_by_hand(values: list[float], text: str) -> None:
    assert interval(np.array(values), 1) == text


def test_curve_by_hand(tmp_path: Path) -> None:
    minutes = [3.0, 10.0]
    for name, level in LEVEL.items():
        for budget in minutes:
            for seed in range(2):
                folder = tmp_path / curve.runs_of(budget) / f"{name}-{seed}"
                folder.mkdir(parents=True)
                psnr = [level + budget + 2 * seed - 5 * (step > 8) for step in range(1, HORIZON + 1)]
                found = {"steps": int(100 * budget), "cpu_seconds": 66 * budget, "retrieval": {"psnr": psnr}}
                (folder / "figures.json").write_text(json.dumps(found))
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- comparison-curve: begin -->\nold\n<!-- comparison-curve: end -->\nafter\n")
    curve.write_section(tmp_path, list(LEVEL), minutes, 2, page, tmp_path / "curve.png")
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "old" not in lines
    # Two seeds, 2 apart: half interval 12.7.
    cells = ["24.0 ± 12.7", "31.0 ± 12.7", "19.0 ± 12.7", "26.0 ± 12.7", "300, 1000", "3.3, 11.0"]
    assert f"| mamba2 | {' | '.join(cells)} |" in lines
    assert "--variants lssvwm mamba2 --minutes 3 10 --seeds 2" in page.read_text()
    assert (tmp_path / "curve.png").stat().st_size > 5000


def test_what_is_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(curve, "spawn", lambda *job: asked.append(job))
    done = tmp_path / curve.runs_of(3) / "lssvwm-0"
    done.mkdir(parents=True)
    (done / "figures.json").write_text("{}")
    for seed in (0, 1):
        curve.start(tmp_path, "lssvwm", 3.0, seed, 100)
    assert [job[-4:] for job in asked] == [("lssvwm", "3.0", "1", "100")]
