"""Parts of a world model's configuration that are about one thing: its autoencoder, the mixer of its scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lssvwm.worldmodel.common.errors import InputError, check_fields, check_least

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FeatureMap = Literal["identity", "quadratic"]

LARGEST, DEEPEST = 2**24, 1000
"""No size or count is above these, no number of layers or blocks above the second: a config file that is merely wrong
must not fill the memory, nor build for hours."""


def check_sizes(config: DataclassInstance, prefix: str = "") -> None:
    """Raise InputError for fields of another type, and for sizes that no machine has."""
    check_fields(config, prefix)
    for name, value in vars(config).items():
        limit = DEEPEST if name in ("layers", "blocks") else LARGEST
        if isinstance(value, int) and value > limit:
            raise InputError(f"{prefix}{name}={value}: give at most {limit}")


@dataclass(frozen=True)
class SmallAutoencoder:
    """The autoencoder that is trained on the recorded frames where no pretrained one is named, and how it is trained.

    It keeps `latent_channels` numbers per token, as patches do.
    """

    downsampling: int = 4
    """Pixels along each side of what one latent stands for: a power of two that divides `patch`."""
    width: int = 32
    """Channels of its convolutions."""
    blocks: int = 1
    """Residual blocks at every resolution below that of the frame."""
    steps: int = 2000
    """Training steps."""
    batch: int = 16
    """Frames per step."""
    lr: float = 2e-3
    """Learning rate of AdamW; rises over the first steps and falls to zero over all of them."""

    def __post_init__(self) -> None:
        check_sizes(self, "small_autoencoder.")
        check_least(self, 1, "downsampling", "width", "blocks", "steps", "batch", prefix="small_autoencoder.")
        if self.downsampling < 2 or self.downsampling.bit_count() != 1:
            raise InputError(f"small_autoencoder.downsampling={self.downsampling}: give a power of two, such as 4 or 8")
        if self.lr <= 0:
            raise InputError(f"small_autoencoder.lr={self.lr}: give a number above 0")


@dataclass(frozen=True)
class MixerConfig:
    """What the scan makes of a token's B, C and x before its state reads and writes them, and how it begins.

    The defaults learn to recall several times sooner than `MAMBA2`; docs/world_model.md takes each of them away once.
    """

    feature_map: FeatureMap = "quadratic"
    """What becomes of B and C. `quadratic`: all products of two of their n entries, so that what they match by is
    squared and keys are told apart more sharply; the state then has n (n + 1) / 2 rows. `identity`: nothing."""
    shared_init: bool = True
    """B and C begin with the same weights, so that a token at first reads what tokens like it have written."""
    gate: bool = True
    """Multiply what was read by a SiLU of the token itself. Without it plain recall is learned sooner, and what counts
    only under a condition is often not learned at all (docs/world_model.md)."""
    value_silu: bool = False
    """Pass x, which is written, through a SiLU; B and C always are."""
    skip: float = 0.0
    """What D, by which a token's x passes by the state, begins with."""
    shortest: float = 64.0
    """Frames over which the shortest memory fades at first; in tokens times the size of the tile."""
    longest: float = 512.0
    """Likewise the longest; the heads' memories lie evenly in the logarithm between."""

    def __post_init__(self) -> None:
        check_sizes(self, "mixer.")
        if not 0 < self.shortest <= self.longest:
            raise InputError(
                f"mixer.shortest={self.shortest}, mixer.longest={self.longest}: give frames above 0, in this order"
            )


MAMBA2 = MixerConfig("identity", shared_init=False, gate=True, value_silu=True, skip=1.0, shortest=4.0)
"""The mixer of Mamba-2 (Dao & Gu 2024), as in the paper."""
