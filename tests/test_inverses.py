"""What a recording says of its actions holds in the world itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lssvwm.agents.policies.baselines import RandomPolicy
from lssvwm.envs.factory import EnvConfig, make
from lssvwm.envs.recording.recorder import SEED_KEY, record
from lssvwm.envs.worlds.inverses import inverse_actions
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.evaluation.protocols.clips import read_windows
from lssvwm.worldmodel.evaluation.protocols.trials import window
from lssvwm.worldmodel.evaluation.studies.palindrome import inverse_of, walks, way_back
from lssvwm.worldmodel.evaluation.studies.study import Settings


@pytest.mark.parametrize("actions", [(0, 1, 2), (2, 1, 0), None])
def test_what_was_recorded_undoes_every_step(tmp_path: Path, actions: tuple[int, ...] | None) -> None:
    pytest.importorskip("minigrid")
    config = EnvConfig("lssvwm/MiniGrid-Carpet-v0", actions=actions, max_episode_steps=200)
    store = EpisodeStore(tmp_path, create=True)
    record(config, store, RandomPolicy(len(actions or range(7))), episodes=1, num_envs=1, processes=False, seed=3)
    inverse, env, moved = inverse_of(store), make(config), 0
    frame, _ = env.reset(seed=3)
    generator = np.random.default_rng(0)
    for action in generator.choice(sorted(inverse), size=60).tolist():
        before = frame
        frame = env.step(np.int64(action))[0]
        if (frame == before).all():
            continue  # a wall: nothing was done
        moved += 1
        for undo in inverse[action]:
            back = env.step(np.int64(undo))[0]
        assert (back == before).all()
        frame = env.step(np.int64(action))[0]
    assert moved > 30
    assert len(inverse) == 3


def test_walks_back_pass_what_the_way_out_passed_where_steps_may_change_no_pixel(tmp_path: Path) -> None:
    pytest.importorskip("minigrid")
    config, store = EnvConfig("MiniGrid-Empty-16x16-v0", actions=(0, 1, 2)), EpisodeStore(tmp_path, create=True)
    record(config, store, RandomPolicy(3), episodes=2, num_envs=1, processes=False, seed=3)
    inverse, env = inverse_of(store), make(config)
    found = walks(store, inverse, 4, Settings(context=4, horizon=1, clips=20, steps=1))
    assert found.left_out > 0
    clips = read_windows(store, found.windows)
    back = way_back(window(clips, 3, found.windows.length), inverse)
    for row, (number, start) in enumerate(zip(found.windows.episodes, found.windows.starts, strict=True)):
        episode = store.read(store.names[number])
        env.reset(seed=int(episode.extras[SEED_KEY]))
        for action in episode.action[1 : start + found.windows.length]:
            env.step(action)
        for action, step in zip(back.actions[row], back.reached[row].tolist(), strict=True):
            if not back.active[row].any():
                break
            frame = env.step(np.int64(action))[0]
            if step >= 0:
                assert (frame == clips.frames[row, 3 + step].numpy()).all()


@pytest.mark.parametrize(
    "config",
    [EnvConfig("lssvwm/MemoryMaze-9x9-v0"), EnvConfig("MiniGrid-Dynamic-Obstacles-5x5-v0")],
)
def test_where_nothing_is_exact_nothing_is_said(config: EnvConfig) -> None:
    assert inverse_actions(config) is None


def test_only_what_is_offered_can_undo() -> None:
    table = inverse_actions(EnvConfig("MiniGrid-Empty-5x5-v0", actions=(0, 2)))
    assert table is None
    table = inverse_actions(EnvConfig("MiniGrid-Empty-5x5-v0", actions=(1, 0)))
    assert table is not None
    assert table.tolist() == [[[1], [0]]]
