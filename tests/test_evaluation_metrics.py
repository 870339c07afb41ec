"""Metrics against values computed by hand, or by whoever else computes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.linalg import sqrtm
from torch import Tensor, nn
from torchmetrics.functional.image import lpips as reference
from torchmetrics.functional.image import peak_signal_noise_ratio

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.evaluation.metrics.frames import AT_ONCE, compare, psnr, ssim
from lssvwm.worldmodel.evaluation.metrics.fvd import VideoFeatures, frechet_distance
from lssvwm.worldmodel.evaluation.metrics.perceptual import ALEX, SMALLEST, VGG, load_lpips, torch_features
from lssvwm.worldmodel.evaluation.protocols.figures import LONG, distances, points_of


def frames(*shape: int, seed: int = 0, size: tuple[int, int] = (16, 12)) -> Tensor:
    return torch.randint(256, (*shape, *size, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_psnr_by_hand() -> None:
    black = torch.zeros(3, 2, 2, 3, dtype=torch.uint8)
    other = black.clone()
    other[1, 0, 0, 0] = 12  # mean squared error 144 / 12 = 12
    other[2] = 255
    expected = [10 * np.log10(255**2 / 1e-3), 10 * np.log10(255**2 / 12), 0.0]
    np.testing.assert_allclose(psnr(other, black), expected, atol=1e-12)


def test_psnr_is_that_of_torchmetrics() -> None:
    one, other = frames(5), frames(5, seed=1)
    parts = [each.movedim(-1, 1).double() for each in (one, other)]
    theirs = peak_signal_noise_ratio(*parts, data_range=255.0, reduction="none", dim=(1, 2, 3))
    torch.testing.assert_close(psnr(one, other), theirs, rtol=1e-6, atol=0)


def test_ssim_of_flat_frames_by_hand() -> None:
    one, other = (torch.full((1, 8, 8, 3), value, dtype=torch.uint8) for value in (51, 102))
    low, high, constant = 0.2, 0.4, 0.01**2
    expected = (2 * low * high + constant) / (low**2 + high**2 + constant)  # no contrast: luminance alone
    assert ssim(one, other).item() == pytest.approx(expected, rel=1e-3)
    assert ssim(one, one).item() == pytest.approx(1)
    assert ssim(frames(1), 255 - frames(1)).item() < 0


def test_ssim_of_tiny_frames_is_refused() -> None:
    with pytest.raises(InputError, match="use 6x6 or more"):
        ssim(frames(1, size=(5, 9)), frames(1, size=(5, 9)))


def test_curves_are_per_frame_and_leave_out_what_does_not_exist() -> None:
    one, other = frames(3, 100), frames(3, 100, seed=1)
    assert one.shape[0] * one.shape[1] > AT_ONCE  # in several parts
    mask = torch.ones(3, 100, dtype=torch.bool)
    mask[1, 70:], mask[:, 99] = False, False
    curve = compare(one, other, mask)
    for values, metric in ((curve.psnr_by_clip, psnr), (curve.ssim_by_clip, ssim)):
        assert np.isnan(values).tolist() == (~mask).tolist()
        expected = metric(one[:, 69].contiguous(), other[:, 69].contiguous())
        np.testing.assert_allclose(values[:, 69], expected, rtol=1e-5)
    assert curve.psnr[70] == pytest.approx(curve.psnr_by_clip[[0, 2], 70].mean())
    assert curve.psnr[69] == pytest.approx(curve.psnr_by_clip[:, 69].mean())
    assert np.isnan(curve.psnr[99])


# Intervals


# LPIPS


def random_weights(layers: Any, seed: int = 0) -> nn.Sequential:
    network = torch_features(layers)
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            fan = max(1, parameter[0].numel())
            parameter.copy_(torch.randn(parameter.shape, generator=source) * (2 / fan) ** 0.5)
    return network


@pytest.mark.parametrize(("kind", "layers", "ending"), [("alex", ALEX, "safetensors"), ("vgg", VGG, "pth")])
def test_lpips_is_that_of_torchmetrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, layers: Any, ending: str
) -> None:
    network, path = random_weights(layers), tmp_path / f"weights.{ending}"
    state = {f"features.{name}": t for name, t in network.state_dict().items()} | {"classifier.1.bias": torch.zeros(3)}
    save_file(state, path) if ending == "safetensors" else torch.save(state, path)
    monkeypatch.setattr(reference, "_get_tv_model_features", lambda name, pretrained: network)
    theirs = reference._LPIPS(pretrained=True, net=kind, pnet_rand=True)
    one, other = frames(3, size=(40, 48)), frames(3, seed=1, size=(40, 48))
    one[2] = other[2]
    parts = [each.movedim(-1, 1).float() / 127.5 - 1 for each in (one, other)]
    found = load_lpips(path)(one, other)
    torch.testing.assert_close(found, theirs(*parts).flatten(), rtol=1e-4, atol=1e-6)
    assert found[2] == 0
    assert (found[:2] > 0).all()


def test_wrong_weight_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.pth does not exist"):
        load_lpips(tmp_path / "absent.pth")
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_text("no weights")
        with pytest.raises(InputError, match=f"{name} cannot be read"):
            load_lpips(tmp_path / name)
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(InputError, match="not a dictionary of tensors"):
        load_lpips(tmp_path / "list.pth")
    torch.save({"features.0.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"neither the convolutions of torchvision's AlexNet"):
        load_lpips(tmp_path / "other.pth")


@pytest.mark.parametrize(("kind", "layers"), [("alex", ALEX), ("vgg", VGG)])
def test_frames_too_small_for_the_network_are_refused(tmp_path: Path, kind: str, layers: Any) -> None:
    torch.save({f"features.{k}": v for k, v in random_weights(layers).state_dict().items()}, tmp_path / "weights.pth")
    distance, side = load_lpips(tmp_path / "weights.pth"), SMALLEST[kind]
    assert distance(*[frames(1, seed=s, size=(side, side)) for s in (0, 1)]).item() > 0
    with pytest.raises(InputError, match=f"frames of {side} pixels or more"):
        distance(*[frames(1, seed=s, size=(side - 1, side)) for s in (0, 1)])


# FVD


class Moments(nn.Module):
    """Called as I3D is; features: mean of each channel over all, and of the first frame's red."""

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        assert rescale and resize and return_features  # noqa: PT018
        assert x.shape[1] == 3
        return torch.cat([x.mean((2, 3, 4)), x[:, :1, 0].mean((2, 3))], 1)


