"""Dreams that begin where the caller says, beside the same frames observed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from dreams import ID, actions_of, dream_folder, exact, vec
from lssvwm.envs.dream import DreamVectorEnv
from lssvwm.worldmodel.common.errors import InputError
from worlds import assert_close

GIVEN: dict[str, Any] = {"max_episode_steps": 4, "terminate": "never"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dream_folder(tmp_path_factory.mktemp("run"))


def past(env: DreamVectorEnv, row: int, begin: int, end: int) -> tuple[Any, Any]:
    """Frames and actions `begin` to `end`, the last included, of an episode."""
    episode = env.store.read(env.store.names[row])
    return episode.image[begin : end + 1], episode.action[begin : end + 1]


@pytest.mark.parametrize("channels_first", [False, True])
def test_frames_handed_over_are_observed(folder: Path, channels_first: bool) -> None:
    """Of another length in each row, and one row draws its own."""
    loaded = exact(folder)
    env = DreamVectorEnv(3, checkpoint=loaded, context_length=3, channels_first=channels_first, **GIVEN)
    parts = [past(env, 0, 2, 7), None, past(env, 1, 0, 0)]
    shown = [None if part is None else part[0].transpose(0, 3, 1, 2) if channels_first else part[0] for part in parts]
    options = {"context_frames": shown, "context_actions": [None if part is None else part[1] for part in parts]}
    frames, _ = env.reset(seed=5, options=options)
    alone, _ = DreamVectorEnv(3, checkpoint=loaded, context_length=3, channels_first=channels_first, **GIVEN).reset(
        seed=5
    )
    assert np.array_equal(frames[1], alone[1])
    for row in (0, 2):
        assert np.array_equal(frames[row], shown[row][-1])
        image, action = parts[row]
        seen, memory = loaded.model.observe(torch.tensor(image)[None], torch.tensor(action)[None])
        assert_close(env._dreams.memory.select(torch.tensor([row])), memory)
        torch.testing.assert_close(env._dreams.features[row], seen.features[0, -1].float())


@pytest.mark.parametrize(("length", "begin"), [(3, 4), ((1, 5), 2), ("all", 0)])
def test_a_frame_of_an_episode(folder: Path, length: Any, begin: int) -> None:
    loaded = exact(folder)
    env = DreamVectorEnv(2, checkpoint=loaded, context_length=length, context_info=True, **GIVEN)
    name = env.store.names[1]
    frames, info = env.reset(seed=5, options={"episode": [name, None], "start": [6, None]})
    image, action = past(env, 1, begin, 6)
    assert np.array_equal(frames[0], image[-1])
    assert info["context_length"][0] == len(image)
    assert np.array_equal(info["context_frames"][0, -len(image) :], image)
    assert np.array_equal(info["context_actions"][0, -len(image) :], action)
    _, memory = loaded.model.observe(torch.tensor(image)[None], torch.tensor(action)[None])
    assert_close(env._dreams.memory.select(torch.tensor([0])), memory)
    frames, info = env.reset(options={"episode": [None, name], "start": [None, 0]})
    assert np.array_equal(frames[1], env.store.read(name).image[0])
    assert info["context_length"][1] == 1


def test_what_was_told_can_be_handed_over(folder: Path) -> None:
    """The same beginnings and seeds are the same dreams, and only for that reset."""
    first, second = (vec(folder, context_length=(1, 4), context_info=True, **GIVEN) for _ in range(2))
    frames, info = first.reset(seed=5)
    told = {key: info[key] for key in ("context_frames", "context_actions", "context_length")}
    second.reset(seed=9)
    again, info_again = second.reset(seed=5, options=told)
    assert np.array_equal(frames, again)
    assert np.array_equal(info["context_length"], info_again["context_length"])
    for action in actions_of(3, 6):  # over the horizon of 4
        one, other = first.step(action), second.step(action)
        assert np.array_equal(one[0], other[0])
        assert np.array_equal(one[1], other[1])


def test_only_the_rows_of_the_mask_begin(folder: Path) -> None:
    env = vec(folder, **GIVEN)
    before, _ = env.reset(seed=5)
    name = env.store.names[0]
    mask = np.array([False, True, False])
    frames, _ = env.reset(options={"reset_mask": mask, "episode": [name] * 3, "start": [4] * 3})
    assert np.array_equal(frames[[0, 2]], before[[0, 2]])
    assert np.array_equal(frames[1], env.store.read(name).image[4])


def test_a_single_dream(folder: Path) -> None:
    env = gym.make(ID, checkpoint=str(folder / "model"), context_length=3)
    store = env.unwrapped._row.store  # type: ignore[attr-defined]
    frame, _ = env.reset(seed=3, options={"episode": store.names[1], "start": 6})
    assert np.array_equal(frame, store.read(store.names[1]).image[6])
    episode = store.read(store.names[0])
    given = {"context_frames": episode.image[:5], "context_actions": torch.tensor(episode.action[:5])}
    frame, _ = env.reset(options=given)
    assert np.array_equal(frame, episode.image[4])
    with pytest.raises(InputError, match="has an unknown 'context_frame'"):
        env.reset(options={"context_frame": episode.image[:5]})


NAME = "an episode"
IMAGE = np.zeros((4, 16, 8, 3), np.uint8)
BAD: dict[str, dict[str, Any]] = {
    "unknown 'frames'": {"frames": IMAGE},
    "'context_frames' in reset.options=.... needs 2 entries": {"context_frames": [IMAGE], "context_actions": [[0] * 4]},
    "half a context of row 0": {"context_frames": [IMAGE, None]},
    "half a context of row 1": {"episode": [None, NAME]},
    "given twice": {
        "context_frames": [IMAGE, None],
        "context_actions": [[0] * 4, None],
        "episode": [NAME, None],
        "start": [0, None],
    },
    "'context_length' goes with 'context_frames'": {"context_length": [1, 1]},
    r"must be uint8 \(C, 16, 8, 3\).* got float64": {
        "context_frames": [IMAGE / 2, None],
        "context_actions": [[0] * 4, None],
    },
    r"got uint8 \(4, 3, 16, 8\)": {
        "context_frames": [IMAGE.transpose(0, 3, 1, 2), None],
        "context_actions": [[0] * 4, None],
    },
    r"C >= 1, got uint8 \(0, 16, 8, 3\)": {"context_frames": [IMAGE[:0], None], "context_actions": [[], None]},
    r"got object \(\)": {"context_frames": [[IMAGE, IMAGE[:2]], None], "context_actions": [[0] * 4, None]},
    "from 0 to 2, -1 for none, one for each of the 4": {
        "context_frames": [IMAGE, None],
        "context_actions": [[0, 1, 3, 0], None],
    },
    r"got int64 \(3,\)": {"context_frames": [IMAGE, None], "context_actions": [[0, 1, 2], None]},
    "must be whole numbers .* got float64": {"context_frames": [IMAGE, None], "context_actions": [[0.5] * 4, None]},
    "'context_length' of row 0 .* from 1 to 4": {
        "context_frames": [IMAGE, None],
        "context_actions": [[0] * 4, None],
        "context_length": [5, 0],
    },
    "has no episode 'nowhere', see": {"episode": ["nowhere", None], "start": [0, None]},
    "has no episode 3": {"episode": [3, None], "start": [0, None]},
    "from 0 to .*, got 999": {"episode": [NAME, None], "start": [999, None]},
    "from 0 to .*, got -1": {"episode": [NAME, None], "start": [-1, None]},
    "from 0 to .*, got 1.5": {"episode": [NAME, None], "start": [1.5, None]},
    "from 0 to .*, got True": {"episode": [NAME, None], "start": [True, None]},
    "'episode' in reset.* needs 2 entries": {"episode": NAME, "start": [0, 0]},
}


@pytest.mark.parametrize(("message", "options"), BAD.items(), ids=list(BAD))
def test_what_cannot_be_meant_changes_nothing(folder: Path, message: str, options: dict[str, Any]) -> None:
    env = vec(folder, rows=2, **GIVEN)
    env.reset(seed=5)
    names = {NAME: env.store.names[0]}
    if isinstance(options.get("episode"), list):
        options = options | {"episode": [names.get(name, name) for name in options["episode"]]}
    before = env.get_state()
    with pytest.raises(InputError, match=message):
        env.reset(seed=7, options=options)
    after = env.get_state()
    assert all(torch.equal(tensor, after.tensors[name]) for name, tensor in before.tensors.items())
