"""Every tokenizer keeps the same promises: shapes, unit variance, the way back, one result per seed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from autoencoders import KINDS, coloured, config_of, scenes
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.tokenizer import AutoencoderTokenizer, PatchTokenizer, completed, make_tokenizer
from worlds import assert_same

PROMISES = pytest.mark.parametrize("kind", KINDS)


def fitted(config: WorldModelConfig, frames: Tensor, seed: int = 0) -> PatchTokenizer | AutoencoderTokenizer:
    tokenizer = make_tokenizer(config)
    tokenizer.fit(frames, seed=seed)
    return tokenizer


@PROMISES
def test_grid_and_channels_are_those_of_the_config(kind: str, tmp_path: Path) -> None:
    config = config_of(kind, tmp_path)
    tokenizer = make_tokenizer(config)
    assert tokenizer.grid == config.grid == (4, 2)
    assert tokenizer.channels == config.latent_channels == {"patches": 6, "small": 8, "pretrained": 12}[kind]


@PROMISES
@pytest.mark.parametrize("lead", [(), (3,), (2, 5), (2, 1, 3)])
def test_leading_dimensions(kind: str, lead: tuple[int, ...], tmp_path: Path) -> None:
    config = config_of(kind, tmp_path)
    tokenizer = fitted(config, coloured(30))
    frames = coloured(math.prod(lead), seed=1).reshape(*lead, 16, 8, 3)
    latents = tokenizer.encode(frames)
    assert latents.shape == (*lead, 8, config.latent_channels)
    assert not latents.requires_grad
    decoded = tokenizer.decode(latents)
    assert decoded.shape == frames.shape
    assert decoded.dtype == torch.uint8


@PROMISES
def test_latents_have_unit_variance(kind: str, tmp_path: Path) -> None:
    """Those of the fitted frames exactly, those of others about."""
    tokenizer = fitted(config_of(kind, tmp_path), scenes(300))
    seen, other = tokenizer.encode(scenes(300)), tokenizer.encode(scenes(300, seed=1))
    assert float(seen.mean()) == pytest.approx(0, abs=1e-4)
    assert float(seen.square().mean()) == pytest.approx(1, abs=1e-3)
    assert float(other.mean()) == pytest.approx(0, abs=0.1)
    assert float(other.var()) == pytest.approx(1, abs=0.2)


@PROMISES
def test_the_same_seed_fits_the_same(kind: str, tmp_path: Path) -> None:
    """Whatever the tokenizer began with, and without touching torch's own generator."""
    config, states = config_of(kind, tmp_path), []
    for own in (5, 6):
        with torch.random.fork_rng():
            torch.manual_seed(own)
            tokenizer = make_tokenizer(config)
            before = torch.get_rng_state()
            tokenizer.fit(coloured(30), seed=3)
            assert torch.equal(before, torch.get_rng_state())
        states.append(tokenizer.state_dict())
    assert_same(*states)


@PROMISES
def test_the_fit_is_part_of_the_weights(kind: str, tmp_path: Path) -> None:
    config, frames = config_of(kind, tmp_path), coloured(30)
    tokenizer, other = fitted(config, frames), make_tokenizer(config)
    other.load_state_dict(tokenizer.state_dict())
    assert bool(other.fitted)
    latents = tokenizer.encode(frames)
    assert_same(other.encode(frames), latents)
    assert_same(other.decode(latents), tokenizer.decode(latents))


@PROMISES
@pytest.mark.parametrize("value", [0, 255])
def test_a_still_world_does_not_divide_by_zero(kind: str, value: int, tmp_path: Path) -> None:
    still = torch.full((10, 16, 8, 3), value, dtype=torch.uint8)
    tokenizer = fitted(config_of(kind, tmp_path), still)
    assert bool(torch.isfinite(tokenizer.encode(still)).all())


@PROMISES
def test_not_fitted(kind: str, tmp_path: Path) -> None:
    tokenizer = make_tokenizer(config_of(kind, tmp_path))
    with pytest.raises(InputError, match=r"not fitted.*tokenizer\.fit"):
        tokenizer.encode(coloured(1))
    with pytest.raises(InputError, match=r"not fitted.*tokenizer\.fit"):
        tokenizer.decode(torch.zeros(1, 8, tokenizer.channels))


@PROMISES
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2, 8, 16, 3), torch.uint8), ((2, 3, 16, 8), torch.uint8), ((2, 16, 8, 3), torch.float32)],
)
def test_wrong_frames(kind: str, shape: tuple[int, ...], dtype: torch.dtype, tmp_path: Path) -> None:
    config = config_of(kind, tmp_path)
    for use in (fitted(config, coloured(30)).encode, make_tokenizer(config).fit):
        with pytest.raises(InputError, match=r"must be uint8 \(\.\.\., 16, 8, 3\)"):
            use(torch.zeros(shape, dtype=dtype))


@PROMISES
def test_a_completed_config_stays_as_it_is_through_json(kind: str, tmp_path: Path) -> None:
    config = config_of(kind, tmp_path)
    assert completed(config) is config
    assert WorldModelConfig.from_dict(config.to_dict()) == config
