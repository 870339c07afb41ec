"""Dreams that have read a whole past: the memory of real play, the same whatever was dreamt before, at every frame."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lssvwm.envs.dream.world
from dreams import ID, actions_of, dream_folder, exact, roll, vec
from lssvwm.envs import check_vector_env
from lssvwm.envs.checker import from_id
from lssvwm.envs.dream import DreamVectorEnv
from lssvwm.envs.dream.contexts import ContextKey, sample_context
from lssvwm.envs.dream.options import DreamOptions
from lssvwm.envs.dream.world import PrefixCache
from lssvwm.worldmodel.episodes import Clips, EpisodeStore
from worlds import assert_close, random_model, small_config, small_store

WHOLE: dict[str, Any] = {"context_length": "all", "terminate": "never", "autoreset_mode": "SameStep"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dream_folder(tmp_path_factory.mktemp("run"))


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lssvwm.envs.dream.world, "MIN_SEGMENT", 3)


def drawn(store: EpisodeStore, count: int, **options: Any) -> list[tuple[int, int]]:
    """Where each dream begins: the first and the last frame of its context, found by the frames themselves."""
    episodes = [store.read(name).image for name in store.names]
    found = []
    for number in range(count):
        clips = sample_context(store, DreamOptions(**options), ContextKey(7, number)).clips
        shown = clips.frames[0].numpy()
        places = [
            (first, first + len(shown) - 1)
            for images in episodes
            for first in range(len(images) - len(shown) + 1)
            if np.array_equal(images[first : first + len(shown)], shown)
        ]
        assert len(places) == 1
        found += places
    return found


@pytest.mark.parametrize("every", [3, 100])
def test_a_dream_has_the_memory_of_its_whole_past(folder: Path, every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lssvwm.envs.dream.world, "MIN_SEGMENT", every)
    loaded = exact(folder)
    env = DreamVectorEnv(4, checkpoint=loaded, max_episode_steps=1, context_info=True, **WHOLE)
    for turn in range(4):
        shown, info = env.reset(seed=3) if turn == 0 else env.reset()
        lengths = info["context_length"]
        for row, length in enumerate(lengths.tolist()):
            frames, actions = (
                torch.from_numpy(info[key][row : row + 1, -length:]) for key in ("context_frames", "context_actions")
            )
            assert int(actions[0, 0]) == -1  # read from the episode's first frame
            assert np.array_equal(frames[0, -1].numpy(), shown[row])
            assert not info["context_frames"][row, :-length].any()
            assert (info["context_actions"][row, :-length] == -1).all()
            seen, memory = loaded.model.observe(frames, actions)
            assert_close(env._dreams.memory.select(torch.tensor([row])), memory)
            torch.testing.assert_close(env._dreams.features[row], seen.features[0, -1].float())
        assert info["context_frames"].shape[1] == max(lengths)


def test_the_same_seed_is_the_same_dream_whatever_was_read_before(folder: Path) -> None:
    actions = actions_of(3, 6)
    fresh, used = (vec(folder, max_episode_steps=4, **WHOLE) for _ in range(2))
    for seed in (50, 60, 70):
        roll(used, seed, actions)
    again = used.clone(1)
    for one, two in zip(roll(fresh, 5, actions), roll(used, 5, actions), strict=True):
        assert np.array_equal(one, two)
    assert np.array_equal(roll(again, 5, actions)[0], roll(fresh, 5, actions)[0])
    assert again._world.prefixes is used._world.prefixes  # read once for all


def test_dreams_with_a_whole_past_begin_at_every_frame(tmp_path: Path) -> None:
    store = small_store(tmp_path)  # 6, 7, 8 and 9 frames
    counts = Counter(drawn(store, 1300, context_length="all"))
    assert set(counts) == {(0, last) for last in range(8)}
    # Frames 0 to 4 are in all four episodes, the last of each is no beginning: 26 in all.
    wanted = {last: 50 * sum(last < frames - 1 for frames in (6, 7, 8, 9)) for last in range(8)}
    assert all(abs(counts[0, last] - count) < 5 * count**0.5 for last, count in wanted.items())


def test_a_share_of_dreams_begins_with_an_episode(tmp_path: Path) -> None:
    store = small_store(tmp_path)
    assert set(drawn(store, 50, context_length="all", start="episode")) == {(0, 0)}
    assert set(drawn(store, 50, context_length=3, start="episode")) == {(0, 2)}
    assert {first for first, _ in drawn(store, 100, context_length=3)} > {0, 1, 2}
    firsts = drawn(store, 400, context_length=(1, 2), start=0.75)
    assert 0.75 < np.mean([first == 0 for first, _ in firsts]) < 0.9  # and some of the others by chance
    assert {last - first for first, last in firsts} == {0, 1}


def test_drawn_lengths_go_no_further_than_the_longest_episode(folder: Path, tmp_path: Path) -> None:
    lengths = {last - first + 1 for first, last in drawn(small_store(tmp_path), 300, context_length=(1, 50))}
    assert lengths == set(range(1, 9))
    env = vec(folder, 8, context_length=(1, 50), context_info=True)
    info = env.reset(seed=0)[1]
    assert len(set(info["context_length"].tolist())) > 2
    fixed = vec(folder, 2, context_info=True).reset(seed=0)[1]
    assert fixed["context_length"].tolist() == [3, 3]


def test_windows_of_several_lengths_are_observed_as_each_alone(folder: Path) -> None:
    loaded = exact(folder)
    env = DreamVectorEnv(6, checkpoint=loaded, context_length=(1, 4), context_info=True)
    _, info = env.reset(seed=1)
    for row, length in enumerate(info["context_length"].tolist()):
        frames, actions = (
            torch.from_numpy(info[key][row : row + 1, -length:]) for key in ("context_frames", "context_actions")
        )
        assert_close(env._dreams.memory.select(torch.tensor([row])), loaded.model.observe(frames, actions)[1])


def test_an_index_reads_every_segment_once_and_keeps_to_its_room(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(small_config(), 0)
    asked: list[int] = []
    observe = model.observe

    def noting(frames: Any, *rest: Any) -> Any:
        asked.append(frames.shape[1])
        return observe(frames, *rest)

    monkeypatch.setattr(model, "observe", noting)
    size = model.empty(1).nbytes
    lengths = np.array([40, 60])
    index = PrefixCache(model, lengths, room=10 * size)
    assert index.every == 10
    frames = torch.randint(255, (1, 60, 16, 8, 3), dtype=torch.uint8)
    flat = torch.zeros(1, 60)

    def read(count: int) -> list[int]:
        asked.clear()
        index.read("a", Clips(*(part[:, :count] for part in (frames, flat.long(), flat, flat.bool(), flat.bool()))))
        return list(asked)

    assert read(34) == [10, 10, 10, 4]
    assert read(35) == [5]
    assert read(10) == [10]  # for its last frame's features
    assert read(60) == [10, 10, 10]
    assert sum(memory.nbytes for memory in index.kept.values()) <= 10 * size
    assert PrefixCache(model, lengths).every == 3


def test_an_index_of_memories_that_grow_keeps_to_its_room_and_answers_the_same() -> None:
    model, frames = random_model(small_config(window=None), 0), torch.randint(255, (1, 60, 16, 8, 3), dtype=torch.uint8)
    flat, lengths = torch.zeros(1, 60), np.array([60, 60])
    room = 4 * model.observe(frames[:, :32], flat[:, :32].long())[1].nbytes
    index, unbounded = PrefixCache(model, lengths, room=room), PrefixCache(model, lengths)
    unbounded.every = index.every
    for count in (33, 60, 60, 20):
        for name in ("a", "b"):
            clips = Clips(*(p[:, :count] for p in (frames, flat.long(), flat, flat.bool(), flat.bool())))
            found, expected = (each.read(name, clips) for each in (index, unbounded))
            assert torch.equal(found.features, expected.features)
    held = sum(memory.nbytes for memory in index.kept.values())
    assert 0 < held <= room < sum(memory.nbytes for memory in unbounded.kept.values())


@pytest.mark.parametrize(
    "more", [{"context_length": "all", "start": 0.5, "context_info": True}, {"context_length": (1, 3)}]
)
def test_the_checker_passes(folder: Path, more: dict[str, Any]) -> None:
    given = {"checkpoint": str(folder / "model"), "context_length": (1, 3), "max_episode_steps": 4, "steps": 1, **more}
    make = functools.partial(from_id, ID, **given)
    check_vector_env(make, modes=["Disabled"], steps=10, snapshots=True, pickling=True, strict=True)  # type: ignore[list-item]


def test_lengths_of_contexts_survive_json() -> None:
    options = DreamOptions(context_length=[1, 50])  # type: ignore[arg-type]
    assert options == DreamOptions(context_length=(1, 50))
