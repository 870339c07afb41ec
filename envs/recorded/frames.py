"""Frames of recordings: videos decoded one frame at a time, and frames made smaller."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worldmodel.errors import InputError, require

Frame = NDArray[np.uint8]
"""(h, w, 3), top row first, RGB."""


def decoded(path: Path, *, whole: bool = False) -> Iterator[Frame]:
    """The frames of the first video stream of `path`, each decoded when it is asked for.

    `whole` also raises where fewer frames come than the file announces. Some writers, MineRL's among them, announce a
    wrong number, so it is for files that nothing else tells the length of.

    Raises InputError for a file that is missing, that is no video, or that is cut off or damaged.
    """
    av = require("av", "video", "recorded videos")
    count = 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"{path} holds no video stream: it is no recording")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            announced = stream.frames
            for picture in container.decode(stream):
                if picture.is_corrupt:  # the decoder would paint over what is missing
                    raise InputError(f"{path}: frame {count} is damaged: copy the file again from where it came")
                yield picture.to_ndarray(format="rgb24")
                count += 1
    except (av.FFmpegError, FileNotFoundError) as error:
        raise InputError(f"{path} cannot be decoded after {count} frames ({error}): copy it again") from error
    if whole and count < announced:
        raise InputError(f"{path} is cut off: it announces {announced} frames and holds {count}: copy it again")


def shrunk(frame: Frame, size: int, source: str) -> Frame:
    """`frame` (h, w, 3) as (size, size, 3), every pixel the mean over its area, as environments are shrunk here.

    Raises InputError, naming `source`, for a frame with a side below `size`: it would show what was not recorded.
    """
    height, width = frame.shape[:2]
    if (height, width) == (size, size):
        return frame
    if min(height, width) < size:
        raise InputError(f"{source} has frames of {height} x {width}, smaller than {size}: use a smaller --size")
    return np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BOX))
