"""What both evaluations are written with: numbers, tables, sections of a page, plots, results as JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lssvwm.worldmodel.common.atomic import write_json
from lssvwm.worldmodel.reporting.page import Section, write_page
from lssvwm.worldmodel.reporting.plots import (
    COLORS,
    REFERENCE,
    Line,
    Plot,
    alone,
    constant,
    plotted,
    to_svg,
    write_plot,
)
from lssvwm.worldmodel.reporting.results import plain, versions
from lssvwm.worldmodel.reporting.statistics import Band
from lssvwm.worldmodel.reporting.tables import estimate, number, span, table


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.123"), (-9.9, "-9.900"), (26.41, "26.41"), (1234.56, "1,234.6"), (None, "–"), (math.nan, "–")],
)
def test_numbers_have_the_digits_that_matter(value: float | None, text: str) -> None:
    assert number(value) == text


def test_an_estimate_has_an_interval_where_there_is_one() -> None:
    assert estimate(1.0, 0.5, 12.0) == "1.000 [0.500, 12.00]"
    assert estimate(1.0, math.nan, math.nan) == estimate(1.0, None, None) == "1.000"
    assert estimate(None, None, None) == "–"
    assert span(None, 2) == "– to 2.000"


def test_a_table_lines_up_and_keeps_its_cells_apart() -> None:
    text = table([("model", "dB", "by"), ("a|b", "3", "x"), ("longer", "–", ""), ("c", "-12.5", "y")])
    assert text.splitlines() == [
        "| model  |    dB | by |",
        "| ------ | ----: | -- |",
        "| a\\|b   |     3 | x  |",
        "| longer |     – |    |",
        "| c      | -12.5 | y  |",
    ]


def test_a_page_says_what_was_run_and_leaves_out_what_is_not_there(tmp_path: Path) -> None:
    sections = [Section("One", "of two clips.", [("name", "b"), ("x", "1")], ("one.png",)), Section("Two", "alone.")]
    text = write_page(tmp_path, "Title", "python -m it", "", sections)
    assert (tmp_path / "report.md").read_text() == text
    assert text == (
        "# Title\n\n```\npython -m it\n```\n\n"
        "## One\n\nof two clips.\n\n| name |  b |\n| ---- | -: |\n| x    |  1 |\n\n"
        "![One](one.png)\n\n## Two\n\nalone.\n"
    )


def test_results_become_json(tmp_path: Path) -> None:
    found = {1: np.arange(2), "nan": np.float64("nan"), "path": tmp_path, "inner": ({"x": np.inf},)}
    write_json(tmp_path / "results.json", plain(found))
    kept = json.loads((tmp_path / "results.json").read_text())
    assert kept == {"1": [0, 1], "nan": None, "path": str(tmp_path), "inner": [{"x": None}]}
    told = versions("no-such-package")
    assert (list(told), told["no-such-package"]) == (
        ["python", "lssvwm", "torch", "numpy", "no-such-package"],
        "not installed",
    )


def test_a_line_has_one_color_in_all_plots_and_a_reference_none_of_its_own() -> None:
    x = [1.0, 2.0]
    band = Band(np.array([1.0, 2.0]), np.array([0.5, 1.5]), np.array([1.5, 2.5]), np.array([3, 3]))
    first = Plot([Line("a", x, band), constant("none", x, 0.0)], "frames", "dB")
    second = Plot([Line("b", x, alone(x)), Line("a", x, band, single=[(np.array(x), np.array(x))])], "frames", log=True)
    figure = plotted([first, second], "title")
    left, right = figure.axes
    drawn = [[(line.get_label(), line.get_color()) for line in axes.lines] for axes in (left, right)]
    assert drawn[0] == [("a", COLORS[0]), ("none", REFERENCE)]
    assert (drawn[1][0], drawn[1][2]) == (("b", COLORS[1]), ("a", COLORS[0]))
    assert drawn[1][1][1] == COLORS[0]
    assert [len(axes.collections) for axes in (left, right)] == [1, 1]  # what has an interval
    assert right.get_xscale() == "log"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "none", "b"]


def test_plots_are_written_for_pages_and_for_everything_else(tmp_path: Path) -> None:
    figure = plotted([Plot([Line("a", [0.0, 20_000.0], alone([0.0, 1.0]))], "steps")], "one", width=3)
    assert "one" in to_svg(figure).decode()
    write_plot(tmp_path / "a.svg", figure)
    write_plot(tmp_path / "a.png", figure)
    svg = (tmp_path / "a.svg").read_text()
    assert "20k" in svg
    assert "currentColor" in svg
    assert np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))[0, 0].tolist() == [255, 255, 255]


def test_of_many_lines_no_two_look_alike() -> None:
    lines = [Line(str(n), [0.0, 1.0], alone([0.0, float(n)])) for n in range(21)]
    drawn = plotted([Plot(lines, "x")]).axes[0].lines
    assert len({(each.get_color(), each.get_linestyle()) for each in drawn}) == 21
