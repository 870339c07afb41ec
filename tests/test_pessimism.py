"""Rewards at their pessimistic end: against slow references, in an environment, and where a gamble must not pay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dreams import actions_of, dream_folder, roll, vec
from exact_worlds import LongCueWorld
from lssvwm.agents.dreamer.actor_critic import ActorCritic
from lssvwm.agents.dreamer.dreamer import Dreamer, DreamerConfig
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.model import Imagined, WorldModel
from lssvwm.worldmodel.sampling import Sampler, Sampling
from lssvwm.worldmodel.uncertainty import DRAWS, LEFT_OUT, MASKS, UncertaintyPenalty, _kept, derived
from worlds import TOLERANCE, generator, random_model, small_config

ACTIONS = torch.tensor([0, 2, 1])


@pytest.fixture(scope="module")
def model() -> WorldModel:
    return random_model(small_config(), 0)


def step(model: WorldModel) -> tuple[Sampler, Memory, Imagined, torch.Generator]:
    """A dreamt step of three rows, the memory from before it and the generator after it."""
    sampler, noise, memory = Sampler(model, Sampling(steps=2)), generator(0), model.empty(3)
    return sampler, memory, sampler.imagine(ACTIONS, memory, generator=noise), noise


def test_masks_are_thinned_reward_heads(model: WorldModel) -> None:
    sampler, memory, imagined, noise = step(model)
    assert imagined.inputs is not None
    found = UncertaintyPenalty(0.7).reward(sampler, ACTIONS, memory, imagined, noise)
    kept = _kept(imagined.inputs.shape[1], model.device)
    assert kept.shape[0] == MASKS
    assert float(kept.float().mean()) == pytest.approx(1 - LEFT_OUT, abs=0.1)
    for row in range(3):
        told = []
        for mask in kept:
            thinned = model.readout.standardise(imagined.inputs[row]) * mask * 2
            logits = model.reward_head(model.readout.mix(thinned))[: model.twohot.count]
            told.append(float(model.twohot.mean(logits).detach()))
        expected = float(imagined.reward[row]) - 0.7 * np.std(told, ddof=1)
        assert float(found[row]) == pytest.approx(expected, rel=1e-9)
        assert np.std(told) > 1e-3


def test_draws_are_the_step_dreamt_again(model: WorldModel) -> None:
    sampler, memory, imagined, noise = step(model)
    before, again = noise.get_state(), derived(noise)
    told = [imagined.reward]
    told += [model.imagine(ACTIONS, memory, steps=2, generator=again).reward for _ in range(DRAWS)]  # type: ignore[arg-type]
    found = UncertaintyPenalty(2.0, "draws").reward(sampler, ACTIONS, memory, imagined, noise)
    torch.testing.assert_close(found, imagined.reward - 2 * torch.stack(told).std(0), **TOLERANCE)
    assert torch.equal(noise.get_state(), before)
    assert bool((found < imagined.reward).all())


def test_none_is_the_reward_itself(model: WorldModel) -> None:
    sampler, memory, imagined, noise = step(model)
    assert UncertaintyPenalty().reward(sampler, ACTIONS, memory, imagined, noise) is imagined.reward


@pytest.mark.parametrize("over", ["masks", "draws"])
def test_a_dream_environment_shows_the_same_and_pays_less(tmp_path: Path, over: str) -> None:
    folder, actions = dream_folder(tmp_path), actions_of(3, 4)
    usual, lower, half = (
        roll(vec(folder, terminate="never", pessimism=k, pessimism_over=over), 5, actions) for k in (0.0, 1.0, 0.5)
    )
    assert np.array_equal(usual[0], lower[0])
    assert (lower[1] < usual[1]).all()
    np.testing.assert_allclose(usual[1] - half[1], (usual[1] - lower[1]) / 2, atol=1e-6)


class Gamble(LongCueWorld):
    """Action 0 pays 0.5 for sure. The others pay 1.2 or nothing, by the noise of the draw: 0.6 on average."""

    def imagine(self, actions: Tensor, memory: Memory, *, generator: Any = None, **options: Any) -> Imagined:  # type: ignore[override]
        step = super().imagine(actions, memory, **options)
        won = (torch.rand(len(actions), generator=generator) < 0.5).float()
        reward = torch.where(actions == 0, 0.5, 1.2 * won) * step.termination
        return Imagined(step.frame, reward, step.termination, step.features, step.memory)


def sure(agent: ActorCritic, world: LongCueWorld) -> float:
    asked = torch.stack([torch.arange(4), torch.full((4,), world.walk)], 1)
    with torch.no_grad():
        return float(agent.policy(world.look(asked)).log_prob(torch.zeros(4, dtype=torch.int64)).exp().mean())


def test_who_is_pessimistic_does_not_gamble(tmp_path: Path) -> None:
    world = Gamble(2)
    store = world.record(EpisodeStore(tmp_path / "episodes", create=True), 10)
    found = []
    for k in (0.0, 1.0):
        told = DreamerConfig(rows=48, horizon=4, pessimism=k, pessimism_over="draws", replay_value=0.0)
        subject = Dreamer(world, store, told, tmp_path / str(k))  # type: ignore[arg-type]
        subject.train(30, progress=False)
        found.append(sure(subject.agent, world))
    assert found[0] < 0.3
    assert found[1] > 0.8


def test_what_makes_no_sense_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"pessimism=-1\.0: give a number"):
        DreamerConfig(pessimism=-1.0)
    with pytest.raises(InputError, match="pessimism_over='luck': choose one of masks, draws"):
        DreamerConfig(pessimism_over="luck")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="precision='half'"):
        DreamerConfig(precision="half")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="pessimism_over='luck'"):
        vec(dream_folder(tmp_path), pessimism=1.0, pessimism_over="luck")
