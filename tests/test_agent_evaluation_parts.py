"""What evaluations are made of: files, anchors, scores and curves, with figures known by hand."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from corridor import ADVANCE, CORRIDOR, ExactModel, Script, agent_that_plays, play_corridor
from lssvwm.agents.evaluation import Evaluation, dreamt_returns
from lssvwm.agents.evaluation.comparison.anchors import Anchor, has_success, measured, merged, normalised, published
from lssvwm.agents.evaluation.comparison.curves import Line, Method, band, common_level, compared, lines, reached
from lssvwm.agents.evaluation.comparison.plots import plot_comparison
from lssvwm.agents.evaluation.comparison.scores import correlation, score
from lssvwm.agents.evaluation.files import (
    Evaluations,
    append_evaluation,
    log_evaluation,
    read_episodes,
    read_evaluations,
    write_episodes,
    write_monitor,
)
from lssvwm.agents.evaluation.judging import Contestant, Result, ranked
from lssvwm.agents.policies.world_model import WorldModelPolicy
from lssvwm.envs.factory import EnvConfig
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.reporting.statistics import Interval, difference_within

MAZE = EnvConfig("lssvwm/MemoryMaze-9x9-v0")
PLAYED = Evaluation(
    "agent",
    seeds=(7, 8, 9),
    returns=(0.1, 0.0, 1 / 3),
    lengths=(5, 12, 4),
    successes=(True, False, True),
    seconds=(0.5, 1.25, 0.4),
    ended=(0.5, 1.75, 0.9),
)


def made_of(*returns: float, name: str = "agent", successes: tuple[bool, ...] | None = None) -> Evaluation:
    count = len(returns)
    return Evaluation(name, tuple(range(count)), returns, (4,) * count, successes or (False,) * count)


def result(*returns: float, imagined: tuple[float, ...] | None = None) -> Result:
    return Result(Contestant("agent", CORRIDOR), made_of(*returns), imagined)


# Files


def test_episodes_read_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "episodes.csv"
    write_episodes(path, PLAYED)
    read = read_episodes(path, "agent")
    assert read == PLAYED
    assert (read.seconds, read.ended) == (PLAYED.seconds, PLAYED.ended)
    assert all(isinstance(success, bool) for success in read.successes)
    assert path.read_text().splitlines()[:2] == ["seed,return,length,success,seconds,ended", "7,0.1,5,1,0.5,0.5"]
    write_episodes(path, made_of(1.0, 2.0))
    assert math.isnan(read_episodes(path, "agent").seconds[0])


@pytest.mark.parametrize("text", ["", "seed,return\n1,2\n", "seed,return,length,success,seconds,ended\n1,x,1,1,1,1\n"])
def test_other_files_are_no_episodes(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"missing\.csv does not exist"):
        read_episodes(tmp_path / "missing.csv", "agent")
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(InputError, match=r"bad\.csv .*evaluate again"):
        read_episodes(tmp_path / "bad.csv", "agent")


def test_monitor_files_are_those_of_stable_baselines(tmp_path: Path) -> None:
    write_monitor(tmp_path / "0.monitor.csv", PLAYED, "Corridor-v0", started=12.5)
    first, *rest = (tmp_path / "0.monitor.csv").read_text().splitlines()
    assert first.startswith("#")
    assert json.loads(first[1:]) == {"t_start": 12.5, "env_id": "Corridor-v0"}
    assert rest[0] == "r,l,t"
    # In the order in which they ended, not in that of the seeds.
    assert [tuple(map(float, row)) for row in csv.reader(rest[1:])] == [
        (0.1, 5, 0.5),
        (0.333333, 4, 0.9),
        (0.0, 12, 1.75),
    ]


def test_evaluations_grow_and_a_stage_done_again_replaces_its_own(tmp_path: Path) -> None:
    path = tmp_path / "run" / "evaluations.npz"
    append_evaluation(path, made_of(0.0, 1.0), steps=100, seconds=3.5, imagined=0.7)
    append_evaluation(path, made_of(1.0, 1.0, successes=(True, False)), steps=250)
    with np.load(path, allow_pickle=False) as file:
        assert file["timesteps"].tolist() == [100, 250]
        assert file["results"].tolist() == [[0, 1], [1, 1]]
        assert file["ep_lengths"].tolist() == [[4, 4], [4, 4]]
    read = read_evaluations(path)
    assert read.successes.tolist() == [[False, False], [True, False]]
    assert read.seconds[0] == 3.5
    assert np.isnan(read.seconds[1])
    assert read.imagined[0] == 0.7
    append_evaluation(path, made_of(5.0, 6.0), steps=250, seconds=9.0)
    again = read_evaluations(path)
    assert again.steps.tolist() == [100, 250]
    assert again.returns.tolist() == [[0, 1], [5, 6]]
    assert [p.name for p in path.parent.iterdir()] == ["evaluations.npz"]
    with pytest.raises(InputError, match=r"of \[2, 3\] episodes"):
        append_evaluation(path, made_of(1.0, 1.0, 1.0), steps=300)


def test_what_others_wrote_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.npz"
    np.savez(path, timesteps=[10, 20], results=[[1.0], [2.0]], ep_lengths=[[3], [4]])
    read = read_evaluations(path)
    assert read.steps.tolist() == [10, 20]
    assert not read.successes.any()
    assert np.isnan(read.seconds).all()
    np.savez(path, timesteps=[10, 20], results=[[1.0]], ep_lengths=[[3]])
    with pytest.raises(InputError, match="for 2 time steps"):
        read_evaluations(path)
    np.savez(path, timesteps=[10])
    with pytest.raises(InputError, match="no results, ep_lengths"):
        read_evaluations(path)
    path.write_bytes(b"PK nothing")
    with pytest.raises(InputError, match="cannot be read"):
        read_evaluations(path)
    with pytest.raises(InputError, match="does not exist"):
        read_evaluations(tmp_path / "none.npz")


def test_tensorboard_has_the_tags_of_stable_baselines(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        log_evaluation(writer, PLAYED, 300, imagined=0.25)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    found = {tag: (event.step, event.value) for tag in events.Tags()["scalars"] for event in events.Scalars(tag)}
    assert found == {
        "eval/mean_reward": (300, pytest.approx(13 / 90)),
        "eval/mean_ep_length": (300, 7.0),
        "eval/success_rate": (300, pytest.approx(2 / 3)),
        "eval/imagined_reward": (300, 0.25),
        "eval/imagined_minus_real": (300, pytest.approx(0.25 - 13 / 90)),
    }


# Anchors


def test_anchors_are_published_for_whole_episodes_of_the_maze() -> None:
    anchors = {anchor.kind: anchor for anchor in published(MAZE)}
    assert {kind: anchor.value for kind, anchor in anchors.items()} == {"human": 26.4, "oracle": 34.8}
    assert all("2210.13383" in anchor.source for anchor in anchors.values())
    assert published(replace(MAZE, max_episode_steps=1000)) == published(MAZE)
    assert published(replace(MAZE, max_episode_steps=500)) == ()
    assert published(EnvConfig("lssvwm/MemoryMaze-15x15-v0", max_episode_steps=1000)) == ()
    assert published(EnvConfig("MiniGrid-MemoryS7-v0")) == ()
    assert not has_success(MAZE)
    assert not has_success(EnvConfig("lssvwm/MemoryMaze-7x7-v0"))  # of which no score is published
    assert has_success(EnvConfig("MiniGrid-MemoryS7-v0"))


def test_what_was_played_here_comes_before_what_is_published() -> None:
    played = [measured(name, Interval(value, 0, 0, 10)) for name, value in (("random", 1.0), ("oracle", 30.0))]
    assert measured("scripted", Interval(4.0, 3, 5, 10)) is None
    anchors = merged(published(MAZE), [anchor for anchor in played if anchor is not None])
    assert {anchor.kind: anchor.value for anchor in anchors} == {"human": 26.4, "oracle": 30.0, "random": 1.0}
    assert next(a.source for a in anchors if a.kind == "random") == "played here, 10 episodes"


def test_normalised_scores_by_hand() -> None:
    random, human, oracle = Anchor("random", 2.0, "-"), Anchor("human", 12.0, "-"), Anchor("oracle", 22.0, "-")
    value = Interval(7.0, 4.5, 13.0, 10)
    by_human = normalised(value, [random, human, oracle])
    assert by_human is not None
    assert (by_human.by, by_human.mean, by_human.low, by_human.high) == ("human", 0.5, 0.25, 1.1)
    by_oracle = normalised(value, [oracle, random])
    assert by_oracle is not None
    assert (by_oracle.by, by_oracle.mean) == ("oracle", 0.25)
    assert normalised(value, [human, oracle]) is None
    assert normalised(value, [random]) is None
    assert normalised(value, [random, Anchor("oracle", 2.0, "-")]) is None


# Scores


def about(mean: float, half: float, count: int) -> Interval:
    return Interval(mean, pytest.approx(mean - half, abs=1e-3), pytest.approx(mean + half, abs=1e-3), count)


def test_the_score_of_several_runs_by_hand() -> None:
    results = [result(0.0, 1.0, imagined=(3.0, 3.0)), result(10.0, 10.0, imagined=(12.0, 14.0))]
    found = score("method", results, (), success=True)
    # Only the first run varies, so one degree of freedom: 12.7062, times a half of sqrt(0.5 / 2).
    assert found.mean == about(5.25, 12.7062 * 0.25, 4)
    assert found.iqm == Interval(5.5, 5.0, 5.5, 4)
    assert found.over_runs == about(5.25, 12.7062 * 4.75, 2)
    assert found.success == Interval(0.0, 0.0, pytest.approx(0.4899, abs=1e-4), 4)  # Wilson
    assert found.imagined == about(8.0, 12.7062 * 0.5, 4)
    # 1.4706 degrees of freedom: between the quantiles of 1 and 2, by 2 - 2 / 1.4706 of the way.
    assert found.gap == about(2.75, (12.7062 - 0.64 * (12.7062 - 4.3027)) * (0.25 + 0.0625) ** 0.5, 8)
    assert found.normalised is None
    json.dumps(found.to_dict(), allow_nan=False)


def test_one_run_says_nothing_about_the_next() -> None:
    found = score("method", [result(0.0, 1.0)], (), success=False)
    assert (found.over_runs, found.success_over_runs, found.success, found.imagined, found.gap) == (None,) * 5


def test_the_gap_is_dreams_minus_reality() -> None:
    # Of a run with one dream nothing is known of its spread: the dreams count as one sample, of deviation sqrt(3).
    assert difference_within([[1.0, 1.0], [4.0]], [[0.5, 0.5]]) == about(1.5, 4.3027, 5)
    assert difference_within([[0.0, 1.0]], [[1.0, 1.0]]) == about(-0.5, 12.7062 * 0.5, 4)


def test_correlation_over_checkpoints_says_when_there_are_too_few() -> None:
    assert correlation([(1.0, 2.0), (2.0, 3.0)])["note"] == "not enough checkpoints"
    assert correlation([])["count"] == 0
    assert correlation([(1.0, 2.0), (2.0, 2.0), (3.0, 2.0)])["note"] == "the returns do not differ"
    found = correlation([(1.0, 2.0), (2.0, 3.0), (5.0, 3.5), (6.0, 9.0)])
    assert (found["count"], found["spearman"]["value"], "note" in found) == (4, 1.0, False)


def test_best_median_and_worst_are_those_by_return() -> None:
    assert ranked(made_of(3.0, 1.0, 2.0, 5.0)) == {"best": 3, "median": 2, "worst": 1}
    assert ranked(made_of(1.0, 0.0, 1.0, 0.0, 1.0)) == {"best": 0, "median": 0, "worst": 1}
    assert ranked(made_of(1.0)) == {"best": 0, "median": 0, "worst": 0}


# Curves


def run_of(steps: list[int], success: list[float], seconds: list[float] | None = None) -> Evaluations:
    n = len(steps)
    return Evaluations(
        steps=np.array(steps),
        returns=2 * np.array(success)[:, None].repeat(2, 1),
        lengths=np.full((n, 2), 5),
        successes=np.stack([np.array(success) > 0, np.array(success) > 0.5], 1),
        seconds=np.full(n, np.nan) if seconds is None else np.array(seconds),
        imagined=np.full(n, np.nan),
    )


def line(x: list[float], y: list[float]) -> Line:
    return Line(np.array(x), np.array(y))


def test_the_band_over_two_runs_by_hand() -> None:
    found = band([line([0, 10], [0, 1]), line([5, 15], [1, 1])])
    assert found.x.tolist() == [5, 10]  # what both cover
    assert found.band.mean.tolist() == [0.75, 1]
    half = 12.7062 * 0.25  # Student's quantile of two runs, and deviation sqrt(1 / 8) over sqrt(2)
    assert found.band.low.tolist() == pytest.approx([0.75 - half, 1])
    assert found.band.high.tolist() == pytest.approx([0.75 + half, 1])


def test_one_run_has_no_band() -> None:
    found = band([line([1, 2, 4], [0, 1, 0.5])])
    assert np.isnan(found.band.low).all()
    assert found.band.mean.tolist() == [0, 1, 0.5]


def test_runs_that_share_no_stretch_are_matched_by_number() -> None:
    found = band([line([10], [0.2]), line([20], [0.6])])
    assert (found.x.tolist(), found.band.mean.tolist()) == ([15], [pytest.approx(0.4)])
    with pytest.raises(InputError, match="share no stretch"):
        band([line([10], [0.2]), line([20, 30], [0.6, 0.7])])


def test_when_a_level_was_reached() -> None:
    runs = [line([10, 20, 30], [0.5, 0.9, 0.4]), line([10, 40], [0.1, 0.95]), line([10, 20], [0.0, 0.3])]
    found = reached(runs, 0.9)
    assert (found.runs, found.count, found.median, found.first, found.last) == (2, 3, 30, 20, 40)
    assert reached(runs, 0.99).median is None
    assert common_level([runs[:2], runs[2:]]) == 0.3


def test_methods_are_compared_over_steps_and_time(tmp_path: Path) -> None:
    fast = Method("fast", (run_of([10, 20], [0.4, 1.0], [60, 120]), run_of([10, 20], [0.0, 1.0], [90, 180])))
    slow = Method("slow", (run_of([10, 30], [0.0, 1.0], [6, 12]),))
    drawn = lines(fast, "steps", "success")
    assert drawn is not None
    assert drawn[0].y.tolist() == [0.5, 1.0]
    found = compared([fast, slow], "success", 0.9)
    assert found["steps"]["fast"]["threshold"]["median"] == 20
    assert found["seconds"]["fast"]["threshold"]["median"] == 150
    assert found["seconds"]["slow"]["threshold"]["first"] == 12
    assert found["steps"]["fast"]["band"]["mean"] == [0.25, 1.0]
    assert compared([fast], "return", 0.9)["steps"]["fast"]["band"]["mean"] == [0.4, 2.0]
    json.dumps(found, allow_nan=False)
    plot_comparison(tmp_path / "curves", [fast, slow], "success", 0.9)
    text = (tmp_path / "curves.svg").read_text()
    assert all(word in text for word in ("fast (2 runs)", "slow (1 run)", "real environment steps", "wall-clock"))
    # A method without a clock: the steps alone are drawn.
    timeless = Method("timeless", (run_of([10, 30], [0.0, 1.0]),))
    assert list(compared([fast, timeless], "success", 0.9)["seconds"]) == ["fast"]
    plot_comparison(tmp_path / "curves", [fast, timeless], "success", None)
    assert "wall-clock" not in (tmp_path / "curves.svg").read_text()


# Dreams


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    store = EpisodeStore(tmp_path_factory.mktemp("episodes"), create=True)
    for episode in play_corridor(Script(ADVANCE), range(3)):
        store.append(episode)
    return store


@pytest.mark.parametrize(("horizon", "expected"), [(3, 0.0), (4, 1.0), (9, 1.0)])
def test_any_policy_earns_in_the_exact_dream_what_it_earns_for_real(
    store: EpisodeStore, horizon: int, expected: float
) -> None:
    """In batches of two rows; what is dreamed past the goal, 7 at each step, does not count."""
    model = ExactModel(beyond=7.0)
    mine = WorldModelPolicy(ExactModel(), agent_that_plays((*ADVANCE, 0)))  # type: ignore[arg-type]
    for policy in (Script(ADVANCE), mine):
        returns = dreamt_returns(
            model,
            policy,
            store,
            episodes=5,
            horizon=horizon,
            steps=1,
            seed=0,
            rows=2,  # type: ignore[arg-type]
        )
        assert returns == (expected,) * 5
    assert (
        dreamt_returns(
            model,
            Script((1, 1)),
            store,
            episodes=3,
            horizon=9,
            steps=1,
            seed=0,  # type: ignore[arg-type]
        )
        == (0.0,) * 3
    )


def test_a_dream_that_ended_earns_nothing_while_others_go_on(store: EpisodeStore) -> None:
    unsure = WorldModelPolicy(ExactModel(), agent_that_plays((*ADVANCE, 0), certainty=1.0))  # type: ignore[arg-type]
    returns = dreamt_returns(
        ExactModel(beyond=7.0),
        unsure,
        store,
        episodes=8,
        horizon=8,
        steps=1,
        seed=0,  # type: ignore[arg-type]
    )
    assert set(returns) == {0.0, 1.0}  # some arrived, not all, so the dreaming went on
