"""Where runs are logged: TensorBoard's files and Weights & Biases offline, of which the files are read back."""

from __future__ import annotations

import io
import json
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image, ImageSequence
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train_agent
from lssvwm.agents.report.clips import TAG, dream_beside_truth
from lssvwm.agents.running.loop import Loop
from lssvwm.agents.running.trackers import Grouped, Log, to_wandb
from lssvwm.agents.running.tracking import Tracking
from lssvwm.worldmodel.checkpoint import load_checkpoint
from lssvwm.worldmodel.common.errors import InputError, MissingExtraError
from lssvwm.worldmodel.common.loggers import TensorBoardLogger
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.reporting.video import Pixels
from runs import TINY_LOOP
from test_algorithms import SMALL

BLOCK = 32_768
"""Of wandb's files, which are LevelDB's logs: records, each in fragments that do not cross blocks."""


def records(path: Path) -> Iterator[Any]:
    """What wandb has written to a file."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the whole of a record, or its last fragment
            yield Record.FromString(whole)
            whole = b""


def histories(path: Path) -> list[dict[str, Any]]:
    """The lines of a wandb run: values by name, those of a video by `NAME.KEY`, without what wandb adds."""
    lines = []
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            items = {".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            lines.append({key: value for key, value in items.items() if not key.startswith("_")})
    return lines


def bars(count: int) -> Pixels:
    """Frames of few colors, which a GIF keeps exactly."""
    frames = np.zeros((count, 8, 12, 3), np.uint8)
    for t in range(count):
        frames[t, :, t] = (250, 20 * t, 0)
    return frames


def frames_of(gif: bytes) -> Pixels:
    with Image.open(io.BytesIO(gif)) as image:
        return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])


def test_tensorboard_shows_curves_and_moving_images(tmp_path: Path) -> None:
    with closing(TensorBoardLogger(tmp_path, 0)) as logger:
        for step in (1, 2, 3):
            logger.add_scalar("a/loss", step / 2, step)
        logger.add_clip("a/dream", bars(4), 3)
    with closing(TensorBoardLogger(tmp_path, 1)) as logger:  # a process that was killed at step 1 goes on
        logger.add_scalar("a/loss", 7.0, 2)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("a/loss")] == [(1, 0.5), (2, 7.0)]
    with closing(TensorBoardLogger(tmp_path / "clip", 0)) as logger:
        logger.add_clip("a/dream", bars(4), 3)
    events = EventAccumulator(str(tmp_path / "clip"))
    events.Reload()
    (image,) = events.Images("a/dream")
    assert (image.step, image.width, image.height) == (3, 12, 8)
    assert np.array_equal(frames_of(image.encoded_image_string), bars(4))


def test_the_points_of_a_step_come_together_over_the_step_of_their_part() -> None:
    said: list[Any] = []
    run = SimpleNamespace(log=said.append, define_metric=lambda name, step_metric: said.append((name, step_metric)))
    logger = Grouped(to_wandb(SimpleNamespace(Video=lambda data, format: (format, data.read())), run, "policy"))
    for step in (20, 40):
        logger.add_scalar("dreamer/loss", step / 2, step)
        logger.add_scalar("dreamer/entropy", step / 4, step)
    logger.add_clip("clips/dream", bars(3), 40)
    logger.close()
    logger.close()
    video = said[-1].pop("clips/dream")
    assert video[0] == "gif"
    assert np.array_equal(frames_of(video[1]), bars(3))
    assert said == [
        ("dreamer/*", "steps/policy"),
        {"steps/policy": 20, "dreamer/loss": 10.0, "dreamer/entropy": 5.0},
        ("clips/*", "steps/policy"),
        {"steps/policy": 40, "dreamer/loss": 20.0, "dreamer/entropy": 10.0},
    ]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose world model was learned by two processes, the second going on, logged to both."""
    out = tmp_path_factory.mktemp("logged") / "run"
    settings = replace(SMALL, world_steps=20, log=("wandb", "tensorboard"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        loop = Loop(out, settings, progress=False)
        loop.collect(0, loop.first_collector())
        for round_ in (0, 1):
            loop = Loop(out, settings, progress=False)
            with loop.tracking.open():
                loop.learn_world(round_)
    return out


def test_a_run_that_goes_on_is_one_run_of_wandb(logged: Path) -> None:
    kept = json.loads((logged / "wandb.json").read_text())
    assert kept["project"] == "lssvwm"
    files = sorted((logged / "wandb").glob("offline-run-*/*.wandb"))
    assert [file.stem for file in files] == [f"run-{kept['id']}"] * 2
    for file in files:
        until = time.monotonic() + 60  # wandb's own process writes, on a busy machine after the run has been closed
        while not (found := [each.run for each in records(file) if each.WhichOneof("record_type") == "run"]):
            assert time.monotonic() < until, f"{file} says nothing of its run"
            time.sleep(0.5)
        (run,) = found
        config = {item.key: json.loads(item.value_json) for item in run.config.update}
        assert (run.run_id, run.display_name, config["model"]["dim"]) == (kept["id"], "run", 32)
    curves = EventAccumulator(str(logged / "tensorboard" / "world_model"))
    curves.Reload()
    for step, file, event in zip((20, 40), files, curves.Scalars("world_model/loss"), strict=True):
        (line,) = [line for line in histories(file) if "world_model/loss" in line]
        assert (line["steps/world_model"], event.step) == (step, step)
        assert line["world_model/loss"] == pytest.approx(event.value)


def test_the_dream_beside_what_was_goes_to_all(logged: Path) -> None:
    events = EventAccumulator(str(logged / "tensorboard" / "world_model"))
    events.Reload()
    image = events.Images(TAG)[-1]
    file = sorted((logged / "wandb").glob("offline-run-*/*.wandb"))[-1]
    (line,) = [line for line in histories(file) if f"{TAG}.path" in line]
    assert (image.step, line["steps/world_model"], line[f"{TAG}._type"]) == (40, 40, "video-file")
    assert (file.parent / "files" / line[f"{TAG}.path"]).read_bytes() == image.encoded_image_string
    model, store = load_checkpoint(logged / "world_model").model, EpisodeStore(logged / "episodes")
    clip = dream_beside_truth(model, store)
    assert clip is not None
    assert len(clip) == store.lengths.max()
    shown = frames_of(image.encoded_image_string)
    assert shown.shape == clip.shape
    assert np.abs(shown.astype(int) - clip).mean() < 4  # 256 colors
    left, right = (np.squeeze(part) for part in (clip[:, 32:-6, 6:230], clip[:, 32:-6, -230:-6]))
    same = [np.array_equal(*each) for each in zip(left, right, strict=True)]
    context = min(8, len(clip) // 2)
    assert same == [t < context for t in range(len(clip))]  # what was seen is shown as it was, then it dreams


def test_what_cannot_log_is_said_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        InputError, match=r"log='tensorbored': give one of .'tensorboard', 'wandb', 'trackio', 'mlflow'"
    ):
        replace(SMALL, log=("tensorbored",))
    errors = SimpleNamespace(Error=ZeroDivisionError)
    broken = SimpleNamespace(init=lambda **_: 1 / 0, Settings=dict, errors=errors)
    monkeypatch.setitem(sys.modules, "wandb", broken)  # type: ignore[arg-type]
    with (
        pytest.raises(InputError, match=r"--log wandb: division by zero; use `wandb login`, or set WANDB_MODE=offline"),
        Tracking(tmp_path / "run", ("wandb",), dict).open(),
    ):
        pass
    with pytest.raises(InputError, match="--log wandb"):
        train_agent.main([*TINY_LOOP, "--log", "wandb", "--out", str(tmp_path / "run")])
    assert not list((tmp_path / "run").iterdir())
    for name in get_args(Log)[1:]:
        monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]
        with pytest.raises(MissingExtraError, match=rf"--log {name}\) need .* pip install 'lssvwm\[{name}\]'"):
            Loop(tmp_path / "run", replace(SMALL, log=("tensorboard", name)), progress=False)
