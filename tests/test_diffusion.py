"""The noise path, how training draws it, and the steps that go back along it."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from lssvwm.worldmodel.common.rng import row_generators
from lssvwm.worldmodel.config import Target, Weight
from lssvwm.worldmodel.diffusion.noise import Draw, add_noise, clean_from, draw, euler_levels, euler_step, loss_weight
from worlds import assert_close, assert_same, generator, small_config


def latents(seed: int, *lead: int) -> Tensor:
    return torch.randn(*lead, 4, 3, generator=generator(seed), dtype=torch.float64)


def drawn(batch: int = 4000, frames: int = 24, seed: int = 0, p: float = 0.5, **settings: Any) -> Draw:
    config = small_config(forcing="diffusion", context_prob=p, **settings)
    return draw((batch, frames, 1, 1), generator(seed), torch.zeros(()), config)


def test_path_goes_from_the_frame_to_the_noise() -> None:
    clean, noise = latents(0, 2, 3), latents(1, 2, 3)
    assert_same(add_noise(clean, torch.zeros(2, 3, dtype=torch.float64), noise), clean)
    assert_same(add_noise(clean, torch.ones(2, 3, dtype=torch.float64), noise), noise)


def test_path_is_a_line_with_a_level_for_every_frame() -> None:
    clean, noise = latents(0, 2, 3), latents(1, 2, 3)
    level = torch.tensor([[0.0, 0.25, 0.5], [0.75, 1.0, 0.1]], dtype=torch.float64)
    noised = add_noise(clean, level, noise)
    for b in range(2):
        for t in range(3):
            value = float(level[b, t])
            assert_close(noised[b, t], (1 - value) * clean[b, t] + value * noise[b, t])


def test_clean_frames_are_a_prefix_of_level_zero() -> None:
    level, clean = drawn().level, drawn().clean
    assert bool((clean[:, 1:] <= clean[:, :-1]).all())  # once noised, noised to the end
    assert_same(level == 0, clean)
    assert bool((level[~clean] > 0).all())
    assert bool((level < 1).all())


@pytest.mark.parametrize("frames", [3, 4, 5, 8, 9, 24, 25])
def test_prefix_is_longer_than_half_and_leaves_something_to_predict(frames: int) -> None:
    lengths = drawn(frames=frames, p=1.0).clean.sum(1)
    assert set(lengths.tolist()) == set(range(frames // 2 + 1, frames))  # every allowed length, no other
    assert bool((lengths > frames / 2).all())


def test_prefix_lengths_are_uniform() -> None:
    counts = drawn(batch=11_000, p=1.0).clean.sum(1).bincount(minlength=24)[13:]
    assert len(counts) == 11
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 29.6  # chi-squared, 10 degrees of freedom, p = .001


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 1.0])
def test_prefix_comes_as_often_as_asked(p: float) -> None:
    share = float(drawn(p=p).clean.any(1).double().mean())
    assert abs(share - p) <= 4 * math.sqrt(p * (1 - p) / 4000)


@pytest.mark.parametrize(("mean", "std"), [(0.3, 1.2), (-1.0, 0.5)])
def test_levels_are_logit_normal_and_independent(mean: float, std: float) -> None:
    logits = torch.logit(drawn(noise_mean=mean, noise_std=std, p=0.0).level.double())
    assert abs(float(logits.mean()) - mean) < 0.02
    assert abs(float(logits.std()) / std - 1) < 0.02
    between = torch.corrcoef(logits.T) - torch.eye(24)
    assert float(between.abs().max()) < 0.08  # five standard deviations of no correlation


def test_the_generator_decides() -> None:
    assert_same(drawn(seed=3), drawn(seed=3))
    assert not torch.equal(drawn(seed=3).level, drawn(seed=4).level)


@pytest.mark.parametrize("frames", [1, 2])
def test_shortest_clips(frames: int) -> None:
    """They have no room for a prefix longer than half and a rest; still a frame is noised or clean, never both."""
    level, clean = drawn(frames=frames).level, drawn(frames=frames).clean
    assert level.shape == clean.shape == (4000, frames)
    assert_same(level == 0, clean)


def test_weight_turns_the_error_into_that_of_the_velocity() -> None:
    clean, noise, prediction = latents(0, 1, 5), latents(1, 1, 5), latents(2, 1, 5)
    level = torch.tensor([[0.26, 0.4, 0.6, 0.9, 1.0]], dtype=torch.float64)
    noised = add_noise(clean, level, noise)
    velocity, predicted = noise - clean, (noised - prediction) / level[..., None, None]
    weighted = (prediction - clean).square() * loss_weight(level, "velocity", 0.25)[..., None, None]
    assert_close(weighted, (predicted - velocity).square())


@pytest.mark.parametrize("target", get_args(Target))
@pytest.mark.parametrize("floor", [0.01, 0.3])
def test_clean_frame_follows_from_every_target(target: Target, floor: float) -> None:
    """From the true velocity or noise the true frame follows, and an error in it is scaled as the weight undoes."""
    clean, noise, wrong = latents(0, 1, 4), latents(1, 1, 4), latents(2, 1, 4)
    level = torch.tensor([[0.05, 0.4, 0.6, 0.9]], dtype=torch.float64)
    noised, at = add_noise(clean, level, noise), level[..., None, None]
    truth = {"x": clean, "v": noise - clean, "eps": noise}[target]
    assert_close(clean_from(truth, noised, level, target), clean)
    weight: Weight = {"x": "x", "v": "velocity", "eps": "eps"}[target]  # type: ignore[assignment]
    error = (clean_from(truth + wrong, noised, level, target) - clean).square()
    weighted = error * loss_weight(level, weight, floor)[..., None, None]
    divided = torch.where(at < floor, at / floor, 1).square() if target != "x" else torch.ones_like(at)
    assert_close(weighted, wrong.square() * divided)


def test_sigmoid_weight_by_hand() -> None:
    """Signal and noise alike at level 0.5: log SNR 0, so the weight is sigmoid(-1) of the noise's error."""
    level = torch.tensor([0.5], dtype=torch.float64)
    assert_close(loss_weight(level, "sigmoid", 0.1), torch.sigmoid(torch.tensor([-1.0], dtype=torch.float64)))
    falling = loss_weight(torch.linspace(0.05, 0.95, 10), "sigmoid", 0.01) / loss_weight(
        torch.linspace(0.05, 0.95, 10), "eps", 0.01
    )
    assert bool((falling.diff() > 0).all())  # clean frames, where the noise is hard to see, count less


