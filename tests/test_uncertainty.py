"""What the model says of its own frames: by hand, row by row, and without any trace in the dream."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical

from dreams import actions_of, dream_folder, roll, vec
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.evaluation.calibration import (
    Watched,
    at_fixed_step,
    banded,
    calibrate,
    pearson,
    reliability,
    spearman,
    threshold,
    watch,
)
from lssvwm.worldmodel.evaluation.metrics.frames import compare
from lssvwm.worldmodel.evaluation.protocols.rollout import rollout
from lssvwm.worldmodel.evaluation.protocols.trials import Trial, window
from lssvwm.worldmodel.evaluation.uncertainty import Options, evaluate, table
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.model import Imagined, WorldModel
from lssvwm.worldmodel.reporting.resampling import ranks
from lssvwm.worldmodel.sampling import Sampler, Sampling
from lssvwm.worldmodel.uncertainty import derived, distance, head_entropy, other_draws, uncertainty
from worlds import assert_same, generator, random_actions, random_clips, random_frames, random_model, small_config

ROWS = 3


@pytest.fixture(scope="module")
def model() -> WorldModel:
    return random_model(small_config(), 0)


@torch.no_grad()
def seen(model: WorldModel, rows: int = ROWS, frames: int = 4) -> Memory:
    source = generator(1)
    clip = random_frames(model.config, rows, frames, source=source)
    return model.observe(clip, random_actions(model.config, rows, frames, source=source))[1]


def sources(rows: int = ROWS) -> list[torch.Generator]:
    return [generator(40 + row) for row in range(rows)]


@torch.no_grad()
def stepped(model: WorldModel, memory: Memory, noise: Any, active: Tensor | None = None) -> Imagined:
    return Sampler(model, Sampling(2)).imagine(ACTIONS[: memory.rows], memory, generator=noise, active=active)


ACTIONS = torch.tensor([0, 2, 1])


def test_entropy_of_the_heads(model: WorldModel) -> None:
    memory = seen(model)
    new = stepped(model, memory, sources())
    told = uncertainty("heads", Sampler(model, Sampling(2)), ACTIONS, memory, new, sources())
    with torch.no_grad():
        reward = Categorical(logits=model.reward_head(new.features)[:, : model.twohot.count]).entropy()
        ended = Bernoulli(new.termination).entropy()
    assert told.dtype == torch.float64
    torch.testing.assert_close(told, reward + ended)
    assert ended.min() > 1e-3
    assert len(set(told.tolist())) == ROWS


def test_certain_heads_have_no_entropy(model: WorldModel) -> None:
    sure = random_model(small_config(), 0)
    with torch.no_grad():
        for head, logit in ((sure.reward_head, 1e4), (sure.termination_head, -1e4)):
            head[-1].weight.zero_()
            head[-1].bias.zero_()[0] = logit
    assert torch.equal(head_entropy(sure, torch.zeros(2, 12)), torch.zeros(2, dtype=torch.float64))


def test_distance_by_hand() -> None:
    frames = torch.zeros(1, 2, 2, 1, 3, dtype=torch.uint8)
    frames[0, 0, 0] = 255  # half of the pixels of one draw, all off by the whole range: a quarter of everything
    assert distance(frames, torch.zeros(1, 1, 2, 1, 3, dtype=torch.uint8)).tolist() == [0.5]


def test_draws_are_the_step_denoised_from_other_noises(model: WorldModel) -> None:
    memory, noise = seen(model), sources()
    new = stepped(model, memory, noise)
    told = uncertainty("draws", Sampler(model, Sampling(2)), ACTIONS, memory, new, noise, draws=3)
    for row in range(ROWS):
        shape = (3, 1, model.config.tokens, model.config.latent_channels)
        drawn = torch.randn(shape, generator=derived(noise[row]), dtype=torch.float64)
        alone = memory.select(torch.tensor([row]))
        with torch.no_grad():
            frames = [model.denoised(each[None], ACTIONS[row, None, None], alone, steps=2)[0, 0] for each in drawn]
        errors = [(frame.double() - new.frame[row].double()).square().mean() / 255**2 for frame in frames]
        assert told[row] == pytest.approx(float(torch.stack(errors).mean().sqrt()))
        assert told[row] > 0


def test_draws_are_those_that_imagining_would_make(model: WorldModel) -> None:
    """Denoised from the noise that `imagine` draws, a frame is the one that `imagine` shows."""
    memory = seen(model)
    new = stepped(model, memory, sources())
    with torch.no_grad():
        again = other_draws(Sampler(model, Sampling(2)), ACTIONS, memory, sources(), draws=1)
    assert torch.equal(again[:, 0], new.frame)


def test_nothing_of_it_remains(model: WorldModel) -> None:
    memory, noise = seen(model), sources()
    before, states = memory.clone(), [each.get_state() for each in noise]
    new = stepped(model, memory, sources())
    for kind in ("heads", "draws"):
        uncertainty(kind, Sampler(model, Sampling(2)), ACTIONS, memory, new, noise)  # type: ignore[arg-type]
    assert_same(memory, before)
    assert all(torch.equal(each.get_state(), state) for each, state in zip(noise, states, strict=True))


def test_rows_are_independent_and_rows_that_stand_still_are_certain(model: WorldModel) -> None:
    memory, sampler = seen(model), Sampler(model, Sampling(2))
    noise, active = sources(), torch.tensor([True, False, True])
    new = stepped(model, memory, noise, active)
    for kind in ("heads", "draws"):
        told = uncertainty(kind, sampler, ACTIONS, memory, new, noise, active=active)  # type: ignore[arg-type]
        assert told[1] == 0
        for row in (0, 2):
            index, own = torch.tensor([row]), [generator(40 + row)]
            alone = memory.select(index)
            with torch.no_grad():
                single = sampler.imagine(ACTIONS[index], alone, generator=own)
            expected = uncertainty(kind, sampler, ACTIONS[index], alone, single, own)  # type: ignore[arg-type]
            torch.testing.assert_close(told[index], expected)
            assert told[row] > 0


def test_other_noise_at_every_step() -> None:
    source = generator(3)
    one = torch.rand(4, generator=derived(source))
    assert torch.equal(one, torch.rand(4, generator=derived(source)))
    torch.randn(16, generator=source)
    two = torch.rand(4, generator=derived(source))
    assert not torch.equal(one, two)
    assert not torch.equal(two, torch.rand(4, generator=source))


def test_one_generator_for_all_rows(model: WorldModel) -> None:
    memory, source = seen(model), generator(3)
    new = stepped(model, memory, source)
    told = uncertainty("draws", Sampler(model, Sampling(2)), ACTIONS, memory, new, source)
    assert told.shape == (ROWS,)
    assert len(set(told.tolist())) == ROWS


def test_a_model_that_leaves_nothing_to_chance_is_certain() -> None:
    sure = random_model(small_config(), 0)
    with torch.no_grad():
        sure.denoise[1].weight.zero_()  # the prediction of x_0 no longer depends on the noise
    memory, noise = seen(sure), sources()
    new = stepped(sure, memory, noise)
    assert uncertainty("draws", Sampler(sure, Sampling(2)), ACTIONS, memory, new, noise).tolist() == [0.0] * ROWS


def test_chunks_and_poses() -> None:
    model = random_model(small_config(chunk=2, window=2, pose_size=3), 0)
    sampler, memory, noise = Sampler(model, Sampling(2)), model.empty(ROWS), sources()
    actions, pose = ACTIONS[:, None].repeat(1, 2), torch.rand(ROWS, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        new = sampler.imagine(actions, memory, generator=noise, pose=pose)
    for kind in ("heads", "draws"):
        told = uncertainty(
            kind, sampler, actions, memory, new, noise, pose=pose, active=torch.tensor([True, True, False])
        )  # type: ignore[arg-type]
        assert told.shape == (ROWS, 2)
        assert (told > 0).all(1).tolist() == [True, True, False]


def test_what_cannot_be_told(model: WorldModel) -> None:
    memory, sampler = seen(model), Sampler(model, Sampling(2))
    new = stepped(model, memory, sources())
    with pytest.raises(InputError, match="uncertainty='guess': choose one of heads, draws"):
        uncertainty("guess", sampler, ACTIONS, memory, new, sources())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="draws=0"):
        uncertainty("draws", sampler, ACTIONS, memory, new, sources(), draws=0)


def test_a_dream_shows_the_same_with_and_without(tmp_path: Path) -> None:
    folder, actions = dream_folder(tmp_path), actions_of(3, 5)
    plain = roll(vec(folder), 2, actions)
    for kind in ("heads", "draws"):
        frames, rewards = roll(vec(folder, uncertainty=kind), 2, actions)
        assert np.array_equal(frames, plain[0])
        assert np.array_equal(rewards, plain[1])


def test_ranks_share_what_is_equal() -> None:
    assert ranks(np.array([[30.0, 10.0], [10.0, 20.0]])).tolist() == [[4.0, 1.5], [1.5, 3.0]]


def test_correlations_by_hand() -> None:
    score, error = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 8.0], [27.0, 64.0]])
    assert spearman(score, error) == pytest.approx(1)
    assert pearson(score, error) == pytest.approx(np.corrcoef([1, 2, 3, 4], [1, 8, 27, 64])[0, 1])
    assert pearson(score, np.ones((2, 2))) is None


def test_growing_together_is_no_knowledge() -> None:
    source = np.random.default_rng(0)
    steps = np.arange(20.0)
    score, error = (steps + source.normal(size=(200, 20)) for _ in range(2))
    assert spearman(score, error) > 0.9  # type: ignore[operator]
    assert abs(at_fixed_step(score, error)) < 0.1  # type: ignore[operator]
    assert at_fixed_step(score, score + source.normal(size=score.shape)) > 0.6  # type: ignore[operator]


def test_intervals_draw_whole_clips() -> None:
    """200 copies of the same frame are one observation, not 200."""
    source = np.random.default_rng(0)
    score, error = (source.normal(size=(10, 1)).repeat(200, 1) for _ in range(2))
    found = banded(pearson, score, error, seed=0)
    assert found["low"] < found["value"] < found["high"]  # type: ignore[operator]
    assert found["high"] - found["low"] > 0.5  # type: ignore[operator]


def test_reliability_by_hand() -> None:
    score, error = np.array([[0.1, 0.4], [0.2, 0.3]]), np.array([[0.0, 0.3], [0.2, 0.4]])
    low, high = reliability(score, error, error > 0.25, bins=2)
    assert low == {"frames": 2, "uncertainty": pytest.approx(0.15), "error": pytest.approx(0.02**0.5), "wrong": 0.0}
    assert high == {"frames": 2, "uncertainty": pytest.approx(0.35), "error": pytest.approx(0.125**0.5), "wrong": 1.0}


def test_thresholds_by_hand() -> None:
    score = np.array([[0.0, 3.0, 0.0, 9.0], [1.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]])
    error = np.array([[0.0, 0.5, 0.9, 0.9], [0.1, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1]])
    assert threshold(score, error, error > 0.4, cut=0.5) == {
        "cut": pytest.approx(1 / 3),
        "truncate_above": 2.0,  # the median of the highest of each: 9, 1, 2
        "wrong_at_cut": 1.0,
        "frames_kept": 0.75,
        "wrong_kept": 0.0,
        "error_kept": pytest.approx((0.08 / 9) ** 0.5),
    }
    everything = threshold(score, error, error > 0.4, cut=0.0)
    assert (everything["cut"], everything["wrong_at_cut"], everything["frames_kept"]) == (0, None, 1)


@pytest.mark.parametrize(("teacher", "chunk"), [(False, 1), (True, 1), (False, 2)])
def test_errors_are_those_of_the_same_dream(teacher: bool, chunk: int) -> None:
    model = random_model(small_config(chunk=chunk, window=2), 0)
    clips = random_clips(model.config, [10] * 5, 10, seed=2)
    trial = Trial(window(clips, 0, 4), window(clips, 4, 10), teacher)
    observed = watch(Sampler(model, Sampling(2)), trial, seed=3, rows=2)
    rolled = rollout(model, trial, steps=2, seed=3, rows=5)
    curve = compare(rolled.frames, trial.ahead.frames, trial.ahead.mask)
    np.testing.assert_allclose(observed.psnr, curve.psnr_by_clip)
    np.testing.assert_allclose(20 * np.log10(1 / observed.frame), curve.psnr_by_clip)
    np.testing.assert_allclose(observed.reward, (rolled.rewards - trial.ahead.rewards).abs())
    np.testing.assert_allclose(observed.termination, (rolled.terminations - trial.ahead.terminated.double()).abs())
    entropy = head_entropy(model, rolled.features).detach()
    np.testing.assert_allclose(observed.scores["heads"], entropy)
    assert observed.scores["draws"].shape == (5, 6)
    assert (observed.scores["draws"] > 0).all()


def test_judging_finds_what_is_there() -> None:
    source = np.random.default_rng(0)
    error = source.uniform(0.001, 0.1, size=(20, 8))
    other = source.uniform(size=error.shape)
    observed = Watched({"heads": other, "draws": error**2}, error, -20 * np.log10(error), other, other)
    knows, guesses = calibrate(observed, "draws"), calibrate(observed, "heads")
    assert knows["correlations"]["frame"]["spearman"]["value"] == pytest.approx(1)
    assert knows["wrong_frames"]["auroc"]["value"] == pytest.approx(1)
    assert knows["wrong_frames"]["auroc_so_far"]["value"] < 0.9
    assert knows["wrong_frames"]["share"] == pytest.approx((error > 10**-1.5).mean())
    assert abs(guesses["correlations"]["frame"]["spearman"]["value"]) < 0.3
    assert guesses["correlations"]["reward"]["at_fixed_step"]["value"] == pytest.approx(1)
    errors = [group["error"] for group in knows["reliability"]]
    assert errors == sorted(errors)


def test_the_command_leaves_figures_and_a_plot(tmp_path: Path) -> None:
    folder = dream_folder(tmp_path)
    options = Options(
        folder / "model", folder / "episodes", tmp_path / "out", context=2, horizon=3, clips=4, progress=False
    )
    results = evaluate(options)
    written = json.loads((tmp_path / "out" / "uncertainty.json").read_text())
    assert written["protocols"].keys() == {"reasoning", "one-step"}
    for kinds in written["protocols"].values():
        assert kinds.keys() == {"heads", "draws"}
        assert len(kinds["draws"]["thresholds"]) == 4
    assert (tmp_path / "out" / "uncertainty.png").read_bytes().startswith(b"\x89PNG")
    assert len(table(results["protocols"]).splitlines()) == 2 + 2 * 2 * 3
    with pytest.raises(InputError, match="--protocols cold-start"):
        evaluate(replace(options, protocols=("cold-start",)))
    with pytest.raises(InputError, match="--draws 0"):
        evaluate(replace(options, draws=0))
