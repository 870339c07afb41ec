"""FVD: distance of two sets of videos in the features of a network for videos (Unterthiner et al. 2018)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lssvwm.worldmodel.common.errors import InputError

SHORTEST = 10
"""Frames that I3D needs at least."""


class VideoFeatures:
    """The I3D network of StyleGAN-V (`i3d_torchscript.pt`, the usual file), or one with the same call.

    TorchScript is a program, if one without access to files and network: take the file from where you trust it.
    """

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        """Load the file. An `InputError` where it is missing or no TorchScript."""
        if not path.is_file():
            raise InputError(f"{path} does not exist: give the TorchScript file of I3D (i3d_torchscript.pt), or none")
        try:
            self.network = torch.jit.load(str(path), map_location=device).eval()
        except RuntimeError as error:
            raise InputError(f"{path} cannot be read: it is no TorchScript file, such as i3d_torchscript.pt") from error
        self.path, self.device = path, device

    @torch.no_grad()
    def __call__(self, videos: Tensor, rows: int = 8) -> Tensor:
        """Videos (B, T, h, w, 3) uint8 -> features (B, F), float64, on the CPU."""
        if videos.shape[1] < SHORTEST:
            raise InputError(f"FVD needs videos of {SHORTEST} frames or more, these have {videos.shape[1]}")
        parts = []
        for part in videos.split(rows):
            moved = part.to(self.device).movedim(-1, 1).float()
            try:
                found = self.network(moved, rescale=True, resize=True, return_features=True)
            except RuntimeError as error:
                first = str(error).strip().splitlines()[0]
                raise InputError(
                    f"{self.path} does not take videos (B, 3, T, h, w) with rescale, resize and return_features as "
                    f"i3d_torchscript.pt does ({first})"
                ) from error
            parts.append(found.double().cpu())
        return torch.cat(parts)


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Distance of the Gaussians with the means and covariances of features (n, F) and (m, F), at least 2 of each.

    |m1 - m2|^2 + trace(C1 + C2 - 2 (C1 C2)^(1/2)). Fewer samples than features bias it upwards: compare figures of the
    same number of clips only.
    """
    if min(len(first), len(second)) < 2:
        raise InputError(f"FVD needs at least 2 clips, better hundreds: {len(first)} and {len(second)} given")
    means, roots = [], []
    for features in (first.double(), second.double()):
        mean = features.mean(0)
        means.append(mean)
        roots.append((features - mean) / (len(features) - 1) ** 0.5)  # C = root^T root
    # The eigenvalues of C1 C2 are the squared singular values of root1 root2^T.
    overlap = torch.linalg.matrix_norm(roots[0] @ roots[1].T, "nuc")
    spread = sum(root.square().sum() for root in roots)
    return float((means[0] - means[1]).square().sum() + spread - 2 * overlap)
