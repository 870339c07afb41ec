from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from lssvwm.agents.report import (
    Clip,
    Curve,
    Evaluated,
    Panel,
    Report,
    encode_png,
    filmstrip,
    montage,
    plot_curves,
    plot_returns,
    read_curves,
    write_mp4,
    write_report,
)
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.reporting.statistics import within
from lssvwm.worldmodel.reporting.video import BACKGROUND, BAR, MARGIN

Pixels = npt.NDArray[np.uint8]
RETURNS = [0.0, 0.5, 1.0, 0.9]


def moving_square(length: int, size: int = 56, color: tuple[int, int, int] = (220, 40, 30)) -> Pixels:
    frames = np.full((length, size, size, 3), (40, 60, 90), np.uint8)
    for t in range(length):
        frames[t, 8:24, 2 * t : 2 * t + 16] = color
    return frames


def decode(path: Path) -> tuple[Pixels, float]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [f.reformat(format="rgb24", src_colorspace="ITU709").to_ndarray() for f in container.decode(stream)]
        return np.stack(frames), float(stream.average_rate)


def off_background(image: Pixels) -> npt.NDArray[np.bool_]:
    return (image != np.array(BACKGROUND, np.uint8)).any(axis=-1)


# Videos


def test_mp4_shows_the_frames_that_were_written(tmp_path: Path) -> None:
    frames = montage([Panel("real", moving_square(12))])
    write_mp4(tmp_path / "clip.mp4", frames, 7.5)
    seen, fps = decode(tmp_path / "clip.mp4")
    assert seen.shape == frames.shape
    assert fps == pytest.approx(7.5)
    error = np.abs(seen.astype(int) - frames.astype(int))
    assert error.mean() < 1.1
    flat = seen[5, BAR + MARGIN + 150, 60]
    assert np.abs(flat.astype(int) - (40, 60, 90)).max() <= 4
    # The square moves: every frame is nearest to the one that was written in its place.
    distance = np.abs(seen[:, None].astype(int) - frames[None].astype(int)).mean(axis=(2, 3, 4))
    assert np.array_equal(distance.argmin(axis=1), np.arange(12))


def test_mp4_pads_odd_sizes_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    frames = moving_square(3, 57)[:, :, :55]
    write_mp4(tmp_path / "odd.mp4", frames, 10)
    seen, _ = decode(tmp_path / "odd.mp4")
    assert seen.shape == (3, 58, 56, 3)
    assert np.abs(seen[:, :57, :55].astype(int) - frames.astype(int)).mean() < 3
    assert [p.name for p in tmp_path.iterdir()] == ["odd.mp4"]


def test_montage_enlarges_by_whole_pixels_and_holds_what_ended() -> None:
    long, short = moving_square(6), moving_square(4, 64, (30, 200, 60))
    picture = montage([Panel("real", long), Panel("dream", short)])
    assert picture.shape == (6, BAR + 256 + 2 * MARGIN, 224 + 256 + 8 + 2 * MARGIN, 3)
    top, left = MARGIN + BAR + 16, MARGIN  # the smaller panel stands in the middle of its column
    assert np.array_equal(picture[:, top : top + 224, left : left + 224][:, ::4, ::4], long)
    right = picture[:, MARGIN + BAR : MARGIN + BAR + 256, -MARGIN - 256 : -MARGIN][:, ::4, ::4]
    assert np.array_equal(right[:4], short)
    assert np.array_equal(right[4], right[5])
    assert np.array_equal(right[5], (short[3] * 0.35).astype(np.uint8))


def test_montage_labels_every_panel_and_marks_the_ended_one() -> None:
    picture = montage([Panel("real", moving_square(6)), Panel("dream", moving_square(4))])
    bars = picture[:, MARGIN : MARGIN + BAR]
    half = bars.shape[2] // 2
    left, right = bars[:, :, :half], bars[:, :, half:]
    assert off_background(left[0]).sum() > 50
    assert (left == left[0]).all()
    assert not np.array_equal(left[0], right[0])
    assert np.array_equal(right[0], right[3])
    assert np.array_equal(right[4], right[5])
    assert off_background(right[4]).sum() > 1.5 * off_background(right[3]).sum()


