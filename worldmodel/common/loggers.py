"""Where curves and videos of a training go: what a logger is, and TensorBoard's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from torch.utils.tensorboard import SummaryWriter

from lssvwm.worldmodel.reporting.video import Pixels, encode_gif


class Scalars(Protocol):
    """Takes the points of curves; torch's `SummaryWriter` does, too."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """One point of the curve `tag`."""
        ...


class Logger(Scalars, Protocol):
    """Takes what one part of a run has to show."""

    def add_clip(self, tag: str, frames: Pixels, step: int) -> None:
        """A video, uint8 (T, h, w, 3), of the training as it was at `step`."""
        ...

    def close(self) -> None:
        """All of it has been said."""
        ...


class TensorBoardLogger:
    """Event files in `folder`, going on after `step`: what a process that was killed logged later is gone."""

    def __init__(self, folder: Path, step: int) -> None:
        self.writer = SummaryWriter(str(folder), purge_step=step + 1, flush_secs=1)

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """One point of a curve."""
        self.writer.add_scalar(tag, scalar_value, global_step)

    def add_clip(self, tag: str, frames: Pixels, step: int) -> None:
        """A moving image; torch's `add_video` writes the same, but wants a package that makes it."""
        image = Summary.Image(
            height=frames.shape[1], width=frames.shape[2], colorspace=3, encoded_image_string=encode_gif(frames)
        )
        events: Any = self.writer.file_writer
        events.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)

    def close(self) -> None:
        """Write everything to the file."""
        self.writer.close()
