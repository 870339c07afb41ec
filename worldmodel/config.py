"""What a world model is made of: one frozen dataclass that travels with its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from worldmodel.errors import InputError

Scan = Literal["blockwise", "whole-frame", "none"]


@dataclass(frozen=True)
class WorldModelConfig:
    """Architecture and diffusion settings of a `WorldModel`. Defaults are the working size for two CPU cores.

    Frames of `height` x `width` pixels are cut into patches of `patch` pixels: a grid of H x W tokens per frame.
    """

    height: int = 56
    """Rows of pixels in a frame."""
    width: int = 56
    """Columns of pixels in a frame."""
    num_actions: int = 3
    """Discrete actions of the environment."""

    patch: int = 14
    """Side of a square patch in pixels; must divide height and width."""
    latent_channels: int = 64
    """Numbers kept per patch by the tokenizer."""
    whitening: float = 0.0
    """0 scales all of them alike, so the loss counts pixels; 1 gives each unit variance. More of it makes small things
    count that decide much: on MiniGrid, after 300 steps, keys and balls were dreamt right in 26 % of their cells with
    0, in 45 % with 0.5 and in 62 % with 0.75."""

    dim: int = 128
    """Width of the tokens."""
    layers: int = 4
    """Layers, each of scan, attention and feed-forward."""
    heads: int = 4
    """Attention heads."""
    mlp_ratio: float = 4.0
    """Hidden width of the feed-forward part, in units of `dim`."""
    scan: Scan = "blockwise"
    """What the state-space scan runs over: tiles of the token grid, whole frames, or nothing."""
    tiles: tuple[tuple[int, int], ...] = ((2, 2), (1, 1))
    """Tile size (rows, columns of tokens) by layer, repeated over the layers. The paper mixes small and large."""
    window: int = 4
    """A frame attends to itself and the `window` frames before it; 0 leaves out attention (paper: k = 10)."""

    state_size: int = 32
    """State of the scan per channel."""
    head_dim: int = 64
    """Channels per head of the scan."""
    expand: int = 2
    """Inner width of the scan, in units of `dim`."""
    conv: int = 4
    """Tokens that the scan's convolution reaches over."""

    features: int = 256
    """Width of the features that heads and policies read."""
    reward_horizon: int = 8
    """Rewards predicted from one frame's features: its own and those of the frames after it (Dreamer 4, section 3.2:
    predicting several steps ahead makes the features carry what will matter). Only the first is used in dreams."""

    reward_weight: float = 1.0
    """Weight of the reward loss beside the diffusion loss; more where rewards are rare."""
    context_prob: float = 0.5
    """Share of training clips whose prefix, longer than half, stays clean (paper, long-context training)."""
    noise_mean: float = 0.3
    """Training noise levels are sigmoid(normal(noise_mean, noise_std))."""
    noise_std: float = 1.2
    """Spread of the training noise levels."""
    min_noise: float = 0.25
    """Floor of the noise level in the loss weight 1 / max(level, floor)^2, the weight of the velocity error."""

    def __post_init__(self) -> None:
        if self.scan not in get_args(Scan):
            raise InputError(f"scan={self.scan!r} is not one of {get_args(Scan)}")
        if not 0 <= self.whitening <= 1:
            raise InputError(f"whitening={self.whitening}: give a number from 0 to 1")
        if self.window < 0:
            raise InputError(f"window={self.window}: give 0 or more frames")
        counts = ("height", "width", "num_actions", "patch", "latent_channels", "dim", "layers", "heads")
        for name in (*counts, "state_size", "head_dim", "expand", "features", "reward_horizon"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: give at least 1")
        if self.scan == "blockwise" and (not self.tiles or min(map(min, self.tiles)) < 1):
            raise InputError(f"tiles={self.tiles}: give at least one tile (rows, columns), such as tile (1, 1)")
        if self.height % self.patch or self.width % self.patch:
            raise InputError(
                f"patch={self.patch} does not divide the frame {self.height}x{self.width}; choose a patch that does"
            )
        rows, columns = self.grid
        for tile in self.tiles if self.scan == "blockwise" else ():
            if rows % tile[0] or columns % tile[1]:
                raise InputError(f"tile {tile} does not divide the {rows}x{columns} token grid; choose tiles that do")
        if self.dim % self.heads or (self.dim // self.heads) % 8:
            raise InputError(f"dim={self.dim} over heads={self.heads} must give head sizes that are multiples of 8")
        if (self.dim * self.expand) % self.head_dim:
            raise InputError(f"dim*expand={self.dim * self.expand} must be a multiple of head_dim={self.head_dim}")
        if self.conv < 2:
            raise InputError(f"conv={self.conv}: the scan's convolution needs a width of at least 2")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens in a frame, (H, W)."""
        return self.height // self.patch, self.width // self.patch

    @property
    def tokens(self) -> int:
        """Tokens per frame, S = H * W."""
        return self.grid[0] * self.grid[1]

    def tile(self, layer: int) -> tuple[int, int]:
        """Tile of one layer; with `scan="whole-frame"` the whole grid."""
        return self.grid if self.scan == "whole-frame" else self.tiles[layer % len(self.tiles)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> WorldModelConfig:
        """Inverse of `to_dict`. An unknown key is an `InputError` that names it."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise InputError(f"world model config has unknown keys {unknown}; it was written by another version")
        values = dict(values)
        if "tiles" in values:
            values["tiles"] = tuple((int(a), int(b)) for a, b in values["tiles"])
        return cls(**values)
