"""Rows that read on through whole episodes: what comes after what, how often, and whatever process reads it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lssvwm.worldmodel.episodes import Clips, EpisodeStore
from lssvwm.worldmodel.episodes.data import led_here
from lssvwm.worldmodel.episodes.loader import ClipLoader, Place, StepClips, StreamClips
from test_episodes import episode, store_of
from test_loader import assert_same_clips

LENGTHS = [9, 20, 14, 33]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return store_of(tmp_path_factory.mktemp("episodes"), LENGTHS)


def stream(source: Any, carry: float, batch: int = 4, rows: range | None = None, length: int = 5) -> StreamClips:
    """Clips of 5 and 6 frames by turns."""
    rows = range(batch) if rows is None else rows
    return StreamClips(source, 1, batch, rows, lambda step: length + step % 2, carry)


def read(clips: StreamClips, step: int) -> Clips:
    found = clips[step]
    assert isinstance(found, Clips)
    return found


def test_a_row_reads_episodes_from_end_to_end(store: EpisodeStore) -> None:
    """Frame after frame with actions, rewards and ends, through clips of changing length, and then the next one."""
    clips, row = stream(store, 1.0, batch=2), 1
    begun: list[Place] = []
    reached = 0
    for step in range(60):
        window, found = clips.windows(step)[row], read(clips, step).rows(slice(row, row + 1))
        assert window.carried == (bool(begun) and window.place.frame > 0)
        if window.carried:
            assert window.place == Place(begun[-1].episode, reached)
            assert bool(led_here(found.actions)[0, 0]), "the action that led to a clip's first frame is known"
        else:
            begun.append(window.place)
        source = store.read(window.place.episode)
        count, part = int(found.mask.sum()), slice(window.place.frame, window.place.frame + 5 + step % 2)
        assert count == len(source.image[part])
        assert np.array_equal(found.frames[0, :count].numpy(), source.image[part])
        assert np.array_equal(found.actions[0, :count].numpy(), source.action[part])
        assert np.array_equal(found.rewards[0, :count].numpy(), source.reward[part])
        assert np.array_equal(found.terminated[0, :count].numpy(), source.terminated[part])
        reached = part.stop
    assert len(begun) > 8
    assert {place.frame for place in begun[1:]} == {0}
    assert {place.episode for place in begun} == set(store.names)


def test_where_rows_read_does_not_depend_on_who_reads_them(store: EpisodeStore) -> None:
    whole, first, rest = (stream(store, 0.8, rows=rows) for rows in (range(4), range(1), range(1, 4)))
    for step in range(12):
        assert_same_clips(Clips.cat([read(first, step), read(rest, step)]), read(whole, step))
        assert first.places(step) == rest.places(step) == whole.places(step)
    late = stream(store, 0.8)
    assert_same_clips(read(late, 11), read(whole, 11))
    with pytest.raises(ValueError, match="step 3 lies before 11"):
        whole.places(3)


def test_it_goes_on_from_where_rows_stood(store: EpisodeStore) -> None:
    whole, again = stream(store, 0.8), stream(store, 0.8)
    again.resume(7, whole.places(7))
    for step in range(7, 20):
        assert_same_clips(read(again, step), read(whole, step))
    with pytest.raises(ValueError, match="3 places for 4 rows"):
        again.resume(7, whole.places(19)[:3])


def test_workers_read_the_same(store: EpisodeStore) -> None:
    """On, and anew; the process that trains follows without reading."""
    plain, ahead = stream(store, 0.8), ClipLoader(stream(store, 0.8), 2, pin=False)
    for step in (0, 1, 2, 3, 7, 8):
        assert_same_clips(ahead.clips(step), read(plain, step))
        assert isinstance(ahead.dataset, StreamClips)
        assert ahead.dataset.windows(step) == plain.windows(step)
    ahead.close()
    assert_same_clips(ahead.clips(9), read(plain, 9))
    ahead.close()


def test_share_of_rows_that_go_on(store: EpisodeStore) -> None:
    clips, before = stream(store, 0.75, batch=64), [False] * 64
    could, did = 0, 0
    for step in range(200):
        windows = clips.windows(step)
        did += sum(w.carried for w in windows)
        could += sum(before)
        places = clips.places(step + 1)
        before = [place is not None and place.frame < store.frames_of(place.episode) for place in places]
    assert could > 5000
    assert did / could == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / could) ** 0.5)


@pytest.mark.parametrize("carry", [0.5, 0.9, 1.0])
def test_every_frame_comes_up_as_often(store: EpisodeStore, carry: float) -> None:
    """Of short episodes and of long ones, early and late; but for the ends, which windows cut as `sample` does."""
    clips, seen = stream(store, carry, batch=256), Counter[tuple[str, int]]()
    for step in range(60):
        for window in clips.windows(step) if step >= 20 else ():
            seen.update((window.place.episode, window.place.frame + i) for i in range(5 + step % 2))
    rates = [[seen[name, t] for t in range(frames)] for name, frames in zip(store.names, store.lengths, strict=True)]
    mean = np.mean([rate for each in rates for rate in each])
    for each in rates:
        assert np.mean(each) == pytest.approx(mean, rel=0.12)
    longest = rates[int(store.lengths.argmax())]
    for third in np.array_split(longest, 3):
        assert np.mean(third) == pytest.approx(mean, rel=0.15)


def test_first_steps_are_anywhere(store: EpisodeStore) -> None:
    frames = [w.place.frame for w in stream(store, 1.0, batch=64).windows(0)]
    assert not any(w.carried for w in stream(store, 1.0, batch=64).windows(0))
    assert len(set(frames)) > 10


def test_whether_a_step_is_gone_on_from(store: EpisodeStore) -> None:
    """By a row of this process; asking moves nothing."""
    clips, one = stream(store, 0.5), stream(store, 0.5, rows=range(2, 3))
    told = []
    for step in range(40):
        told.append((clips.carries(step), one.carries(step)))
        assert clips._step == step
    for step, (any_row, third) in enumerate(told):
        following = stream(store, 0.5).windows(step + 1)
        assert any_row == any(w.carried for w in following)
        assert third == following[2].carried
    assert {third for _, third in told} == {False, True}


def test_a_store_that_grows_is_read_when_rows_begin_anew(tmp_path: Path) -> None:
    """They finish what they read; where that is gone, they begin anew."""
    store = store_of(tmp_path, [40, 40])
    clips = stream(store, 1.0, batch=8)
    before = clips.places(3)
    for _ in range(6):
        store.append(episode(40, 9))
    new = set(store.names) - {place.episode for place in before if place}
    windows = clips.windows(3)
    for place, window in zip(before, windows, strict=True):
        assert place is not None
        assert window.carried == (place.frame < 40)
        assert not window.carried or window.place == place
    assert {w.place.episode for step in range(4, 34) for w in clips.windows(step)} >= new
    gone = next(place.episode for place in clips.places(34) if place and place.frame < 40)
    (tmp_path / gone).unlink()
    store.refresh()
    for place, window in zip(clips.places(34), clips.windows(34), strict=True):
        assert place is not None
        assert window.place.episode != gone
        assert not (place.episode == gone and window.carried)


def test_none_carried_is_a_drawn_clip(store: EpisodeStore) -> None:
    """Those that begin anew are distributed as those that are drawn one by one."""
    anew, drawn = stream(store, 0.0, batch=512, length=8), StepClips(store, 2, range(512), lambda step: 8)
    plain = drawn[0]
    assert isinstance(plain, Clips)
    means = [torch.stack([c.mask.sum(1), led_here(c.actions)[:, 0]]).double().mean(1) for c in (read(anew, 0), plain)]
    assert means[0].tolist() == pytest.approx(means[1].tolist(), abs=0.25)


def test_bad_input_is_returned(tmp_path: Path) -> None:
    store = store_of(tmp_path, [9])
    (tmp_path / store.names[0]).write_bytes(b"gone")
    assert "is damaged" in str(stream(store, 0.5)[0])