def test_predicted_noise_never_divides_by_zero() -> None:
    assert float(drawn(target="eps", noise_mean=20.0, p=0.0).level.max()) == pytest.approx(0.98)
    assert euler_levels(4, "eps")[0] == pytest.approx(0.98)
    one = torch.ones(1, 1, dtype=torch.float64)
    assert bool(clean_from(latents(0, 1, 1), latents(1, 1, 1), one, "eps").isfinite().all())


@pytest.mark.parametrize("frames", [10, 15, 20])
def test_in_chunks_the_clean_prefix_is_whole_chunks(frames: int) -> None:
    lengths = set(drawn(frames=frames, p=1.0, chunk=5, window=5).clean.sum(1).tolist())
    assert lengths <= set(range(0, frames, 5)), "nothing is left to denoise"
    assert min(lengths) >= frames / 2


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_actions_are_withheld_as_often_as_asked(share: float) -> None:
    withheld = drawn(action_dropout=share).withheld
    assert abs(float(withheld.double().mean()) - share) <= 4 * math.sqrt(share * (1 - share) / withheld.numel())


def test_a_row_draws_alone_what_it_draws_in_company() -> None:
    config, like = small_config(action_dropout=0.5), torch.zeros((), dtype=torch.float64)
    cpu = torch.device("cpu")
    together = draw((4, 6, 2, 3), row_generators(7, 5, range(4), cpu), like, config)
    for row in range(4):
        alone = draw((1, 6, 2, 3), row_generators(7, 5, range(row, row + 1), cpu), like, config)
        for part in ("level", "clean", "noise", "withheld"):
            assert_same(getattr(alone, part)[0], getattr(together, part)[row])
    other = draw((4, 6, 2, 3), row_generators(7, 6, range(4), cpu), like, config)
    assert not torch.equal(other.noise, together.noise)
    assert len({float(n.sum()) for n in together.noise}) == 4


def test_weight_stops_at_the_floor() -> None:
    level = torch.tensor([0.0, 0.1, 0.25, 0.5, 1.0], dtype=torch.float64)
    assert_close(loss_weight(level, "velocity", 0.25), torch.tensor([16.0, 16.0, 16.0, 4.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50])
def test_levels_go_down_evenly(steps: int) -> None:
    levels = euler_levels(steps)
    assert len(levels) == steps + 1
    assert levels[0] == 1
    assert levels[-1] == 0
    assert [a - b for a, b in pairwise(levels)] == pytest.approx([1 / steps] * steps)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50])
def test_exact_predictor_lands_on_the_frame(steps: int) -> None:
    """And on the way there it stays on the path that training noises along."""
    clean, noise = latents(0, 2, 1), latents(1, 2, 1)
    x, levels = noise, euler_levels(steps)
    for level, target in pairwise(levels):
        x = euler_step(x, clean, level, target)
        assert_close(x, add_noise(clean, torch.full((2, 1), target, dtype=torch.float64), noise))
    assert_same(x, clean)


def test_a_step_follows_the_velocity() -> None:
    x, prediction = latents(0, 1, 1), latents(1, 1, 1)
    level, target = 0.7, 0.3
    assert_close(euler_step(x, prediction, level, target), x + (target - level) * (x - prediction) / level)


def test_last_prediction_alone_decides() -> None:
    x, last = latents(0, 1, 1), latents(1, 1, 1)
    assert_same(euler_step(x, last, 0.5, 0.0), last)