def test_a_long_label_widens_its_panel() -> None:
    label = "the dream of an agent that was shown only the first eight frames"
    picture = montage([Panel(label, moving_square(2))])
    written = np.flatnonzero(off_background(picture[0, MARGIN : MARGIN + BAR]).any(axis=0))
    assert picture.shape[2] > 300
    assert written[0] >= MARGIN
    assert written[-1] < picture.shape[2] - MARGIN


def test_filmstrip_shows_every_nth_frame() -> None:
    real, dream = moving_square(10), moving_square(5, color=(30, 200, 60))
    strip = filmstrip([Panel("real", real), Panel("dream", dream)], every=3)
    cell = 112 + MARGIN
    left = strip.shape[1] - 4 * cell
    for row, frames in enumerate((real, dream)):
        for column in range(4):
            top = BAR + row * (112 + MARGIN)
            area = strip[top : top + 112, left + column * cell :][:, :112]
            if 3 * column < len(frames):
                assert np.array_equal(area[::2, ::2], frames[3 * column])
            else:
                assert not off_background(area).any()
    assert off_background(strip[BAR:, :left]).sum() > 50
    assert all(off_background(strip[:BAR, left + c * cell :][:, :112]).any() for c in range(4))


def test_png_is_the_image() -> None:
    image = filmstrip([Panel("real", moving_square(4))], every=2)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(image)))), image)


def test_bad_frames_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"panel 'dream' has float32 frames of shape \(2, 8, 8, 3\), want uint8"):
        Panel("dream", np.zeros((2, 8, 8, 3), np.float32))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="T at least 1"):
        Panel("dream", np.zeros((0, 8, 8, 3), np.uint8))
    with pytest.raises(InputError, match=r"clip\.mp4 has uint8 frames of shape \(8, 8, 3\)"):
        write_mp4(tmp_path / "clip.mp4", np.zeros((8, 8, 3), np.uint8), 10)
    with pytest.raises(InputError, match="0 frames per second"):
        write_mp4(tmp_path / "clip.mp4", moving_square(2), 0)
    with pytest.raises(InputError, match="at least one panel"):
        montage([])
    with pytest.raises(InputError, match="at least 1 frame"):
        filmstrip([Panel("real", moving_square(2))], every=0)


# Curves


def log(folder: Path, tag: str, points: Mapping[int, float], wall_time: float | None = None) -> None:
    with SummaryWriter(folder) as writer:
        for step, value in points.items():
            writer.add_scalar(tag, value, step, walltime=wall_time)


def test_curves_of_a_resumed_run_are_one_curve(tmp_path: Path) -> None:
    log(tmp_path, "world_model/loss", {0: 5, 20: 4, 40: 3, 60: 2, 80: 9})
    log(tmp_path, "policy/entropy", {10: 1})
    time.sleep(0.01)
    log(tmp_path, "world_model/loss", {60: 2.5, 80: 1.5, 100: 1})
    assert len(list(tmp_path.iterdir())) == 3
    curves = read_curves(tmp_path)
    assert list(curves) == ["policy/entropy", "world_model/loss"]
    assert curves["world_model/loss"] == Curve((0, 20, 40, 60, 80, 100), (5, 4, 3, 2.5, 1.5, 1))
    assert curves["policy/entropy"] == Curve((10,), (1,))


def test_later_counts_whatever_the_order_of_the_files(tmp_path: Path) -> None:
    log(tmp_path, "a", {1: 10.0, 2: 20.0}, wall_time=2000.0)
    log(tmp_path, "a", {0: 0.0, 1: 11.0}, wall_time=1000.0)
    assert read_curves(tmp_path)["a"] == Curve((0, 1, 2), (0.0, 10.0, 20.0))


def test_curves_keep_every_point_and_survive_a_killed_writer(tmp_path: Path) -> None:
    log(tmp_path, "a", {step: step / 2 for step in range(15_000)})
    (killed,) = tmp_path.iterdir()
    killed.write_bytes(killed.read_bytes()[:-7])
    log(tmp_path, "a", dict.fromkeys(range(14_990, 15_010), -1.0))
    curve = read_curves(tmp_path)["a"]
    assert curve.steps == tuple(range(15_010))
    assert curve.values[14_989] == 14_989 / 2
    assert set(curve.values[14_990:]) == {-1.0}


