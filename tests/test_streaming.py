"""Readers remember whole episodes, stand at all frames equally often, and go on exactly, in other worlds too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lssvwm.agents.dreamer.streaming
from exact_worlds import LongCueWorld
from lssvwm.agents.dreamer.dreamer import STATE, Dreamer, DreamerConfig
from lssvwm.agents.dreamer.streaming import StreamingContexts, WindowContexts
from lssvwm.worldmodel.episodes import Episode, EpisodeStore
from lssvwm.worldmodel.model import WorldModel
from test_dreamer import state_of
from worlds import assert_close, assert_same, random_model, small_config, small_store

ROWS = 5


@pytest.fixture(scope="module")
def model() -> WorldModel:
    return random_model(small_config(), 0)


@pytest.fixture
def store(tmp_path: Path) -> EpisodeStore:
    return small_store(tmp_path / "episodes")


def numbers(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def assert_remembers_all(model: WorldModel, store: EpisodeStore, subject: StreamingContexts, found: Any) -> None:
    """Memory, features, rewards and what follows, of every row, against its episode read at once."""
    past, memory = found
    assert subject.reading is not None
    for row, (name, position) in enumerate(zip(subject.reading.episodes, subject.reading.positions, strict=True)):
        episode = store.read(name)
        assert position < len(episode.image)
        frames, actions = torch.tensor(episode.image[:position]), torch.tensor(episode.action[:position])
        seen, whole = model.observe(frames[None], actions[None])
        assert_close(memory.select(torch.tensor([row])), whole)
        count = int(past.mask[row].sum())
        assert 1 <= count <= position
        assert past.mask[row, -count:].all()
        torch.testing.assert_close(
            past.features[row, -count:].double(), seen.features[0, -count:], rtol=1e-5, atol=1e-5
        )
        assert past.rewards[row, -count:].tolist() == episode.reward[position - count : position].tolist()
        assert float(past.beyond[row]) == episode.reward[position]
        assert bool(past.ended[row]) == episode.terminated[position]


@pytest.mark.parametrize("longest", [1, 3, 12])
@pytest.mark.parametrize("window", [2, None])
def test_every_row_remembers_its_whole_past(
    tmp_path: Path, longest: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lssvwm.agents.dreamer.streaming, "SEGMENT", 2)
    model, store = random_model(small_config(window=window), 0), small_store(tmp_path)
    subject, generator = StreamingContexts(store, ROWS, longest, 0.4), numbers()
    for _ in range(12):
        found = subject.next(model, generator)
        assert_remembers_all(model, store, subject, found)
        model.imagine(
            torch.zeros(ROWS, dtype=torch.int64), found.memory, steps=1, generator=torch.Generator(), in_place=True
        )


def blank(frames: int) -> Episode:
    last = np.arange(frames) == frames - 1
    return Episode(
        image=np.zeros((frames, 8, 8, 3), np.uint8),
        action=np.where(np.arange(frames) == 0, -1, 0),
        reward=np.zeros(frames, np.float32),
        terminated=last,
        truncated=np.zeros_like(last),
    )


def test_dreams_begin_at_all_frames_equally_often_and_beginners_with_the_first(tmp_path: Path) -> None:
    store, world = EpisodeStore(tmp_path, create=True), LongCueWorld(1)
    for frames in (2, 5, 30):
        store.append(blank(frames))
    subject, generator = StreamingContexts(store, 64, 7, 0.25), numbers()
    found: dict[tuple[str, int], int] = {}
    first: list[int] = []
    for batch in range(400):
        subject.next(world, generator)  # type: ignore[arg-type]
        assert subject.reading is not None
        stands = list(zip(subject.reading.episodes, subject.reading.positions.tolist(), strict=True))
        first += [position for _, position in stands[:16]]
        if batch % 8 == 0:  # neighbouring batches are not independent
            for each in stands[16:]:
                found[each] = found.get(each, 0) + 1
    counts = np.array(list(found.values()))
    assert len(counts) == 1 + 4 + 29  # the last frame of an episode is no beginning
    expected = counts.sum() / len(counts)
    assert ((counts - expected) ** 2 / expected).sum() < 70  # chi-square of 33 degrees: p = 2e-4
    assert set(first) == set(range(1, 8))
    assert np.mean(first) < 4


@pytest.mark.parametrize("kind", [StreamingContexts, WindowContexts])
def test_episodes_shorter_than_the_context_are_read_as_far_as_they_go(kind: Any, tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path, create=True)
    for frames in (2, 3):
        store.append(blank(frames))
    subject, generator = kind(store, 4, 16, 0.5), numbers()
    for _ in range(20):
        past, _ = subject.next(LongCueWorld(1), generator)
        assert past.mask[:, -1].all()
        assert past.mask.sum(1).max() <= 2


def test_no_more_frames_are_observed_than_windows_have(model: WorldModel, store: EpisodeStore) -> None:
    subject, generator = StreamingContexts(store, ROWS, 4, 0.4), numbers()
    subject.next(model, generator)
    for _ in range(10):
        past, _ = subject.next(model, generator)
        assert past.mask.sum() <= ROWS * past.mask.shape[1]
        assert past.mask.shape[1] <= 4


def test_memory_of_other_weights_is_made_again(model: WorldModel, store: EpisodeStore) -> None:
    subject, generator = StreamingContexts(store, ROWS, 3, 0.0), numbers()
    subject.enter(model)
    for _ in range(3):
        subject.next(model, generator)
    before = subject.reading
    assert before is not None
    subject.enter(random_model(small_config(), 0))  # the same weights
    assert subject.reading is before
    other = random_model(small_config(), 1)
    subject.enter(other)
    assert subject.reading is not None
    assert subject.reading.episodes == before.episodes
    assert_remembers_all(other, store, subject, subject.next(other, generator))


def test_an_interrupted_batch_is_read_again(model: WorldModel, store: EpisodeStore) -> None:
    subject = StreamingContexts(store, ROWS, 3, 0.4)
    subject.next(model, numbers())
    before = subject.reading

    def interrupted() -> None:
        with subject.rewinding():
            subject.next(model, numbers())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert subject.reading is before


def dreamer(model: WorldModel, store: EpisodeStore, out: Path, **changes: Any) -> Dreamer:
    settings: dict[str, Any] = {"rows": 4, "horizon": 2, "context": 3, "steps": 1, **changes}
    return Dreamer(model, store, DreamerConfig(**settings), out)


def test_goes_on_bit_for_bit_while_the_store_grows(model: WorldModel, store: EpisodeStore, tmp_path: Path) -> None:
    """The new episodes sort before the others, so that no index of an episode stays as it was."""
    model = model.float()

    def grow() -> None:
        for number, path in enumerate(sorted(store.root.iterdir())):
            (store.root / f"000{number}{path.suffix}").write_bytes(path.read_bytes())

    def run(out: Path, stopped: bool) -> Dreamer:
        subject = dreamer(model, EpisodeStore(store.root), out)
        subject.train(3, progress=False)
        if stopped:
            subject = dreamer(model, EpisodeStore(store.root), out)
        return subject

    whole, parts = run(tmp_path / "whole", False), run(tmp_path / "parts", True)
    grow()
    for each in (whole, parts):
        each.contexts.source.refresh()  # type: ignore[attr-defined]
        each.train(6, progress=False)
    for name, tensor in state_of(whole).items():
        assert torch.equal(state_of(parts)[name], tensor), name
    readings = [each.contexts.reading for each in (whole, parts)]  # type: ignore[union-attr]
    assert readings[0].episodes == readings[1].episodes  # type: ignore[union-attr]
    assert_same(readings[0].memory, readings[1].memory)  # type: ignore[union-attr]


def test_an_episode_that_is_gone_is_left(model: WorldModel, store: EpisodeStore) -> None:
    subject, generator = StreamingContexts(store, ROWS, 2, 0.0), numbers()
    subject.next(model, generator)
    kept = store.names[0]
    for name in store.names[1:]:
        (store.root / name).unlink()
    store.refresh()
    subject.enter(random_model(small_config(), 1))
    subject.next(model, generator)
    assert subject.reading is not None
    assert set(subject.reading.episodes) == {kept}


def test_memory_too_large_for_a_snapshot_is_made_again(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lssvwm.agents.dreamer.streaming, "LARGEST_SAVED", 1000)
    double = random_model(small_config(), 0)
    subject, generator = StreamingContexts(store, ROWS, 3, 0.4), numbers()
    subject.enter(double)
    subject.next(double, generator)
    state = subject.state_dict()
    assert state["memory"] is None
    again = StreamingContexts(store, ROWS, 3, 0.4)
    again.load_state_dict(state, double)
    assert_remembers_all(double, store, again, again.next(double, generator))


def test_a_world_model_that_learned_on_is_read_with_anew(
    model: WorldModel, store: EpisodeStore, tmp_path: Path
) -> None:
    """A run makes its dreamer anew after every training of the world model; weights are what decides."""
    first, other = random_model(small_config(), 0).float(), random_model(small_config(), 1).float()
    dreamer(first, store, tmp_path).train(2, progress=False)
    assert torch.load(tmp_path / STATE, weights_only=True)["contexts"]["memory"] is not None
    same, changed = dreamer(first, store, tmp_path), dreamer(other, store, tmp_path)
    assert same.contexts.reading.memory is not None  # type: ignore[union-attr]
    assert changed.contexts.reading.memory is None  # type: ignore[union-attr]
