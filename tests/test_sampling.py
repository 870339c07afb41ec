"""Compute against quality: what the profiles change, and how one is chosen."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from dreams import dream_folder, vec
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.layers.runtime import Runtime
from lssvwm.worldmodel.model import WorldModel
from lssvwm.worldmodel.sampling import PROFILES, Sampler, Sampling, choose, fastest_enough, main, measure, named
from worlds import assert_close, assert_same, generator, random_actions, random_frames, random_model, small_config


@pytest.fixture(scope="module")
def model() -> WorldModel:
    return random_model(small_config(), 0)


def begun(model: WorldModel) -> Any:
    source = generator(1)
    frames = random_frames(model.config, 2, 6, source=source)
    with torch.no_grad():
        return model.observe(frames, random_actions(model.config, 2, 6, source=source))[1]


def sampled(model: WorldModel, sampling: Sampling) -> Any:
    with torch.no_grad():
        actions = torch.tensor([1, 2])
        return Sampler(model, sampling).imagine(actions, begun(model), generator=generator(3))


def test_settings_reach_the_model(model: WorldModel) -> None:
    """Steps and trust as given to `imagine`; the window as when the model uses it; and the model is left as it was."""
    actions, memory = torch.tensor([1, 2]), begun(model)
    with torch.no_grad():
        expected = model.imagine(actions, memory, steps=3, generator=generator(3), stabilise=0.1)
        assert_same(sampled(model, Sampling(steps=3, stabilise=0.1)).memory, expected.memory)
        model.backbone.use(Runtime(window=1))
        narrow = model.imagine(actions, memory, steps=3, generator=generator(3))
        model.backbone.use(Runtime())
    found = sampled(model, Sampling(steps=3, window=1))
    assert_close(found.features, narrow.features)
    assert not torch.equal(found.features, sampled(model, Sampling(steps=3)).features)
    assert model.backbone.runtime == Runtime()


def test_half_precision_is_near() -> None:
    model = random_model(small_config(), 0).float()
    full, half = (sampled(model, Sampling(precision=p)).features.float() for p in ("float32", "bfloat16"))
    assert 0 < float((full - half).abs().max()) < 0.5


@pytest.mark.parametrize(
    ("config", "window"),
    [({}, 1), ({"window": 0}, None), ({"window": None}, 1), ({"chunk": 2, "window": 4}, 2)],
)
def test_profiles_fit_the_model(config: dict[str, Any], window: int | None) -> None:
    """Their windows are whole chunks, and none longer than the model's."""
    model = random_model(small_config(**config), 0)
    assert named("realtime", model).window == window
    assert named("quality", model).window is None
    for name in PROFILES:
        assert measure(model, name, rows=1, calls=1).fps > 0


def test_best_profile_that_keeps_up(model: WorldModel) -> None:
    """Anything keeps up with almost nothing, so the best one is taken; nothing keeps up with a million."""
    assert fastest_enough(model, 1e-3, rows=2).name == next(iter(PROFILES)) == "quality"
    with pytest.raises(InputError, match=r"2 dreams at 1000000.0 frames per second.*quality \d.*realtime \d.*lower"):
        fastest_enough(model, 1e6, rows=2)
    with pytest.raises(InputError, match="target_fps=0"):
        fastest_enough(model, 0, rows=1)


def test_the_first_profile_fast_enough(model: WorldModel) -> None:
    """A rate between those of the best and the fastest profile is met by one that is not the best."""
    quality, realtime = (measure(model, name, 1).fps for name in ("quality", "realtime"))
    assert realtime > 1.5 * quality  # 9 passes against 2
    assert fastest_enough(model, (quality * realtime) ** 0.5, rows=1).name != "quality"


def test_choose(model: WorldModel, caplog: pytest.LogCaptureFixture) -> None:
    assert choose(model, 1) == Sampling(steps=2)
    assert choose(model, 1, steps=5) == Sampling(steps=5)
    assert choose(model, 1, profile="realtime") == named("realtime", model)
    with caplog.at_level(logging.INFO, "lssvwm.worldmodel.sampling"):
        assert choose(model, 1, target_fps=1e-3).steps == 8
    assert "sampling profile quality" in caplog.text
    with pytest.raises(InputError, match="give one of them"):
        choose(model, 1, steps=2, profile="quality")
    with pytest.raises(InputError, match="unknown sampling profile 'best': choose one of quality, balanced, realtime"):
        choose(model, 1, profile="best")


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"steps": 1.5}, {"precision": "int8"}, {"stabilise": float("nan")}], ids=str
)
def test_settings_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_dreams_by_profile(tmp_path: Path) -> None:
    folder = dream_folder(tmp_path)
    assert vec(folder, profile="quality").unwrapped.sampler.sampling.steps == 8
    assert vec(folder, target_fps=1e-3).unwrapped.sampler.sampling.steps == 8
    assert vec(folder).unwrapped.sampler.sampling == Sampling(steps=2)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(dream_folder(tmp_path) / "model"), "--target-fps", "0.001"])
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == [*PROFILES, "chosen:"]
    assert said[-1] == "chosen: quality"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--device", "abacus"), "--device abacus: use cpu, cuda or auto"),
        (("--device", "meta"), "--device meta: use cpu, cuda or auto"),
        (("--device", "cuda:99"), "--device cuda:99: this machine has no such CUDA device"),
        (("--rows", "0"), "rows=0: give at least 1"),
        (("--rows", "-1"), "rows=-1: give at least 1"),
    ],
    ids=" ".join,
)
def test_commands_that_cannot_be(tmp_path: Path, options: tuple[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        main([str(dream_folder(tmp_path) / "model"), *options])