def test_what_a_resumed_writer_takes_back_is_gone(tmp_path: Path) -> None:
    log(tmp_path, "a", {0: 5, 20: 4, 40: 3})
    time.sleep(1.1)  # TensorBoard reads files by their names: by the second, and then 10 before 9
    with SummaryWriter(tmp_path, purge_step=20) as writer:
        writer.add_scalar("a", 4.5, 20)
    assert read_curves(tmp_path)["a"] == Curve((0, 20), (5, 4.5))


def test_no_scalars_no_curves_no_folder_an_error(tmp_path: Path) -> None:
    assert read_curves(tmp_path) == {}
    with pytest.raises(InputError, match="absent is no folder"):
        read_curves(tmp_path / "absent")


# Plots


def texts(svg: bytes) -> str:
    return " ".join(ElementTree.fromstring(svg).itertext())


def line_points(svg: bytes, color: str) -> list[list[tuple[float, float]]]:
    """The points of every line of one color."""
    lines = []
    for path in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}path"):
        if f"stroke: {color}" in path.get("style", "") and "fill: none" in path.get("style", ""):
            pairs = re.findall(r"[ML] (\S+) (\S+)", path.get("d", ""))
            lines.append([(float(x), float(y)) for x, y in pairs])
    return lines


def test_a_curve_is_drawn_where_its_values_are() -> None:
    svg = plot_curves({"loss": Curve((0, 10, 20, 30), (4.0, 2.0, 1.0, 3.0))}, "loss of $x$ & <y>")
    (points,) = line_points(svg, "#3b82f6")
    x, y = np.array(points).T
    assert np.allclose(np.diff(x), np.diff(x)[0], rtol=1e-3)
    assert np.corrcoef(y, [4, 2, 1, 3])[0, 1] == pytest.approx(-1, abs=1e-4)  # SVG counts downwards
    assert "loss of $x$ & <y>" in texts(svg)
    assert b"#010203" not in svg
    assert b"currentColor" in svg


def test_several_curves_have_a_legend_and_long_ones_a_bounded_size() -> None:
    steps = tuple(range(50_000))
    rising = Curve(steps, tuple(step / 50_000 + (step / 50_000) ** 2 + (0.5 if step % 2 else -0.5) for step in steps))
    svg = plot_curves({"first": rising, "second": Curve((), ())}, "both")
    assert len(svg) < 100_000
    assert "first" in texts(svg)
    assert "second" in texts(svg)
    (points,) = [line for line in line_points(svg, "#3b82f6") if len(line) > 5]
    # Means over neighbours: the noise is gone, the trend is not. The drawing repeats the last point.
    assert (np.diff([y for _, y in points[:-1]]) < 0).all()


def test_plots_are_the_same_bytes_for_the_same_input() -> None:
    curve = {"loss": Curve((0, 1), (1.0, 0.5))}
    assert plot_curves(curve, "loss") == plot_curves(curve, "loss")


def test_returns_show_every_episode_and_the_interval() -> None:
    interval = within([RETURNS])
    svg = plot_returns([("random", within([[0.0] * 7]), [0.0] * 7), ("trained", interval, RETURNS)])
    assert "random" in texts(svg)
    assert f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]" in texts(svg)
    uses = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}use")
    dots = [(use.get("x"), use.get("y")) for use in uses if "#3b82f6" in use.get("style", "")]
    assert len(dots) == len(set(dots)) == 11


# The page


