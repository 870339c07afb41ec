"""Frames as something to look at: mp4 files, labelled panels side by side, strips of stills."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from lssvwm.worldmodel.common.atomic import replace
from lssvwm.worldmodel.common.errors import InputError, require

Pixels = npt.NDArray[np.uint8]

PANEL_HEIGHT, CELL_HEIGHT = 224, 96
GAP, MARGIN, BAR, FONT_SIZE = 8, 6, 26, 15
BACKGROUND, INK, FAINT = (23, 24, 28), (236, 237, 240), (138, 141, 150)
REAL = (245, 176, 65)
"""Border of frames that a model was shown."""
DIMMED = 0.35


@dataclass(frozen=True)
class Panel:
    """Frames under one label: uint8 (T, h, w, 3), T at least 1; anything else is an `InputError`."""

    label: str
    frames: Pixels

    def __post_init__(self) -> None:
        check_frames(self.frames, f"panel {self.label!r}")


def write_mp4(path: Path, frames: Pixels, fps: float) -> None:
    """Write `frames`, uint8 (T, h, w, 3), as an H.264 video that browsers play, `fps` frames per second.

    The codec stores color at half resolution, so odd sizes grow by one repeated pixel row or column. A file of that
    name is replaced at once, when the new one is complete.
    """
    av = require("av", "video", "mp4 videos")
    check_frames(frames, str(path))
    if not 0.1 <= fps <= 1000:
        raise InputError(f"{path}: {fps} frames per second is not a rate to look at, use 0.1 to 1000")
    height, width = frames.shape[1:3]
    padding = ((0, height % 2), (0, width % 2), (0, 0))

    def write(temporary: Path) -> None:
        with av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
            stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
            # Large flat areas with hard edges, as in drawings, and an error too small to see (17 and below).
            stream.options = {"crf": "14", "tune": "animation"}
            # Said in the file, because players guess the color matrix of a small video differently.
            for key in ("colorspace", "color_primaries", "color_trc"):
                setattr(stream.codec_context, key, 1)  # BT.709
            for image in frames:
                picture = av.VideoFrame.from_ndarray(np.pad(image, padding, mode="edge"), format="rgb24")
                container.mux(stream.encode(picture.reformat(format="yuv420p", dst_colorspace="ITU709")))
            container.mux(stream.encode())

    replace(Path(path), write)


def montage(panels: Sequence[Panel]) -> Pixels:
    """Panels side by side, each under its label and enlarged to about 224 pixels of height: uint8 (T, H, W, 3).

    T is that of the longest panel; the others hold their last frame, dimmed and labelled "ended". One frame takes
    about 0.2 MB per panel. No panels are an `InputError`.
    """
    if not panels:
        raise InputError("a montage needs at least one panel")
    length = max(len(panel.frames) for panel in panels)
    large = [enlarge(panel.frames, PANEL_HEIGHT) for panel in panels]
    height = max(frames.shape[1] for frames in large)
    columns = []
    for panel, frames in zip(panels, large, strict=True):
        captions = [panel.label, f"{panel.label} (ended)"][: 1 + (len(frames) < length)]
        width = max(frames.shape[2], *(text_width(caption) for caption in captions))
        column = blank(length, height + BAR, width)
        paste(column[: len(frames), BAR:], frames)
        paste(column[len(frames) :, BAR:], (frames[-1:] * DIMMED).astype(np.uint8))
        column[: len(frames), :BAR] = bar(captions[0], width, INK)
        column[len(frames) :, :BAR] = bar(captions[-1], width, FAINT)
        columns += [column, blank(length, height + BAR, GAP)]
    framed = np.concatenate(columns[:-1], axis=2)
    picture = blank(length, framed.shape[1] + 2 * MARGIN, framed.shape[2] + 2 * MARGIN)
    paste(picture, framed)
    return picture


def filmstrip(rows: Sequence[Panel], every: int) -> Pixels:
    """A still of one row per panel with its frames 0, `every`, 2 * `every`, ...: uint8 (H, W, 3).

    Labels stand at the left, frame numbers above; a row that ends early stays empty from there. No rows, or `every`
    below 1, are an `InputError`.
    """
    if not rows or every < 1:
        raise InputError(f"a filmstrip needs rows ({len(rows)} given) and a step of at least 1 frame ({every} given)")
    strips = [enlarge(row.frames[::every], CELL_HEIGHT) for row in rows]
    columns = max(len(strip) for strip in strips)
    times = [f"t = {column * every}" if column == 0 else str(column * every) for column in range(columns)]
    cell_width = max(*(strip.shape[2] for strip in strips), *(text_width(text) for text in times)) + MARGIN
    left = max(text_width(row.label) for row in rows) + 3 * MARGIN
    picture: Pixels = blank(1, BAR + sum(s.shape[1] + MARGIN for s in strips), left + columns * cell_width)[0]
    for column, text in enumerate(times):
        picture[:BAR, left + column * cell_width :][:, : cell_width - MARGIN] = bar(text, cell_width - MARGIN, FAINT)
    top = BAR
    for row, strip in zip(rows, strips, strict=True):
        height = strip.shape[1]
        middle = top + (height - BAR) // 2
        picture[middle : middle + BAR, :left] = bar(row.label, left, INK)
        for column, frame in enumerate(strip):
            area = picture[top : top + height, left + column * cell_width :][:, : cell_width - MARGIN]
            paste(area[None], frame[None])
        top += height + MARGIN
    return picture


def encode_png(image: Pixels) -> bytes:
    """An image, uint8 (H, W, 3), as the bytes of a PNG file."""
    check_frames(image[None], "an image")
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def encode_gif(frames: Pixels, fps: float = 5.0) -> bytes:
    """Frames, uint8 (T, h, w, 3), as the bytes of a GIF file that is played again and again."""
    check_frames(frames, "a moving image")
    buffer = io.BytesIO()
    first, *rest = (Image.fromarray(frame) for frame in frames)
    first.save(buffer, format="GIF", save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)
    return buffer.getvalue()


def write_png(path: Path, image: Pixels) -> None:
    """Write an image, uint8 (H, W, 3), as a PNG file, at once."""
    data = encode_png(image)
    replace(path, lambda temporary: temporary.write_bytes(data))


def marked(frames: Pixels, count: int) -> Pixels:
    """Frames with a border of one pixel, uint8 (T, h + 2, w + 2, 3): in color around the first `count`, which are real.

    Around the others it is the background, so the size stays the same.
    """
    colors = np.where(np.arange(len(frames))[:, None] < count, np.array(REAL), np.array(BACKGROUND)).astype(np.uint8)
    bordered = np.empty((len(frames), frames.shape[1] + 2, frames.shape[2] + 2, 3), np.uint8)
    bordered[:] = colors[:, None, None]
    bordered[:, 1:-1, 1:-1] = frames
    return bordered


def check_frames(frames: Pixels, what: str) -> None:
    """Raise an `InputError` unless `frames` is uint8 (T, h, w, 3) with nothing empty."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise InputError(
            f"{what} has {frames.dtype} frames of shape {frames.shape}, want uint8 (T, h, w, 3), T at least 1"
        )


