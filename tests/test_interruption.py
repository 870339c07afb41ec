"""Training that is stopped, at whatever point, goes on as if it had never stopped."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trainers import TRAINING, assert_same_state, everything, trainer
from worlds import small_store

from worldmodel.episodes import Clips, EpisodeStore
from worldmodel.training import Trainer


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return small_store(tmp_path_factory.mktemp("episodes"))


@pytest.fixture(scope="module")
def six_steps(store: EpisodeStore, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    trained = trainer(store, tmp_path_factory.mktemp("whole"))
    trained.train(6, progress=False)
    return trained


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
@pytest.mark.parametrize("at", [1, 2, 5], ids=["tokenizer", "first step", "fourth step"])
def test_a_signal_ends_after_the_step_it_came_in(
    store: EpisodeStore, tmp_path: Path, six_steps: Trainer, at: int, number: int
) -> None:
    """Call 1 fits the tokenizer, call n draws for step n - 1. Both signals save and are passed on as Ctrl-C is."""
    before = signal.signal(number, interrupt)  # as the scripts do, or else SIGTERM would end the tests
    try:
        source = Disturbed(store, at, lambda: signal.raise_signal(number), drawn=False)
        with pytest.raises(KeyboardInterrupt):
            trainer(source, tmp_path).train(6, progress=False)
        assert signal.getsignal(number) is interrupt
    finally:
        signal.signal(number, before)
    again = trainer(store, tmp_path, seed=1)
    assert again.step == at - 1
    again.train(6, progress=False)
    assert_same_state(again, six_steps)


@pytest.mark.parametrize("drawn", [False, True], ids=["before drawing", "after drawing"])
@pytest.mark.parametrize("at", [2, 5], ids=["first step", "fourth step"])
def test_an_error_while_drawing_loses_nothing(
    store: EpisodeStore, tmp_path: Path, six_steps: Trainer, at: int, drawn: bool
) -> None:
    """The steps before it are saved, and the step can be done again: by another trainer or by the same one."""
    first = trainer(Disturbed(store, at, interrupt, drawn=drawn), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        first.train(6, progress=False)
    again = trainer(store, tmp_path, seed=1)
    assert again.step == at - 2
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


def test_training_up_to_where_it_stands_does_nothing(six_steps: Trainer) -> None:
    before = everything(six_steps)
    means = six_steps.train(4, progress=False)
    assert_same_state(six_steps, before)
    assert means == six_steps.train(6, progress=False)