class Page(HTMLParser):
    """Checks that elements are closed in order; keeps tags with attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def example(folder: Path) -> Report:
    frames = montage([Panel("real", moving_square(6)), Panel("dream", moving_square(6))])
    write_mp4(folder / "clip.mp4", frames, 8)
    interval = within([RETURNS])
    return Report(
        title="A <title> & more",
        command="python train_agent.py --env 'Tiny<World>-v0'",
        summary=[("Real return", "0.60")],
        evaluations=[
            Evaluated("random <policy>", [0.0, 0.0], [10, 20], None, within([[0.0, 0.0]])),
            Evaluated("trained", RETURNS, [5, 6, 7, 8], [False, True, True, True], interval, "imagined & <only>"),
        ],
        curves={
            "extra": Curve((0, 1), (1.0, 2.0)),
            "policy/imagined_return": Curve((0, 1), (1.0, 2.0)),
            "world_model/loss": Curve((0, 1), (2.0, 1.0)),
        },
        clips=[Clip("Side <by> side", "the same actions", folder / "clip.mp4", encode_png(frames[0]))],
        results={"real": {"trained": interval.to_dict()}, "seeds": (0, 1), "versions": {"torch<": "2.13.0"}},
    )


def test_page_holds_everything_and_needs_nothing(tmp_path: Path) -> None:
    report = example(tmp_path)
    path = write_report(tmp_path / "report", report)
    assert path == tmp_path / "report" / "index.html"
    assert sorted(p.name for p in path.parent.iterdir()) == ["index.html", "results.json"]
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    words = re.sub(r"\s+", " ", page.text)
    for shown in (
        report.title,
        report.command,
        "random <policy>",
        "imagined & <only>",
        "Side <by> side",
        "the same actions",
        "torch<",
        "75.0%",
        "6.5",
    ):
        assert shown in words
    assert "<title> &" not in html
    assert "<only>" not in html
    assert words.index("World model") < words.index("Policy", words.index("World model")) < words.index("Other")
    assert len(page.all("svg")) == 1 + 3
    assert not page.all("script")
    assert not page.all("link")
    (video,) = page.all("video")
    assert {"controls", "loop", "muted", "playsinline"} <= video.keys()
    kind, _, data = str(video["src"]).partition(",")
    assert kind == "data:video/mp4;base64"
    assert base64.b64decode(data) == (tmp_path / "clip.mp4").read_bytes()
    assert str(video["poster"]).startswith("data:image/png;base64,")
    outside = [a[key] for _, a in page.tags for key in ("src", "href", "poster") if key in a]
    assert all(str(address).startswith(("data:", "#")) for address in outside)


def test_results_are_written_as_they_are(tmp_path: Path) -> None:
    report = example(tmp_path)
    write_report(tmp_path, report)
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results == {**report.results, "seeds": [0, 1]}


def test_an_empty_report_is_a_page(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path, Report("Nothing yet", "none", [], [], {}, [], {})).read_text(encoding="utf-8"))
    assert "Nothing yet" in page.text
    assert not page.all("svg")
    assert not page.all("video")
    assert not page.all("table")


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({"real": {"trained": [0.5, float("nan")]}}, r"results\['real'\]\['trained'\]\[1\] is nan"),
        ({"loss": float("inf")}, r"results\['loss'\] is inf"),
        ({"loss": np.float32(1)}, r"results\['loss'\] is a float32"),
        ({"rounds": {1: 2}}, r"results\['rounds'\] has the key 1, which is no string"),
    ],
)
def test_results_that_json_cannot_hold_are_named(tmp_path: Path, results: dict[str, Any], message: str) -> None:
    report = Report("Title", "command", [], [], {}, [], {"fine": 1})
    write_report(tmp_path, report)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(InputError, match=message):
        write_report(tmp_path, replace(report, results=results))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_missing_video_is_named(tmp_path: Path) -> None:
    report = Report("Title", "command", [], [], {}, [Clip("Dream", "", tmp_path / "absent.mp4")], {})
    with pytest.raises(InputError, match=r"absent\.mp4 of clip 'Dream' does not exist"):
        write_report(tmp_path, report)


def test_evaluations_have_one_entry_per_episode() -> None:
    interval = within([RETURNS])
    for lengths, successes in (([1], None), ([1] * 4, [True])):
        with pytest.raises(InputError, match="'trained' needs one entry per episode"):
            Evaluated("trained", RETURNS, lengths, successes, interval)


@pytest.mark.parametrize(
    ("missing", "call"),
    [
        ("av", "report.write_mp4(path, np.zeros((1, 8, 8, 3), np.uint8), 8)"),
        ("matplotlib", "report.plot_curves({'a': report.Curve((0,), (1.0,))}, 'a')"),
    ],
)
def test_missing_extra_says_what_to_install(missing: str, call: str, tmp_path: Path) -> None:
    code = (
        f"import sys; sys.modules['{missing}'] = None\nimport numpy as np\nfrom pathlib import Path\n"
        f"from lssvwm.agents import report\npath = Path('clip.mp4').absolute()\n{call}"
    )
    env_path = str(Path(__file__).parent.parent)
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {env_path!r})\n{code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    last = result.stderr.strip().splitlines()[-1]
    assert "MissingExtraError" in last
    assert f"the package '{missing}', which is not installed: pip install 'lssvwm[video]'" in last
    assert not list(tmp_path.iterdir())
