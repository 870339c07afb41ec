"""Patches to principal components and back, held against a singular value decomposition by numpy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.tokenizer import PatchTokenizer
from worlds import assert_close, assert_same, generator, random_frames, small_config

PATCH, ROWS, COLUMNS, PIXELS = 4, 4, 2, 48  # frames of 16 x 8


def fitted(channels: int, frames: Tensor) -> PatchTokenizer:
    tokenizer = PatchTokenizer(small_config(latent_channels=channels)).double()
    tokenizer.fit(frames)
    return tokenizer


def smooth(count: int, seed: int = 0) -> Tensor:
    """Frames of soft waves, whose patches have a spectrum that falls."""
    source = generator(seed)
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(8.0), indexing="ij")
    waves = torch.randn(count, 6, 3, generator=source) * 0.3
    speed, phase = torch.rand(count, 6, 2, generator=source), 6 * torch.rand(count, 6, generator=source)
    angle = speed[..., 0, None, None] * y + speed[..., 1, None, None] * x + phase[..., None, None]
    value = torch.einsum("nkhw,nkc->nhwc", angle.sin(), waves)
    return ((value + 1) * 127.5).clamp(0, 255).to(torch.uint8)


def patches_of(frames: Tensor) -> NDArray[np.float64]:
    """(N, S, pixels) in [-1, 1], cut out one by one."""
    cut = [
        frames[:, r * PATCH : (r + 1) * PATCH, c * PATCH : (c + 1) * PATCH].flatten(1)
        for r in range(ROWS)
        for c in range(COLUMNS)
    ]
    return torch.stack(cut, 1).numpy().astype(np.float64) / 127.5 - 1


def psnr(a: Tensor, b: Tensor) -> float:
    return float(20 * torch.log10(255 / (a.double() - b.double()).square().mean().sqrt()))


@pytest.mark.parametrize("kind", ["smooth", "noise"])
def test_all_components_reconstruct_exactly(kind: str) -> None:
    """Also frames that the fit has not seen, and pixels at 0 and 255."""
    noise = torch.randint(0, 256, (80, 16, 8, 3), generator=generator(0), dtype=torch.uint8)
    tokenizer = fitted(PIXELS, smooth(80) if kind == "smooth" else noise)
    assert_same(tokenizer.decode(tokenizer.encode(noise)), noise)


def test_more_channels_are_better() -> None:
    train, test = smooth(200), smooth(50, seed=1)
    found = []
    for channels in (1, 3, 6, 12, 24, 48):
        tokenizer = fitted(channels, train)
        found.append(psnr(tokenizer.decode(tokenizer.encode(test)), test))
    assert all(better > worse + 1 for worse, better in pairwise(found)), found
    assert found[3] > 25


def test_fit_equals_singular_value_decomposition() -> None:
    channels, frames = 10, random_frames(small_config(), 120, source=generator(0))
    tokenizer = fitted(channels, frames)
    patches = patches_of(frames).reshape(-1, PIXELS)
    _, singular, vectors = np.linalg.svd(patches - patches.mean(0), full_matrices=False)
    variance = singular**2 / len(patches)
    assert_close(tokenizer.mean, torch.from_numpy(patches.mean(0)))
    assert_close(tokenizer.scale, torch.full((channels,), np.sqrt(variance[:channels].mean()), dtype=torch.float64))
    along = (torch.from_numpy(vectors[:channels]) * tokenizer.basis.T).sum(1)  # each is one direction, up to its sign
    assert_close(along.abs(), torch.ones_like(along))


def test_latents_of_the_fitted_frames_have_unit_variance() -> None:
    frames = random_frames(small_config(), 120, source=generator(0))
    latents = fitted(10, frames).encode(frames)
    assert latents.shape == (120, ROWS * COLUMNS, 10)
    assert_close(latents.mean((0, 1)), torch.zeros(10, dtype=torch.float64))
    assert_close(latents.square().mean(), torch.tensor(1.0, dtype=torch.float64))
    each = latents.square().mean((0, 1))
    assert bool((each.diff() <= 1e-9).all())  # leading components first


def test_sign_of_components_is_settled() -> None:
    basis = fitted(10, random_frames(small_config(), 120, source=generator(0))).basis
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    assert bool((largest > 0).all())


def test_tokens_are_patches_row_by_row() -> None:
    """One white patch on black changes one token: row 2, column 1."""
    frames = smooth(60)
    tokenizer = fitted(6, frames)
    black = torch.zeros(16, 8, 3, dtype=torch.uint8)
    white = black.clone()
    white[8:12, 4:8] = 255
    changed = (tokenizer.encode(white[None]) != tokenizer.encode(black[None]))[0].any(-1)
    assert changed.nonzero()[:, 0].tolist() == [2 * COLUMNS + 1]


def test_pixels_are_rounded_and_clipped() -> None:
    """Decoded frames are whole pixels; what is encoded from them decodes to nearly the same frame again."""
    tokenizer = fitted(6, smooth(100))
    latents = 5 * torch.randn(20, ROWS * COLUMNS, 6, generator=generator(1), dtype=torch.float64)
    frames = tokenizer.decode(latents)
    values = latents * tokenizer.scale @ tokenizer.basis.T + tokenizer.mean
    expected = ((values + 1) * 127.5).numpy().round().clip(0, 255)
    assert np.array_equal(np.rint((patches_of(frames) + 1) * 127.5), expected)
    assert {0, 255} <= set(frames.flatten().tolist())


def test_a_frame_on_the_grid_of_pixels_stays_there() -> None:
    """Small latents decode without clipping; rounding then moves the latents by less than a pixel's worth."""
    tokenizer = fitted(6, smooth(100))
    latents = 0.3 * torch.randn(20, ROWS * COLUMNS, 6, generator=generator(1), dtype=torch.float64)
    frames = tokenizer.decode(latents)
    again = tokenizer.encode(frames)
    limit = 0.5 / 127.5 * PIXELS**0.5 / float(tokenizer.scale[0])
    assert 0 < float((again - latents).norm(dim=-1).max()) <= limit
    assert int((tokenizer.decode(again).int() - frames.int()).abs().max()) <= 2


