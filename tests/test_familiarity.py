"""How far features lie from those of training: as worked out by hand, in training itself, and along real episodes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from corridor import CORRIDOR, ExactModel, Lenient, play_corridor
from lssvwm.agents.dreamer.dreamer import STATE, Dreamer, DreamerConfig
from lssvwm.agents.dreamer.familiarity import Familiarity, by_step
from lssvwm.agents.evaluation import evaluate
from lssvwm.agents.evaluation.real import Evaluation
from lssvwm.agents.policies.baselines import RandomPolicy
from lssvwm.agents.policies.world_model import WorldModelPolicy, load_agent
from lssvwm.worldmodel.episodes import EpisodeStore


def test_features_of_training_are_at_distance_one_and_others_by_hand() -> None:
    subject = Familiarity(2)
    assert math.isnan(float(subject.distance(torch.zeros(2))))
    # Means 1 and 10, standard deviations 1 and 2: both values of each lie one of them away.
    batch = torch.tensor([[[0.0, 8.0], [2.0, 12.0]], [[99.0, 99.0], [0.0, 12.0]], [[2.0, 8.0], [9.0, 9.0]]])
    weights = torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    for _ in range(3):
        subject.update(batch, weights)
    torch.testing.assert_close(subject.distance(batch[0]), torch.ones(2))
    assert float(subject.distance(torch.tensor([1.0, 10.0]))) == pytest.approx(0.0, abs=1e-6)
    assert float(subject.distance(torch.tensor([4.0, 10.0]))) == pytest.approx(1.5, rel=1e-3)


def test_statistics_follow_a_distribution_that_changes() -> None:
    subject, source = Familiarity(3), torch.Generator().manual_seed(0)
    for shift in (0.0, 50.0):
        for _ in range(1500):
            subject.update(shift + torch.randn(32, 3, generator=source), torch.ones(32))
    assert float(subject.distance(50 + torch.randn(500, 3, generator=source)).mean()) == pytest.approx(1, abs=0.15)
    assert float(subject.distance(torch.randn(500, 3, generator=source)).mean()) > 5


def test_distances_are_told_by_step() -> None:
    first, second = [1.0] * 50 + [2.0] * 150 + [3.0] * 400, [3.0] * 60
    found = by_step([first, second, [math.nan]])
    assert list(found) == ["0-49", "50-199", "200-499", "500+"]
    assert found["0-49"] == pytest.approx(2)
    assert found["50-199"] == pytest.approx((150 * 2 + 10 * 3) / 160)
    assert found["500+"] == 3
    assert by_step([[], [math.nan]]) == {}


def test_an_evaluation_says_whether_real_play_is_what_was_learned_from(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path / "episodes", create=True)
    for episode in play_corridor(RandomPolicy(2), range(20), rows=4):
        store.append(episode)
    settings = DreamerConfig(rows=16, horizon=4, context=4)
    Dreamer(ExactModel(), store, settings, tmp_path).train(8, progress=False)  # type: ignore[arg-type]
    agent = load_agent(tmp_path / STATE, ExactModel())  # type: ignore[arg-type]
    again = WorldModelPolicy(ExactModel(), agent)  # type: ignore[arg-type]
    first, second = (
        evaluate("it", CORRIDOR, again, episodes=2, seed=3, num_envs=1, processes=False, progress=False).evaluation
        for agent.familiarity.mean in (agent.familiarity.mean, agent.familiarity.mean + 3)
    )
    agent.familiarity.mean -= 3
    assert second.familiarity["0-49"] > first.familiarity["0-49"] + 1  # nothing is left of the evaluation before
    with again.noting() as noted:
        play_corridor(again, range(4), rows=2)
    assert set(noted) >= set(range(4))
    kept = {seed: list(each) for seed, each in noted.items()}
    play_corridor(again, range(4, 8), rows=2)
    assert noted == kept  # other play is not noted

    def told(rows: int, shift: float = 0.0) -> Evaluation:
        agent.familiarity.mean += shift
        policy = WorldModelPolicy(Lenient(), agent)  # type: ignore[arg-type]
        judged = evaluate("it", CORRIDOR, policy, episodes=5, seed=3, num_envs=rows, processes=False, progress=False)
        return judged.evaluation

    one, three = told(1), told(3)
    assert one.familiarity == pytest.approx(three.familiarity)  # whatever rows see that play nothing any more
    assert set(one.familiarity) == {"0-49"}
    assert 0.5 < one.familiarity["0-49"] < 2
    assert Evaluation.from_dict(one.to_dict()).familiarity == one.familiarity
    assert told(1, shift=3.0).familiarity["0-49"] > 3
    random = evaluate("it", CORRIDOR, RandomPolicy(2), episodes=2, seed=3, num_envs=1, processes=False, progress=False)
    assert not random.evaluation.familiarity
    assert "familiarity" not in random.evaluation.to_dict()
    assert np.isfinite(list(one.familiarity.values())).all()
