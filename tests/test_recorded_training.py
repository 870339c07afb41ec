"""From published files to a world model: convert a folder, then train on what came out, without an environment."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import recordings
import train_wm
from lssvwm.envs.recorded.__main__ import main
from lssvwm.worldmodel.checkpoint import load_checkpoint
from lssvwm.worldmodel.common.command_line import run_main
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import NO_ACTION, Episode, EpisodeStore
from lssvwm.worldmodel.model import WorldModel
from recordings import frames_of, places

MODEL = (
    *("--preset", "tiny", "--no-progress", "--model.patch", "4", "--model.dim", "32", "--model.layers", "1"),
    *("--model.features", "16", "--model.state-size", "4", "--model.head-dim", "32", "--training.fit-frames", "32"),
    *("--training.batch", "2", "--training.length", "8", "--world-steps", "3", "--heads.steps", "3"),
    *("--heads.calibration", "2"),
)


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def learned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *command: object) -> WorldModel:
    """Convert `tmp_path / "from"` and train a model on it, both by their commands."""
    store, run = tmp_path / "store", tmp_path / "run"
    arguments = [*map(str, command), str(tmp_path / "from"), "--to", str(store), "--size", "48", "--no-progress"]
    monkeypatch.setattr(sys, "argv", ["lssvwm.envs.recorded", *arguments])
    assert main() == 0
    monkeypatch.setattr(sys, "argv", ["train_wm.py", "--episodes", str(store), "--out", str(run), *MODEL])
    run_main(train_wm.main, train_wm.INTERRUPTED)
    return load_checkpoint(run / "world_model").model


def test_free_form_video_trains_a_model_without_actions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for i in range(3):
        recordings.write_video(tmp_path / "from" / f"{i}.mp4", frames_of(places(), 48, 48))
    model = learned(monkeypatch, tmp_path, "videos")
    assert (model.config.num_actions, model.config.action_size) == (0, 0)
    frames = torch.from_numpy(frames_of(places(), 48, 48))[None]
    with torch.no_grad():
        features, memory = model.observe(frames, torch.full(frames.shape[:2], NO_ACTION))
        dream = model.imagine(torch.tensor([NO_ACTION]), memory, steps=2, generator=torch.Generator().manual_seed(0))
    assert features.features.isfinite().all()
    assert dream.frame.shape == (1, 48, 48, 3)


def test_played_recordings_train_a_model_with_their_actions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for i in range(3):
        recordings.minerl(tmp_path / "from" / f"v3_{i}")
    assert learned(monkeypatch, tmp_path, "minerl", "--actions", "vpt").config.num_actions > 2


def test_vectors_of_buttons_train_a_model_with_continuous_actions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recordings.vpt(tmp_path / "from" / "a.mp4")
    model = learned(monkeypatch, tmp_path, "vpt")
    assert (model.config.num_actions, model.config.action_size) == (0, 25)


def test_a_video_of_which_some_actions_are_known_is_refused(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path, create=True)
    frames = frames_of(places(), 8, 8)
    zeros = np.zeros(len(frames), np.float32)
    last = np.arange(len(frames)) == len(frames) - 1

    def episode(action: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Episode:
        return Episode(frames, action, zeros, last & False, last)

    unknown = np.full(len(frames), NO_ACTION, np.int64)
    store.append(episode(unknown))
    assert store.max_action == NO_ACTION
    assert (store.sample(4, 6, np.random.default_rng(0)).actions[..., 1:] <= 0).all()
    some = unknown.copy()
    some[5] = 1
    with pytest.raises(InputError, match="-1 throughout in a video of which no action is known"):
        store.append(episode(some))
    known = np.zeros(len(frames), np.int64)
    known[0] = NO_ACTION
    store.append(episode(known))
    assert store.max_action == 0
