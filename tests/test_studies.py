"""Studies on toy worlds and models in which every figure can be computed by hand."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.common.rng import row_generators
from lssvwm.worldmodel.episodes import NO_ACTION
from lssvwm.worldmodel.episodes.data import INVERSE_KEY
from lssvwm.worldmodel.evaluation.metrics.frames import psnr
from lssvwm.worldmodel.evaluation.models import Model
from lssvwm.worldmodel.evaluation.protocols.clips import Windows
from lssvwm.worldmodel.evaluation.studies.memory_use import MemoryUse, ages_of, memory_use, next_frames
from lssvwm.worldmodel.evaluation.studies.palindrome import Palindrome, inverse_of, palindrome, parse_inverse
from lssvwm.worldmodel.evaluation.studies.recovery import Recovery, frames_until, other_places, recovery
from lssvwm.worldmodel.evaluation.studies.revisits import Revisits, revisits, sights
from lssvwm.worldmodel.evaluation.studies.rewards import rewarded, rewards
from lssvwm.worldmodel.evaluation.studies.study import Settings, Study, plot_study
from lssvwm.worldmodel.evaluation.studies.wrong_actions import shuffled, wrong_actions
from lssvwm.worldmodel.model import Features
from places import LOOKS, PLACES, Remembered, places_store
from rings import (
    CAP,
    Careful,
    Ring,
    Still,
    as_model,
    decibels,
    error,
    of_places,
    places_of,
    ring_episode,
    ring_store,
)
from worlds import random_model, small_config


def settings(**changes: Any) -> Settings:
    return Settings(**{"context": 4, "horizon": 5, "clips": 8, "steps": 1, "rows": 2, **changes})


def dark(place: int) -> float:
    """PSNR of black to a place."""
    return float(10 * np.log10(255**2 / LOOKS[place].double().square().mean().item()))


# Use of memory


def returning(tmp_path: Path) -> Model:
    """Two episodes: places 0 to 11, then place 2 again at frame 12, then new ones."""
    episodes = (of_places([*range(12), 2, 20, 21]), of_places([*range(11, -1, -1), 9, 20, 21]))
    return as_model(Remembered(), ring_store(tmp_path / "returning", *episodes, pose=("place",)))


def test_the_next_frame_is_known_from_all_history_and_not_from_the_last_few(tmp_path: Path) -> None:
    found = memory_use([returning(tmp_path)], MemoryUse(last=4, ages=(12, 13), frames=1), settings())
    assert found is not None
    both, gain = (found.figures["toy"][name]["mean"] for name in ("both", "difference"))
    black = (dark(2) + dark(9)) / 2
    np.testing.assert_allclose(both, [[CAP, black], [dark(20), dark(20)]])
    np.testing.assert_allclose(gain, [CAP - black, 0])
    assert found.figures["toy"]["difference"]["episodes"].tolist() == [2, 2]
    half = found.figures["toy"]["difference"]["high"][0] - gain[0]
    assert half == pytest.approx(12.7062 * abs(dark(2) - dark(9)) / 2, rel=1e-4)  # Student's t of two values
    assert found.table[1][:2] == ("toy", "12")
    assert "2 of 2 episodes" in found.about


def test_several_frames_are_predicted_after_the_true_ones(tmp_path: Path) -> None:
    found = memory_use([returning(tmp_path)], MemoryUse(last=4, ages=(12,), frames=9), settings(rows=1))
    assert found is not None
    expected = np.mean([[CAP, dark(20), dark(21)], [CAP, dark(20), dark(21)]])
    assert found.figures["toy"]["both"]["mean"][0, 0] == pytest.approx(expected)


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"chunk": 2, "window": 2}])
def test_streamed_frames_are_those_of_observe_and_imagine(tmp_path: Path, changes: dict[str, Any]) -> None:
    store = places_store(tmp_path, episodes=3, frames=20)
    model, chunk = random_model(small_config(**changes), 3), changes.get("chunk", 1)
    rows, times = np.array([2, 0, 1]), [np.array([8, 16]), np.array([16]), np.array([8])]
    found = next_frames(model, store, rows, times, last=4, settings=settings(steps=2, seed=7))
    for row, each, values in zip(rows, times, found, strict=True):
        clip = store.gather(np.array([row]), np.array([0]), 20)
        for time, (whole, short) in zip(each, values, strict=True):
            for first, value in ((0, whole), (time - 4, short)):
                _, memory = model.observe(clip.frames[:, first:time], clip.actions[:, first:time])
                told = clip.actions[:, time : time + chunk]
                generators = row_generators(7, int(time), [int(row)], model.device)
                new = model.imagine(told[:, 0] if chunk == 1 else told, memory, steps=2, generator=generators)
                frames = new.frame[:, None] if chunk == 1 else new.frame
                assert value == pytest.approx(psnr(frames, clip.frames[:, time : time + chunk]).mean().item(), rel=1e-6)


def test_ages_go_as_far_as_episodes_do() -> None:
    assert ages_of(MemoryUse(), np.array([20, 300])) == [64, 128, 256]
    assert ages_of(MemoryUse(last=8), np.array([30])) == [26]
    assert ages_of(MemoryUse(), np.array([18])) == []
    with pytest.raises(InputError, match=r"--memory.ages 300: the next frame would be number 300.* has 300"):
        ages_of(MemoryUse(ages=(5, 300)), np.array([300]))


# Views that return


def test_sights_by_hand() -> None:
    image = of_places([0, 1, 2, 3, 0, 0, 5, 3, 1]).image
    found = sights(image, Revisits(last=3, alike=60))
    # 0 again after four frames; then lately seen; 3 after four frames, 1 after seven.
    assert found.returned.tolist() == [4, 7, 8]
    np.testing.assert_allclose(found.copy, CAP)
    assert found.ago.tolist() == [4, 4, 7]
    assert found.new.tolist() == [6]
    assert len(sights(image, Revisits(last=3, alike=60, frames=2)).returned) == 2


def test_a_video_without_actions_shows_whether_views_are_known_again(tmp_path: Path) -> None:
    found = revisits([returning(tmp_path)], Revisits(last=4, alike=60), settings())
    figures = found.figures["toy"]
    np.testing.assert_allclose(figures["returned to"]["both"]["mean"], [CAP, (dark(2) + dark(9)) / 2])
    assert figures["returned to"]["frames"] == 2
    assert figures["returned to, 10 to 19 frames ago"]["frames"] == 2  # both views are ten frames old
    assert figures["returned to, 5 to 9 frames ago"]["frames"] == 0
    np.testing.assert_allclose(figures["new"]["difference"]["mean"], 0, atol=1e-9)
    assert found.table[-1][2].startswith("78.13")
    with pytest.raises(InputError, match=r"lower --revisits.alike"):
        revisits([returning(tmp_path)], Revisits(last=10), settings())


# Palindrome walks


def walkers(tmp_path: Path, *models: Any, **extras: Any) -> list[Model]:
    store = ring_store(tmp_path / "ring", ring_episode([1, 1, 1, 0, 1, 2, 0, 1]), ring_episode([2] * 8, start=9))
    return [as_model(model, store, type(model).__name__) for model in models]


TURNS = Palindrome(inverse="0:2+2+2,1:2,2:1", steps=4)


def test_who_knows_the_ring_comes_back_and_who_stays_is_held(tmp_path: Path) -> None:
    models = walkers(tmp_path, Ring(), Still())
    found = palindrome(models, TURNS, settings(context=5))
    for way in ("real", "dreamt"):
        np.testing.assert_allclose(found.figures["Ring"][way]["mean"], CAP)
    np.testing.assert_allclose(found.figures["Still"]["dreamt"]["mean"], CAP)  # it never left
    first, second = [6, 7, 6, 9, 10], [5, 4, 3, 2, 1]  # from frame 4 on
    steps = [[decibels(path[-1], path[-2 - n]) for n in range(4)] for path in (first, second)]
    np.testing.assert_allclose(found.figures["Still"]["real"]["mean"], np.mean(steps, 0))
    held = next(line for line in found.table if line[0].startswith("last frame"))
    assert held[2] == next(line for line in found.table if line[:2] == ("Still", "real"))[2]
    assert found.table[1][-2:] == ("2", "2")


def test_walks_with_a_step_that_changed_nothing_are_left_out(tmp_path: Path) -> None:
    store = ring_store(tmp_path, ring_episode([1, 1, 1, 1, 1, 2, 2, 2], wall=4))
    found = palindrome([as_model(Ring(), store)], Palindrome("1:2,2:1", 3), settings(context=2))
    np.testing.assert_allclose(found.figures["toy"]["real"]["mean"], [CAP] * 3)
    assert found.table[1][-2:] == ("2", "1")  # actions 2 to 4, and 6 to 8
    assert "3 walks of the episodes read were left out" in found.about
    with pytest.raises(InputError, match=r"each changed a pixel \(1 times one did not\)"):
        palindrome([as_model(Ring(), store)], Palindrome("1:2,2:1", 7), settings(context=2))


def test_walks_are_taken_where_all_actions_can_be_undone(tmp_path: Path) -> None:
    models = walkers(tmp_path, Ring())
    found = palindrome(models, Palindrome("2:1", 4), settings(context=2))
    assert found.table[1][-2:] == ("4", "1")  # four windows, all of the second episode
    with pytest.raises(InputError, match=r"fewer --palindrome.steps"):
        palindrome(models, Palindrome("0:2+2+2", 2), settings(context=2))


def test_the_recording_may_say_what_undoes_what(tmp_path: Path) -> None:
    table = np.array([[[2, 2, 2], [2, -1, -1], [-1, -1, -1]]])
    store = ring_store(tmp_path / "says", of_places([0, 1, 2, 3, 4], [1, 1, 1, 1], **{INVERSE_KEY: table}))
    assert inverse_of(store) == {0: (2, 2, 2), 1: (2,)}
    found = palindrome([as_model(Ring(), store)], Palindrome(steps=2), settings(context=2))
    np.testing.assert_allclose(found.figures["toy"]["real"]["mean"], CAP)
    with pytest.raises(InputError, match=r"give --palindrome.inverse"):
        palindrome(walkers(tmp_path, Ring()), Palindrome(), settings())


@pytest.mark.parametrize("text", ["1", "1:", "a:b", "1:2:3", "1:3", "7:1", "1:2 1"])
def test_inverses_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match=r"--palindrome.inverse"):
        parse_inverse(text, 3)
    assert parse_inverse("0:2+2,1:2", 3) == {0: (2, 2), 1: (2,)}


def test_a_model_with_a_pose_walks_back_by_retrieval(tmp_path: Path) -> None:
    model = Ring()
    model.config = replace(model.config, pose_size=1)
    with pytest.raises(InputError, match="--protocols retrieval walks back"):
        palindrome(walkers(tmp_path, model), TURNS, settings())


# Right and wrong actions


def test_wrong_actions_worsen_what_counts_on_them(tmp_path: Path) -> None:
    store = ring_store(tmp_path, ring_episode([1, 2] * 5), ring_episode([2, 1] * 5, start=9))
    models = [as_model(Ring(), store, "knows"), as_model(Still(), store, "ignores")]
    found = wrong_actions(models, settings(context=3, horizon=4, clips=40))
    assert found.figures["ignores"]["next frame"]["ratio"]["mean"] == pytest.approx(1)
    assert found.figures["ignores"]["dream"]["ratio"]["low"] == pytest.approx(1)
    # Both episodes go to and fro between two places, and the only other action leads to the other side.
    missed = [np.mean([error(1, PLACES - 1), error(0, 2)]), np.mean([error(8, 10), error(9, 7)])]
    expected = np.exp(np.mean(np.log(np.array(missed) / 1e-3)))
    assert found.figures["knows"]["next frame"]["ratio"]["mean"] == pytest.approx(expected, rel=1e-6)


def test_wrong_actions_are_recorded_ones_and_never_the_same() -> None:
    source = torch.Generator().manual_seed(0)
    actions = torch.randint(0, 4, (200, 20), generator=source)
    actions[:, 0] = NO_ACTION
    other = shuffled(actions, source)
    assert (other[:, 0] == NO_ACTION).all()
    assert (other[:, 1:] != actions[:, 1:]).all()
    assert set(other[:, 1:].unique().tolist()) == {0, 1, 2, 3}
    rest = other[:, 1:][actions[:, 1:] == 2]
    counts = torch.bincount(rest, minlength=4) / len(rest)
    np.testing.assert_allclose(counts, [1 / 3, 1 / 3, 0, 1 / 3], atol=0.06)
    numbers = torch.randn(30, 10, 2, generator=source)
    numbers[:, 0] = torch.nan
    changed = shuffled(numbers, source)
    assert changed[:, 0].isnan().all()
    assert (changed[:, 1:] != numbers[:, 1:]).any(-1).all()
    for few in (torch.full((2, 3), NO_ACTION), torch.tensor([[NO_ACTION, 1, 1]])):
        with pytest.raises(InputError, match="there is no wrong one"):
            shuffled(few, source)


# Recovery


def test_who_trusts_three_frames_recovers_after_three(tmp_path: Path) -> None:
    store = ring_store(tmp_path, of_places(range(30), [1] * 29))
    asked = Recovery(frames=4, last=2, noise=0.5)
    found = recovery([as_model(Careful(), store)], asked, settings(context=8, horizon=5, clips=30))
    for kind in ("dropped", "noised", "jumped"):
        whole, short = (found.figures["toy"][kind][name] for name in ("all history", "window"))
        np.testing.assert_allclose(whole["undisturbed"]["mean"], CAP)
        assert whole["until"]["mean"] == 3
        assert (np.abs(whole["lost"]["mean"]) > 1).tolist() == [True, True, True, False, False]
        assert short["until"]["mean"] == 2  # its window holds no more than two frames that can be wrong
        assert whole["recovered"]["mean"] == 1
        assert whole["recovered"]["count"] == 1  # episodes, however many clips
    assert found.table[1][-2:] == ("14", "1")


def test_what_never_recovers_counts_the_horizon() -> None:
    lost = np.array([[3.0, 0.5, 2.0], [3.0, 2.0, 1.5], [0.2, 9.0, 9.0]])
    assert frames_until(lost, 1.0).tolist() == [1, 3, 0]


def test_another_place_does_not_overlap(tmp_path: Path) -> None:
    store = ring_store(tmp_path, of_places(range(20), [1] * 19))
    windows = Windows(np.zeros(50, np.int64), np.arange(50) % 8, 12)
    starts = other_places(store, windows, 4, 4, 0)
    assert (np.abs(starts - (windows.starts + 4)) >= 4).all()
    assert starts.min() >= 0
    assert starts.max() <= 16
    with pytest.raises(InputError, match=r"fewer --recovery\.frames"):
        other_places(store, windows, 15, 4, 0)


# Rewards


class Stingy(Ring):
    """Pays half of what place 8 is worth."""

    def told(self, frames: torch.Tensor) -> Features:
        return replace(super().told(frames), reward=(places_of(frames) == 8).float())


class Slow(Stingy):
    """Takes every action for a step of one place."""

    moves = torch.ones(3, dtype=torch.int64)


def test_what_dreams_pay_is_told_by_how_far_ahead(tmp_path: Path) -> None:
    ways = ([1, 1, 1, 1, 0, 1], [1, 1, 1, 1, 1, 0, 1, 1])  # the last step but one before place 8 is three places
    episodes = [ring_episode(way, start) for way, start in zip(ways, (0, -1 % PLACES), strict=True)]
    for episode in episodes:
        episode.reward[:] = 2.0 * (episode.extras["place"][:, 0] == 8)
    store = ring_store(tmp_path, *episodes)
    asked = settings(horizon=2)
    found = rewards([as_model(Stingy(), store), as_model(Slow(), store, "slow")], asked).figures
    assert found["toy"]["ahead"] == [1, 2]
    np.testing.assert_allclose(found["toy"]["share"]["mean"], [0.5, 0.5])
    np.testing.assert_allclose(found["slow"]["share"]["mean"], [0.5, 0.0])
    # Two and four windows of two frames; place 8 lies in one of each first's, and in two of the second's.
    np.testing.assert_allclose(found["toy"]["recorded"]["mean"], (1 / 2 + 2 / 4) / 2)
    np.testing.assert_allclose(found["toy"]["dreamt"]["mean"], (1 / 4 + 1 / 4) / 2)


def test_rewards_count_by_their_size(tmp_path: Path) -> None:
    """Each step costs little; what the goal pays is not dreamt."""

    class Petty(Ring):
        def told(self, frames: torch.Tensor) -> Features:
            return replace(super().told(frames), reward=torch.full(frames.shape[:2], -0.01))

    episode = ring_episode([1] * 12)
    episode.reward[1:] = -0.01
    episode.reward[8] = 1.0
    found = rewards([as_model(Petty(), ring_store(tmp_path, episode))], settings(horizon=2, clips=100)).figures
    assert float(np.max(found["toy"]["share"]["mean"])) < 0


def test_chunks_are_whole_before_anything_is_dreamt(tmp_path: Path) -> None:
    store = ring_store(tmp_path, ring_episode([1] * 12))
    models = [as_model(random_model(small_config(chunk=chunk, window=chunk), 3), store) for chunk in (2, 3)]
    with pytest.raises(InputError, match="context 4 and --horizon 6 must be whole chunks of 6 frames"):
        rewarded(models, settings(horizon=6))


def test_without_rewards_there_is_nothing_to_judge(tmp_path: Path) -> None:
    store = ring_store(tmp_path, ring_episode([1] * 12))
    with pytest.raises(InputError, match=r"no reward comes after 8 frames or more .--context 4, --horizon 5"):
        rewards([as_model(Ring(), store)], settings())


# What all of them leave


def test_a_study_is_a_table_and_a_picture(tmp_path: Path) -> None:
    found = memory_use([returning(tmp_path)], MemoryUse(last=4), settings())
    assert isinstance(found, Study)
    plot_study(tmp_path / found.picture, found)
    assert (tmp_path / "memory.png").stat().st_size > 5000
    text = found.section().text()
    assert re.search(r"\| model \|\s+age \|", text)
    assert "![Use of memory](memory.png)" in text


def test_rows_at_once_change_nothing(tmp_path: Path) -> None:
    store = places_store(tmp_path, episodes=3, frames=24)
    world = random_model(small_config(), 3)
    for run in (
        lambda s: recovery([as_model(world, store)], Recovery(frames=2, last=4), s),
        lambda s: wrong_actions([as_model(world, store)], s),
        lambda s: palindrome([as_model(world, store)], Palindrome("0:2,1:1,2:0", 3), s),
    ):
        tables = [run(settings(rows=rows, clips=3)).table for rows in (1, 3)]
        assert tables[0] == tables[1]