def enlarge(frames: Pixels, height: int) -> Pixels:
    """Frames enlarged to about `height` by a whole factor, so that every pixel stays a square of the same size."""
    factor = max(1, round(height / frames.shape[1]))
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def blank(length: int, height: int, width: int) -> Pixels:
    """Frames of nothing but background: uint8 (length, height, width, 3)."""
    return np.full((length, height, width, 3), BACKGROUND, dtype=np.uint8)


def paste(target: Pixels, frames: Pixels) -> None:
    """Put `frames` into the middle of `target`, which is at least as large; one frame serves for all of them."""
    top, left = (target.shape[1] - frames.shape[1]) // 2, (target.shape[2] - frames.shape[2]) // 2
    target[:, top : top + frames.shape[1], left : left + frames.shape[2]] = frames


def text_width(text: str) -> int:
    """Pixels that `bar` needs for `text`."""
    return int(np.ceil(ImageFont.load_default(FONT_SIZE).getlength(text))) + 2


def bar(text: str, width: int, color: tuple[int, int, int]) -> Pixels:
    """A line of text in the middle of a bar of the background: uint8 (BAR, width, 3)."""
    image = Image.new("RGB", (width, BAR), BACKGROUND)
    draw = ImageDraw.Draw(image)
    draw.text((width / 2, BAR / 2), text, font=ImageFont.load_default(FONT_SIZE), fill=color, anchor="mm")
    return np.asarray(image)
