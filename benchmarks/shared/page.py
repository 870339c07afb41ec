"""What benchmarks write into a page of the documentation: figures with intervals, sheets of frames, between markers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lssvwm.worldmodel.common.atomic import replace as write_atomically
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.reporting.statistics import mean_interval


def interval(by_seed: NDArray[np.float64], digits: int) -> str:
    """Mean ± half of the 95 % interval, Student's t over seeds."""
    found = mean_interval(by_seed)
    return f"{found.mean:.{digits}f} ± {found.high - found.mean:.{digits}f}"


def markers(name: str) -> tuple[str, str]:
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def fill(page: Path, name: str, lines: Sequence[str]) -> None:
    """Replace what lies between the markers of `name` in `page`. Raises InputError where it has none."""
    (begin, end), text = markers(name), page.read_text()
    if begin not in text or end not in text:
        raise InputError(f"{page} has no place for the tables of {name}: add the lines {begin} and {end}")
    before, rest = text.split(begin)
    made = "\n".join([before + begin, *lines, end + rest.split(end)[1]])
    write_atomically(page, lambda temporary: temporary.write_text(made))


def sheet(
    rows: Mapping[str, NDArray[np.uint8]], titles: Sequence[str], path: Path, *, side: int = 84, margin: int = 110
) -> None:
    """A picture of frames (n, h, w, 3) in rows, each with its name, under the title of each column."""
    head = 18
    picture = Image.new("RGB", (margin + side * len(titles), head + side * len(rows)), (23, 24, 28))
    pen = ImageDraw.Draw(picture)
    for column, title in enumerate(titles):
        pen.text((margin + column * side + 4, 3), title, fill=(200, 200, 205))
    for row, (name, frames) in enumerate(rows.items()):
        pen.text((6, head + row * side + side // 2 - 6), name, fill=(236, 237, 240))
        for column, frame in enumerate(frames):
            small = Image.fromarray(frame).resize((side - 4, side - 4), Image.Resampling.NEAREST)
            picture.paste(small, (margin + column * side + 2, head + row * side + 2))
    picture.save(path)
