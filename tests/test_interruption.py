"""Training that is stopped, at whatever point, goes on as if it had never stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lssvwm.worldmodel.common.stepping import HEARD
from lssvwm.worldmodel.episodes import Clips, EpisodeStore
from lssvwm.worldmodel.training import Trainer
from trainers import TRAINING, assert_same_state, everything, trainer
from worlds import small_store

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return small_store(tmp_path_factory.mktemp("episodes"))


@pytest.fixture(scope="module")
def six_steps(store: EpisodeStore, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    trained = trainer(store, tmp_path_factory.mktemp("whole"))
    trained.train(6, progress=False)
    return trained


def call(step: int) -> int:
    """The first one of a step: the tokenizer takes one before them, and each step one for every row."""
    return 2 + step * TRAINING.batch


class Disturbed:
    """The store, with something that happens once: in the `at`-th call, before or after it has drawn."""

    def __init__(self, store: EpisodeStore, at: int, happens: Callable[[], None], *, drawn: bool) -> None:
        self.store, self.left, self.happens, self.drawn = store, at, happens, drawn

    def sample(self, batch: int, length: int, generator: np.random.Generator) -> Clips:
        self.left -= 1
        if not self.left and not self.drawn:
            self.happens()
        clips = self.store.sample(batch, length, generator)
        if not self.left and self.drawn:
            self.happens()
        return clips


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_two_halves_are_the_whole(store: EpisodeStore, tmp_path: Path, six_steps: Trainer) -> None:
    """Bit for bit: weights, average, optimisers, generators. The second trainer starts from other weights."""
    trainer(store, tmp_path).train(3, progress=False)
    again = trainer(store, tmp_path, seed=1)
    assert again.step == 3
    again.train(6, progress=False)
    assert_same_state(again, six_steps)


def test_saving_in_between_changes_nothing(store: EpisodeStore, tmp_path: Path, six_steps: Trainer) -> None:
    eager = trainer(store, tmp_path, replace(TRAINING, save_seconds=0.0))
    eager.train(6, progress=False)
    assert_same_state(eager, six_steps)


def test_another_seed_is_another_training(store: EpisodeStore, tmp_path: Path, six_steps: Trainer) -> None:
    other = trainer(store, tmp_path, replace(TRAINING, seed=4))
    other.train(6, progress=False)
    assert not torch.equal(other.model.backbone.patch_in.weight, six_steps.model.backbone.patch_in.weight)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(
    ("at", "stands"), [(1, 0), (call(0), 1), (call(3) + 1, 4)], ids=["tokenizer", "first step", "fourth step"]
)
def test_a_signal_ends_after_the_step_it_came_in(
    store: EpisodeStore,
    tmp_path: Path,
    six_steps: Trainer,
    at: int,
    stands: int,
    number: int,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Both signals are answered at once, save, and are passed on as Ctrl-C is."""
    before = signal.signal(number, interrupt)  # as the scripts do, or else SIGTERM would end the tests
    try:
        source = Disturbed(store, at, lambda: signal.raise_signal(number), drawn=False)
        with pytest.raises(KeyboardInterrupt):
            trainer(source, tmp_path).train(6, progress=False)
        assert signal.getsignal(number) is interrupt
        assert capfd.readouterr().err.encode() == HEARD
    finally:
        signal.signal(number, before)
    again = trainer(store, tmp_path, seed=1)
    assert again.step == stands
    again.train(6, progress=False)
    assert_same_state(again, six_steps)


@pytest.mark.parametrize("drawn", [False, True], ids=["before drawing", "after drawing"])
@pytest.mark.parametrize("step", [0, 3], ids=["first step", "fourth step"])
def test_an_error_while_drawing_loses_nothing(
    store: EpisodeStore, tmp_path: Path, six_steps: Trainer, step: int, drawn: bool
) -> None:
    """The steps before it are saved, and the step can be done again: by another trainer or by the same one."""
    first = trainer(Disturbed(store, call(step) + 1, interrupt, drawn=drawn), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        first.train(6, progress=False)
    again = trainer(store, tmp_path, seed=1)
    assert again.step == step
    again.train(6, progress=False)
    assert_same_state(again, six_steps)
    first.train(6, progress=False)
    assert_same_state(first, six_steps)


@pytest.mark.parametrize("where", ["gradient", "muon", "adamw"])
def test_an_error_in_the_middle_of_a_step(
    store: EpisodeStore, tmp_path: Path, six_steps: Trainer, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No half step is saved, where one optimiser has moved and the other has not, or features were measured twice."""
    first = trainer(store, tmp_path)
    first.train(3, progress=False)
    if where == "gradient":
        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", interrupt)
    else:
        monkeypatch.setattr(first.optimizers[where == "adamw"], "step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        first.train(6, progress=False)
    monkeypatch.undo()
    again = trainer(store, tmp_path, seed=1)
    assert again.step == 3
    again.train(6, progress=False)
    assert_same_state(again, six_steps)


def test_workers_change_nothing(store: EpisodeStore, tmp_path: Path, six_steps: Trainer) -> None:
    """Neither do other numbers of them before and after a stop, nor what they had read ahead."""
    reader = replace(TRAINING, workers=2)
    first = trainer(store, tmp_path, reader)
    first.train(2, progress=False)
    first.train(4, progress=False)
    again = trainer(store, tmp_path, replace(TRAINING, workers=1), seed=1)
    assert again.step == 4
    again.train(5, progress=False)
    trainer(store, tmp_path).train(6, progress=False)
    assert_same_state(trainer(store, tmp_path), six_steps)


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_it_goes_on_as_if_it_had_not_been(
    store: EpisodeStore, tmp_path: Path, six_steps: Trainer, workers: int
) -> None:
    """By SIGKILL, in a process of its own: what was saved after a step is all that is left."""
    code = (
        "import os, signal, sys; from dataclasses import replace; from pathlib import Path; import torch;"
        "torch.set_num_threads(1); sys.path.insert(0, 'tests');"
        "from trainers import TRAINING, trainer; from lssvwm.worldmodel.episodes import EpisodeStore;"
        f"t = trainer(EpisodeStore({str(store.root)!r}), Path({str(tmp_path)!r}),"
        f" replace(TRAINING, workers={workers}, save_seconds=0.0));"
        "t.update_average = lambda do=t.update_average:"
        " os.kill(os.getpid(), signal.SIGKILL) if t.step == 4 else do();"
        "t.train(6, progress=False)"
    )
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = trainer(store, tmp_path, replace(TRAINING, workers=workers), seed=1)
    assert again.step == 3
    again.train(6, progress=False)
    assert_same_state(again, six_steps)


def test_a_stop_in_any_stage_of_a_curriculum(store: EpisodeStore, tmp_path: Path) -> None:
    """With a decay of the rate too: both follow from the step alone."""
    staged = replace(TRAINING, curriculum="4:2,6:2,8:1", decay=0.5, steps=7)
    whole = trainer(store, tmp_path / "whole", staged)
    whole.train(7, progress=False)
    assert [int(record["length"]) for record in whole.recent] == [4, 4, 6, 6, 8, 8, 8]
    for stop in range(1, 8):
        again = trainer(store, tmp_path / "parts", staged, seed=stop - 1)
        assert again.step == stop - 1
        again.train(stop, progress=False)
    assert_same_state(again, whole)


def test_training_up_to_where_it_stands_does_nothing(six_steps: Trainer) -> None:
    before = everything(six_steps)
    means = six_steps.train(4, progress=False)
    assert_same_state(six_steps, before)
    assert means == six_steps.train(6, progress=False)