@pytest.mark.parametrize("lead", [(), (3,), (2, 5), (2, 1, 3)])
def test_leading_dimensions(lead: tuple[int, ...]) -> None:
    tokenizer = fitted(6, smooth(60))
    frames = random_frames(small_config(), *lead, source=generator(2))
    latents = tokenizer.encode(frames)
    assert latents.shape == (*lead, ROWS * COLUMNS, 6)
    flat = torch.stack([tokenizer.encode(frame[None])[0] for frame in frames.reshape(-1, 16, 8, 3)])
    assert_close(latents.reshape(flat.shape), flat)
    decoded = tokenizer.decode(latents)
    assert decoded.shape == frames.shape
    assert decoded.dtype == torch.uint8
    assert_same(decoded.reshape(-1, 16, 8, 3), tokenizer.decode(flat))


def test_the_fit_is_part_of_the_weights() -> None:
    tokenizer = fitted(6, smooth(60))
    other = PatchTokenizer(small_config()).double()
    other.load_state_dict(tokenizer.state_dict())
    frames = random_frames(small_config(), 3, source=generator(2))
    assert_same(other.encode(frames), tokenizer.encode(frames))


def test_no_frames_are_no_latents() -> None:
    tokenizer = fitted(10, smooth(64))
    latents = tokenizer.encode(torch.zeros(2, 0, 16, 8, 3, dtype=torch.uint8))
    assert latents.shape == (2, 0, tokenizer.grid[0] * tokenizer.grid[1], 10)
    assert tokenizer.decode(latents).shape == (2, 0, 16, 8, 3)


@pytest.mark.parametrize("value", [0, 100, 255])
def test_one_colour_has_no_variance(value: int) -> None:
    """A still world must not divide by zero."""
    still = torch.full((10, 16, 8, 3), value, dtype=torch.uint8)
    tokenizer = fitted(6, still)
    assert bool(torch.isfinite(tokenizer.encode(still)).all())
    assert_same(tokenizer.decode(tokenizer.encode(still)), still)


def test_not_fitted() -> None:
    tokenizer = PatchTokenizer(small_config())
    with pytest.raises(InputError, match=r"not fitted.*tokenizer\.fit"):
        tokenizer.encode(torch.zeros(1, 16, 8, 3, dtype=torch.uint8))
    with pytest.raises(InputError, match=r"not fitted.*tokenizer\.fit"):
        tokenizer.decode(torch.zeros(1, 8, 6))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((2, 8, 16, 3), torch.uint8),
        ((2, 16, 8, 4), torch.uint8),
        ((2, 3, 16, 8), torch.uint8),
        ((2, 16, 8, 3), torch.float32),
        ((2, 16, 8, 3), torch.int64),
    ],
)
def test_wrong_frames(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    frames = torch.zeros(shape, dtype=dtype)
    for use in (fitted(6, smooth(60)).encode, PatchTokenizer(small_config()).fit):
        with pytest.raises(InputError, match=r"must be uint8 \(\.\.\., 16, 8, 3\)"):
            use(frames)


def test_more_channels_than_pixels() -> None:
    with pytest.raises(InputError, match="latent_channels=49 exceeds the 48"):
        PatchTokenizer(small_config(latent_channels=49))


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_whitening_evens_out_what_is_seldom(power: float) -> None:
    """Deviations to the power 1 - whitening, of unit variance on average; what is decoded stays the same."""
    frames = smooth(200)
    plain = fitted(10, frames)
    tokenizer = PatchTokenizer(small_config(latent_channels=10, whitening=power)).double()
    tokenizer.fit(frames)
    latents, reference = tokenizer.encode(frames), plain.encode(frames)
    deviation, raw = (v.flatten(0, 1).std(0, unbiased=False) for v in (latents, reference))
    assert_close(deviation.square().mean(), torch.ones((), dtype=torch.float64))
    assert_close(deviation / deviation[0], (raw / raw[0]) ** (1 - power))
    assert_same(tokenizer.decode(latents), plain.decode(reference))
