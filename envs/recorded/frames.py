"""Frames of recordings: videos decoded one frame at a time, and frames made smaller."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lssvwm.envs.recorded.interface import Fit
from lssvwm.worldmodel.common.errors import InputError, one_line, require

Frame = NDArray[np.uint8]
"""(h, w, 3), top row first, RGB."""


def decoded(path: Path, *, whole: bool = False, fps: float | None = None, begin: float = 0.0) -> Iterator[Frame]:
    """The frames of the first video stream of `path`, each decoded when it is asked for, upright as players show them.

    `whole` also raises where fewer frames come than the file announces. Some writers, MineRL's among them, announce a
    wrong number, so it is for files that nothing else tells the length of. `fps` keeps so many frames of each second,
    by the times that the file gives them. Frames before the time `begin`, in seconds, are left out.

    Raises InputError for a file that is missing, that is no video, that is cut off or damaged, whose frames change
    their size in mid-stream, or that has fewer frames per second than `fps`.
    """
    av = require("av", "video", "recorded videos")
    count = kept = 0
    size, first = None, 0.0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"{path} holds no video stream: it is no recording")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            announced, rate = stream.frames, float(stream.average_rate or 0)
            if fps is not None and fps > 1.001 * rate:
                raise InputError(f"{path} has {rate:.4g} frames per second, less than --fps {fps:g}: use a smaller one")
            if begin:
                container.seek(int(begin / stream.time_base), stream=stream)
            for picture in container.decode(stream):
                if begin and picture.time is not None and rate and picture.time < begin - 0.5 / rate:
                    continue
                if picture.is_corrupt:  # the decoder would paint over what is missing
                    raise InputError(f"{path}: frame {count} is damaged: copy the file again from where it came")
                size = size or (picture.height, picture.width)
                if (picture.height, picture.width) != size:
                    raise InputError(
                        f"{path} changes from {size[0]} x {size[1]} to {picture.height} x {picture.width} at frame "
                        f"{count}: split it there"
                    )
                seconds = count / rate if picture.time is None and rate else picture.time or 0.0
                first = seconds if count == 0 else first
                count += 1
                if fps is not None:
                    if (seconds - first) * fps < kept - 1e-3:
                        continue
                    kept = int((seconds - first) * fps + 1e-3) + 1
                yield np.rot90(picture.to_ndarray(format="rgb24"), round(picture.rotation / 90))
    except (av.FFmpegError, FileNotFoundError) as error:
        raise InputError(f"{path} cannot be decoded after {count} frames ({error}): copy it again") from error
    if whole and count < announced:
        raise InputError(f"{path} is cut off: it announces {announced} frames and holds {count}: copy it again")


def picture(data: Any, source: str) -> Frame:
    """The picture that the bytes of a PNG, JPEG or the like show. Raises InputError, naming `source`, where none."""
    try:
        with Image.open(io.BytesIO(data)) as shown:
            shown.verify()  # the checksums of PNG, over which decoding passes
        with Image.open(io.BytesIO(data)) as shown:
            return np.asarray(shown.convert("RGB"))
    except (TypeError, ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        said = one_line(error, 100)
        raise InputError(f"{source} is no picture ({said}): copy or download the data set again") from error


def rate_of(path: Path) -> float | None:
    """Frames per second that the first video stream of `path` tells of; None where it tells of none.

    Raises InputError for a file that is no video.
    """
    av = require("av", "video", "recorded videos")
    try:
        with av.open(str(path)) as container:
            rates = [stream.average_rate for stream in container.streams.video]
    except (av.FFmpegError, FileNotFoundError) as error:
        raise InputError(f"{path} cannot be decoded after 0 frames ({error}): copy it again") from error
    return float(rates[0]) if rates and rates[0] else None


def shrunk(frame: Frame, size: int, source: str, fit: Fit = "squeeze") -> Frame:
    """`frame` (h, w, 3) as (size, size, 3), every pixel the mean over its area, as environments are shrunk here.

    It is squeezed, or before that cropped to the square in its middle. Raises InputError, naming `source`, for a frame
    with a side below `size`: it would show what was not recorded.
    """
    height, width = frame.shape[:2]
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        frame, height, width = frame[top : top + side, left : left + side], side, side
    if (height, width) == (size, size):
        return frame
    if min(height, width) < size:
        raise InputError(f"{source} has frames of {height} x {width}, smaller than {size}: use a smaller --size")
    return np.asarray(Image.fromarray(np.ascontiguousarray(frame)).resize((size, size), Image.Resampling.BOX))