@pytest.fixture
def moments(tmp_path: Path) -> Path:
    torch.jit.script(Moments()).save(str(tmp_path / "moments.pt"))
    return tmp_path / "moments.pt"


def test_video_features_take_videos_in_parts(moments: Path) -> None:
    videos = frames(5, 10)
    found = VideoFeatures(moments)(videos, rows=2)
    expected = torch.cat([videos.double().mean((1, 2, 3)), videos[:, 0, :, :, :1].double().mean((1, 2))], 1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_frechet_distance_of_one_feature_by_hand() -> None:
    one, other = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0], [9.0]])
    # means 1 and 5, deviations sqrt(2) and 4: (1 - 5)^2 + (sqrt(2) - 4)^2
    assert frechet_distance(one, other) == pytest.approx(16 + (2**0.5 - 4) ** 2)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("count", [4, 50])
def test_frechet_distance_is_that_of_the_matrix_root(count: int) -> None:
    source = np.random.default_rng(0)
    one, other = source.normal(size=(count, 6)), source.normal(size=(count + 3, 6)) @ source.normal(size=(6, 6)) + 1
    spread = [np.cov(each, rowvar=False) for each in (one, other)]
    root = sqrtm(spread[0] @ spread[1] + (1e-12 if count < 6 else 0) * np.eye(6)).real
    expected = ((one.mean(0) - other.mean(0)) ** 2).sum() + np.trace(spread[0] + spread[1] - 2 * root)
    assert frechet_distance(torch.tensor(one), torch.tensor(other)) == pytest.approx(expected, rel=1e-4)


def test_what_fvd_cannot_take_is_said(tmp_path: Path, moments: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        VideoFeatures(tmp_path / "absent.pt")
    (tmp_path / "text.pt").write_text("no network")
    with pytest.raises(InputError, match=r"text\.pt cannot be read"):
        VideoFeatures(tmp_path / "text.pt")
    torch.jit.script(nn.Flatten()).save(str(tmp_path / "flatten.pt"))
    with pytest.raises(InputError, match=r"flatten\.pt does not take videos"):
        VideoFeatures(tmp_path / "flatten.pt")(frames(2, 10))
    with pytest.raises(InputError, match="10 frames or more, these have 9"):
        VideoFeatures(moments)(frames(2, 9))
    with pytest.raises(InputError, match="at least 2 clips"):
        frechet_distance(torch.zeros(1, 3), torch.zeros(4, 3))


def test_long_curves_are_drawn_by_groups_whose_ends_double() -> None:
    assert [label for label, _, _ in distances(10)] == ["1", "2", "3-4", "5-8", "9-10"]
    assert [first for _, first, _ in distances(1000)][1:] == [last + 1 for _, _, last in distances(1000)][:-1]
    short, long = (np.arange(1.0, n + 1)[None] for n in (LONG, 128))
    at, values = points_of(short)
    assert at.tolist() == values[0].tolist() == short[0].tolist()
    at, values = points_of(long)
    assert values[0].tolist() == [1, 2, 3.5, 6.5, 12.5, 24.5, 48.5, 96.5]
    assert at[2] == pytest.approx(12**0.5)
