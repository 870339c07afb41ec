"""One dream as a plain environment: the checkers of others, keys to play it by, and every way of showing it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from dreams import ID, certain, dream_folder, vec
from lssvwm.envs.dream import DreamEnv
from lssvwm.envs.recording.video import RecordVideo, capped_cubic
from lssvwm.worldmodel.common.errors import InputError

KINDS: list[dict[str, Any]] = [
    {"observation": "features"},
    {"observation": "both", "context_info": True, "uncertainty": "draws"},
    {"channels_first": True, "uncertainty": "heads", "truncate_above": 100.0, "prefetch": False},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dream_folder(tmp_path_factory.mktemp("run"))


@pytest.mark.filterwarnings("ignore:.*infinity.*")
@pytest.mark.parametrize("options", KINDS)
def test_gymnasium_finds_nothing_wrong(folder: Path, options: dict[str, Any]) -> None:
    env = gym.make(ID, checkpoint=str(folder / "model"), render_mode="rgb_array", **options)
    check_env(env.unwrapped)


@pytest.mark.filterwarnings("ignore:.*minimal resolution.*", "ignore:.*render_mode.*")
@pytest.mark.parametrize("options", KINDS)
def test_stable_baselines_finds_nothing_wrong(folder: Path, options: dict[str, Any]) -> None:
    from stable_baselines3.common.env_checker import check_env as check_for_stable_baselines

    check_for_stable_baselines(gym.make(ID, checkpoint=str(folder / "model"), **options).unwrapped)


@pytest.mark.parametrize("options", KINDS)
def test_it_says_what_row_zero_says(folder: Path, options: dict[str, Any]) -> None:
    env = DreamEnv(checkpoint=folder / "model", context_length=3, terminate="never", **options)
    row = vec(folder, 1, terminate="never", **options)
    one, (many, many_info) = env.reset(seed=2), row.reset(seed=2)
    pairs = [(one, (many, many_info))]
    for action in (0, 2, 1):
        seen, reward, terminated, truncated, info = env.step(action)
        many, rewards, _, _, many_info = row.step([action])
        assert (reward, terminated, truncated) == (rewards[0], False, False)
        assert type(reward) is float
        assert type(terminated) is type(truncated) is bool
        pairs.append(((seen, info), (many, many_info)))
    for (seen, info), (many, many_info) in pairs:
        assert seen in env.observation_space
        for part, values in seen.items() if isinstance(seen, dict) else [(None, seen)]:
            assert np.array_equal(values, many[0] if part is None else many[part][0])
        assert set(info) == {key for key in many_info if not key.startswith("_")}
        for key, value in info.items():
            assert np.array_equal(value, many_info[key][0])


def test_leaving_the_known_world_truncates(folder: Path) -> None:
    checkpoint = certain(folder, -30.0)
    env = DreamEnv(checkpoint=checkpoint, context_length=3, uncertainty="draws", truncate_above=0.0)
    env.reset(seed=0)
    assert env.step(0)[2:4] == (False, True)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)


def test_episodes_differ_and_follow_from_the_seed(folder: Path) -> None:
    env = gym.make(ID, checkpoint=str(folder / "model"), context_length=3)
    first = [env.reset(seed=1)[0], *(env.reset()[0] for _ in range(5))]
    again = [env.reset(seed=1)[0], *(env.reset()[0] for _ in range(5))]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({frame.tobytes() for frame in first}) > 3


def test_it_can_be_played(folder: Path) -> None:
    """With keys that nobody told: 2 is action 2; until a key is down, action 0."""
    pygame = pytest.importorskip("pygame")
    from gymnasium.utils.play import play

    env = gym.make(ID, checkpoint=str(folder / "model"), context_length=3, render_mode="rgb_array", terminate="never")
    assert env.get_wrapper_attr("get_keys_to_action")() == {(ord("0"),): 0, (ord("1"),): 1, (ord("2"),): 2}
    taken: list[int] = []

    def watch(before: Any, after: Any, action: int, *rest: Any) -> None:
        taken.append(action)
        event = {1: pygame.KEYDOWN, 3: pygame.QUIT}.get(len(taken))
        if event is not None:
            pygame.event.post(pygame.event.Event(event, key=ord("2")))

    play(env, callback=watch, fps=1000, seed=3)
    assert taken == [0, 2, 2]


def test_its_episodes_can_be_filmed(folder: Path, tmp_path: Path) -> None:
    made = gym.make(ID, checkpoint=str(folder / "model"), render_mode="rgb_array", terminate="never")
    env = RecordVideo(made, tmp_path, lambda episode: episode != 1, fps=5)
    shown = []
    for steps in (3, 2, 1):
        env.reset(seed=steps)
        shown.append(made.render())
        for _ in range(steps):
            env.step(1)
    env.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rl-video-episode-0.mp4", "rl-video-episode-2.mp4"]
    for episode, frames in ((0, 4), (2, 2)):
        with av.open(str(tmp_path / f"rl-video-episode-{episode}.mp4")) as video:
            film = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
            assert video.streams.video[0].average_rate == 5
        assert len(film) == frames
        assert np.abs(film[0][: len(shown[episode])].astype(int) - shown[episode]).mean() < 20  # a lossy codec
    assert [n for n in range(3000) if capped_cubic(n)] == [0, 1, 8, 27, 64, 125, 216, 343, 512, 729, 1000, 2000]


def test_what_cannot_be_filmed_is_refused(folder: Path, tmp_path: Path) -> None:
    silent = gym.make(ID, checkpoint=str(folder / "model"))
    with pytest.raises(InputError, match="render_mode='rgb_array'"):
        RecordVideo(silent, tmp_path)


def test_closing_twice_is_fine(folder: Path) -> None:
    env = gym.make(ID, checkpoint=str(folder / "model"))
    env.reset()
    env.close()
    env.close()
