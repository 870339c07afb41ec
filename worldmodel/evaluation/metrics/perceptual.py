"""LPIPS: distance of images in the layers of a network trained on photographs (Zhang et al. 2018).

The network's weights are not part of this project: a file of them is given. The linear layers on top come with
torchmetrics, and so do the details, which the tests compare with its implementation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from itertools import pairwise
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from lssvwm.worldmodel.common.errors import InputError, require

# Convolutions (inputs, outputs, kernel, stride, padding) and poolings (kernel, stride) up to the last one that is read;
# after every convolution a ReLU. `TAPS`: how many convolutions have been passed where the distance is taken.
ALEX: tuple[tuple[int, ...], ...] = (
    (3, 64, 11, 4, 2),
    (3, 2),
    (64, 192, 5, 1, 2),
    (3, 2),
    (192, 384, 3, 1, 1),
    (384, 256, 3, 1, 1),
    (256, 256, 3, 1, 1),
)
_VGG_WIDTHS = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512))
VGG: tuple[tuple[int, ...], ...] = tuple(
    layer
    for i, widths in enumerate(_VGG_WIDTHS)
    for layer in (*([(2, 2)] if i else []), *((a, b, 3, 1, 1) for a, b in pairwise(widths)))
)
TAPS = {"alex": (1, 2, 3, 4, 5), "vgg": (2, 4, 7, 10, 13)}
SMALLEST = {"alex": 35, "vgg": 16}
"""Side of a frame, in pixels, that is left with something after all poolings."""
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class Perceptual(nn.Module):
    """The distance, from the weights of one of the two networks."""

    def __init__(self, kind: str, weights: Mapping[str, Tensor], linear: Sequence[Tensor]) -> None:
        """`weights` are named as in torchvision (`features.0.weight`); `linear` (1, channels, 1, 1) per tap."""
        super().__init__()
        self.kind = kind
        self.features = torch_features(ALEX if kind == "alex" else VGG)
        self.features.load_state_dict({k.removeprefix("features."): v for k, v in weights.items()})
        self.linear = nn.ParameterList(linear)
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, frames: Tensor, truth: Tensor) -> Tensor:
        """Frames and truth (n, h, w, 3) uint8 -> distance (n,), 0 for equal frames."""
        if min(frames.shape[1:3]) < SMALLEST[self.kind]:
            raise InputError(
                f"LPIPS with {self.kind} needs frames of {SMALLEST[self.kind]} pixels or more, these are "
                f"{tuple(frames.shape[1:3])}: use the vgg16 weights, or leave out --lpips"
            )
        total = torch.zeros(len(frames), device=frames.device)
        for a, b, weight in zip(self.taps(frames), self.taps(truth), self.linear, strict=True):
            total += functional.conv2d((a - b).square(), weight).mean((1, 2, 3))
        return total

    def taps(self, frames: Tensor) -> list[Tensor]:
        """What the layers show of frames (n, h, w, 3) uint8, of unit length at every place."""
        x = frames.movedim(-1, 1).float() / 127.5 - 1
        shift, scale = (x.new_tensor(each)[:, None, None] for each in (SHIFT, SCALE))
        x, passed, shown = (x - shift) / scale, 0, []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                passed += 1
                if passed in TAPS[self.kind]:
                    shown.append(x / (1e-8 + x.square().sum(1, keepdim=True)).sqrt())
        return shown


def torch_features(layers: Sequence[tuple[int, ...]]) -> nn.Sequential:
    """The convolutional part of a network, its layers numbered as torchvision numbers them."""
    modules: list[nn.Module] = []
    for layer in layers:
        if len(layer) == 2:
            modules.append(nn.MaxPool2d(*layer))
        else:
            inputs, outputs, kernel, stride, padding = layer
            modules += [nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.ReLU()]
    return nn.Sequential(*modules)


def load_lpips(path: Path) -> Perceptual:
    """LPIPS on weights as torchvision publishes them, AlexNet (alexnet-owt-7be5be79.pth) or VGG16 (vgg16-397923af.pth).

    The file may be a state dictionary of torch, read without running any of its code, or safetensors. An `InputError`
    says what is wrong with it; without torchmetrics, a `MissingExtraError` how to get it.
    """
    weights = {name: t for name, t in _tensors(path).items() if name.startswith("features.")}
    for kind, layers in (("alex", ALEX), ("vgg", VGG)):
        own = {f"features.{name}": t.shape for name, t in torch_features(layers).state_dict().items()}
        if {name: t.shape for name, t in weights.items()} == own:
            require("torchmetrics", "evaluation", "perceptual distances")
            with as_file(files("torchmetrics.functional.image") / f"lpips_models/{kind}.pth") as file:
                trained = torch.load(file, map_location="cpu", weights_only=True)
            return Perceptual(kind, weights, [trained[f"lin{i}.model.1.weight"] for i in range(len(TAPS[kind]))])
    raise InputError(
        f"{path} holds neither the convolutions of torchvision's AlexNet nor those of its VGG16 (features.0.weight, "
        "...): save the state_dict() of one of them"
    )


def _tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path} does not exist: give the file with torchvision's AlexNet or VGG16 weights, or none")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, UnpicklingError) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}): it is no file of weights") from error
    if not isinstance(state, dict) or not all(isinstance(each, Tensor) for each in state.values()):
        raise InputError(f"{path} is not a dictionary of tensors: save the state_dict() of the network")
    return state
