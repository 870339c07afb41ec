"""What a world model is made of: one frozen dataclass that travels with its checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self, get_args

from lssvwm.worldmodel.actions import ActionPart, ActionSpec
from lssvwm.worldmodel.common.errors import InputError, check_least, read_parts
from lssvwm.worldmodel.config_parts import MAMBA2, MixerConfig, SmallAutoencoder, check_sizes
from lssvwm.worldmodel.registry import MIXERS, TOKENIZERS, check_known
from lssvwm.worldmodel.told import ToldPart, read_told, size_of

Scan = Literal["blockwise", "whole-frame", "none"]
Target = Literal["x", "v", "eps"]
Weight = Literal["velocity", "x", "eps", "sigmoid"]
Forcing = Literal["teacher", "diffusion"]
TokenizerKind = Literal["patches", "autoencoder"]

RECKONED = 7
"""Numbers of a pose that is worked out: three of position, cosine and sine of heading and of pitch."""


def dividing(height: int, width: int, most: int) -> int:
    """The largest side of square patches, up to `most` pixels, that frames can be cut into."""
    side = math.gcd(height, width)
    return next(part for part in range(max(1, min(most, side)), 0, -1) if side % part == 0)


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
    """Discrete actions of the environment; 0 where they are continuous, or where the model is to be told none."""
    action_size: int = 0
    """Numbers of an action that is a vector; 0 where actions are discrete."""
    action_parts: tuple[ActionPart, ...] = ()
    """What those numbers are (`worldmodel.actions`): choices, or numbers between bounds. Empty: numbers of unknown
    bounds, of which nobody can make an environment."""
    pose_size: int = 0
    """Numbers of the agent's pose that every frame is conditioned on, as in the paper's Maze experiments; 0 for none.
    A model with a pose continues recorded videos. It is no environment: nothing says where an action leads."""
    told: tuple[ToldPart, ...] = ()
    """What else every frame is conditioned on (`worldmodel.told`): a goal in words, or a few numbers. A dream carries
    on what its last real frame was told."""
    path_integration: int = 0
    """Angles, each turned by every action by an amount that is learned, of which every token is told the sines and
    cosines: a pose that is worked out where none is told. 0 for none."""
    dead_reckoning: int = 0
    """Actions back on which a movement depends, in a model that works out its own pose (`layers.dead_reckoning`) from
    what actions did to that of the recordings it was trained on. 0 for none."""
    action_dropout: float = 0.0
    """Share of training frames whose action is withheld, so that the model also continues videos without actions."""

    tokenizer: TokenizerKind | str = "patches"
    """How frames become latents: principal components of patches, or an autoencoder of `diffusers`."""
    autoencoder: str = ""
    """Pretrained autoencoder: local folder or name on the Hugging Face hub, OWNER/NAME or OWNER/NAME/SUBFOLDER.
    Empty: a small one, trained here."""
    small_autoencoder: SmallAutoencoder = field(default_factory=SmallAutoencoder)
    architecture: str = ""
    """What the autoencoder is built from, as JSON. `WorldModel` fills it in, so a checkpoint needs nothing else."""
    patch: int = 14
    """Side of a token in pixels; must divide height and width."""
    latent_channels: int = 64
    """Numbers kept per token. With a pretrained autoencoder they follow from its latents, whatever stands here."""
    whitening: float = 0.0
    """For patches: 0 scales all of them alike, so the loss counts pixels; 1 gives each unit variance. More of it makes
    small things count that decide much: on MiniGrid, after 300 steps, keys and balls were dreamt right in 26 % of their
    cells with 0, in 45 % with 0.5 and in 62 % with 0.75."""

    dim: int = 128
    """Width of the tokens."""
    layers: int = 4
    """Layers, each of scan, attention and feed-forward."""
    heads: int = 4
    """Attention heads."""
    mlp_ratio: float = 4.0
    """Hidden width of the feed-forward part, in units of `dim`."""
    scan: Scan | str = "blockwise"
    """What the state-space scan runs over: tiles of the token grid, whole frames, or nothing."""
    tiles: tuple[tuple[int, int], ...] = ((2, 2), (1, 1))
    """Tile size (rows, columns of tokens) by layer, repeated over the layers. The paper mixes small and large."""
    window: int | None = 4
    """A frame attends to itself and the `window` frames before it (paper: k = 10); 0 leaves out attention, None
    attends to all frames before it, at a cost that grows with them."""
    chunk: int = 1
    """Frames that are denoised jointly and see each other in both directions. 1: an agent chooses every action. The
    paper's layout is chunk=5, window=5: the own chunk and the one before it."""

    state_size: int = 8
    """Entries of B and C: what a token writes its x under, and what it reads by. The scan's state has as many rows, or
    state_size (state_size + 1) / 2 with the quadratic feature map."""
    head_dim: int = 64
    """Channels per head of the scan."""
    expand: int = 2
    """Inner width of the scan, in units of `dim`."""
    conv: int = 4
    """Tokens that the scan's convolution reaches over."""

    mixer: MixerConfig = field(default_factory=MixerConfig)

    features: int = 256
    """Width of the features that heads and policies read."""
    reward_horizon: int = 8
    """Rewards predicted from one frame's features: its own and those of the frames after it (Dreamer 4, section 3.2:
    predicting several steps ahead makes the features carry what will matter). Only the first is used in dreams."""

    reward_weight: float = 1.0
    """Weight of the reward loss beside the diffusion loss; more where rewards are rare."""
    target: Target = "x"
    """What the network predicts: the clean frame, the velocity of the path, or the noise. One follows from another."""
    weight: Weight = "velocity"
    """Whose squared error the loss counts, whatever the target: that of the velocity, of the clean frame, of the
    noise, or of the noise times sigmoid(-1 - log SNR) as in DFoT."""
    forcing: Forcing = "teacher"
    """What a frame is denoised from in training. `teacher`: from a memory of clean frames, as in a dream; a noised copy
    of every frame reads the memory before it and is not remembered. `diffusion` (paper, section 3.2): one stream, in
    which the frames before are noised themselves, or belong to a clean prefix."""
    context_prob: float = 0.5
    """With `diffusion`: share of training clips whose prefix, longer than half, stays clean (paper, long-context
    training)."""
    context_noise: float = 0.0
    """Each clip enters memory noised to a level drawn up to this one, and declared to be: memory that is not quite to
    be trusted, as that of a long dream is. 0: as it was recorded. With `diffusion` where memory is carried on."""
    noise_mean: float = 0.3
    """Training noise levels are sigmoid(normal(noise_mean, noise_std))."""
    noise_std: float = 1.2
    """Spread of the training noise levels."""
    min_noise: float = 0.25
    """Floor of the noise level where the loss weight divides by it: velocity counts 1 / max(level, floor)^2."""
    shortcut: int = 0
    """Teach the model to dream a frame in one step: the number of its finest steps, a power of two such as 4. It then
    also dreams in 1, 2, ... steps, as well as two of half the size (Dreamer 4, section 3.2). 0: not taught."""
    shortcut_share: float = 0.25
    """Share of training clips that teach it; each costs two forward passes more."""

    def __post_init__(self) -> None:
        check_sizes(self)
        if not 0 <= self.whitening <= 1:
            raise InputError(f"whitening={self.whitening}: give a number from 0 to 1")
        check_known("scan", self.scan, (*get_args(Scan), *MIXERS), "MIXERS")
        check_known("tokenizer", self.tokenizer, (*get_args(TokenizerKind), *TOKENIZERS), "TOKENIZERS")
        if self.tokenizer != "autoencoder" and (self.autoencoder or self.architecture):
            raise InputError(f"autoencoder={self.autoencoder!r} is named but not used: add tokenizer='autoencoder'")
        if self.window is not None and self.window < 0:
            raise InputError(f"window={self.window}: give 0 or more frames, or None for all")
        counts = ("height", "width", "patch", "latent_channels", "dim", "layers", "heads", "chunk")
        check_least(self, 1, *counts, "state_size", "head_dim", "expand", "features", "reward_horizon")
        check_least(
            self,
            0,
            *("num_actions", "action_size", "pose_size", "path_integration", "dead_reckoning"),
            *("reward_weight", "noise_std"),
        )
        if self.num_actions and self.action_size:
            raise InputError(
                f"num_actions={self.num_actions} and action_size={self.action_size}: actions are either discrete or "
                "continuous, set one of them to 0"
            )
        paths = ("path_integration", "dead_reckoning")
        for path in paths:
            if getattr(self, path) and not (self.num_actions or self.action_size):
                raise InputError(f"{path}={getattr(self, path)}: a model that is told no actions has no path")
            if getattr(self, path) and self.action_dropout:
                raise InputError(
                    f"{path}={getattr(self, path)} and action_dropout={self.action_dropout}: where actions that are "
                    "withheld have led cannot be worked out, leave one of them out"
                )
        if self.dead_reckoning and (self.pose_size or self.path_integration):
            raise InputError(
                f"dead_reckoning={self.dead_reckoning}, pose_size={self.pose_size} and path_integration="
                f"{self.path_integration}: a pose is told or worked out, and in one way; leave out what is not meant"
            )
        if self.action_parts and ((parts := ActionSpec(self.action_parts)).count or parts.size != self.action_size):
            raise InputError(
                f"action_size={self.action_size}, but the parts have {parts.size} numbers ({parts}): make them equal, "
                "and give discrete actions as num_actions"
            )
        if len({part.key for part in self.told}) < len(self.told):
            raise InputError(f"told: {[part.key for part in self.told]} names a key twice")
        for name in ("action_dropout", "context_prob", "shortcut_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}={getattr(self, name)}: give a share from 0 to 1")
        if not 0 <= self.context_noise < 1:
            raise InputError(f"context_noise={self.context_noise}: give a noise level from 0 to below 1")
        if self.shortcut and (self.shortcut < 2 or self.shortcut.bit_count() != 1):
            raise InputError(f"shortcut={self.shortcut}: give a power of two, such as 4 or 8, or 0 for none")
        if self.shortcut and self.target == "eps":
            raise InputError(
                "target='eps' with shortcut: one step begins at pure noise, where the noise says nothing about the "
                "frame; use target='x' or 'v'"
            )
        if self.shortcut and self.weight not in ("velocity", "x"):
            raise InputError(
                f"weight={self.weight!r} with shortcut: it counts nothing at pure noise, where one step begins; use "
                "weight='velocity' or 'x'"
            )
        if not 0 < self.min_noise <= 1:
            raise InputError(f"min_noise={self.min_noise}: give a noise level above 0 and up to 1")
        if self.window is not None and self.window % self.chunk:
            raise InputError(f"window={self.window} must be whole chunks of chunk={self.chunk} frames")
        tiled = self.scan not in ("whole-frame", "none")
        if tiled and (not self.tiles or min(map(min, self.tiles)) < 1):
            raise InputError(f"tiles={self.tiles}: give at least one tile (rows, columns), such as tile (1, 1)")
        if self.height % self.patch or self.width % self.patch:
            fits = dividing(self.height, self.width, self.patch)
            raise InputError(
                f"patch={self.patch} does not divide the frame {self.height}x{self.width}: choose one that does, such "
                f"as {fits} (--model.patch {fits}), or frames of another --size"
            )
        rows, columns = self.grid
        for tile in self.tiles if tiled else ():
            if rows % tile[0] or columns % tile[1]:
                raise InputError(f"tile {tile} does not divide the {rows}x{columns} token grid; choose tiles that do")
        if self.dim % self.heads or (self.dim // self.heads) % 8:
            raise InputError(f"dim={self.dim} over heads={self.heads} must give head sizes that are multiples of 8")
        if (self.dim * self.expand) % self.head_dim:
            raise InputError(f"dim*expand={self.dim * self.expand} must be a multiple of head_dim={self.head_dim}")
        if self.conv < 2:
            raise InputError(f"conv={self.conv}: the scan's convolution needs a width of at least 2")
        if self.dim * self.mlp_ratio < 1:
            raise InputError(f"mlp_ratio={self.mlp_ratio}: give more, so that dim={self.dim} times it is at least 1")

    @property
    def told_size(self) -> int:
        """Numbers of what every frame is told."""
        return size_of(self.told)

    @property
    def known_pose(self) -> int:
        """Numbers of the pose that layers are given, told or worked out."""
        return RECKONED if self.dead_reckoning else self.pose_size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens in a frame, (H, W)."""
        return self.height // self.patch, self.width // self.patch

    @property
    def tokens(self) -> int:
        """Tokens per frame, S = H * W."""
        return self.grid[0] * self.grid[1]

    @property
    def usual_steps(self) -> int:
        """Denoising steps per dreamt frame where none are asked for."""
        return 1 if self.shortcut else 2

    @property
    def state_rows(self) -> int:
        """Rows of the scan's state."""
        n = self.state_size
        return n * (n + 1) // 2 if self.mixer.feature_map == "quadratic" else n

    def tile(self, layer: int) -> tuple[int, int]:
        """Tile of one layer; with `scan="whole-frame"` the whole grid."""
        return self.grid if self.scan == "whole-frame" else self.tiles[layer % len(self.tiles)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`. An unknown key is an `InputError` that names it."""
        _check_keys(cls, values, "world model config")
        values = {**OLDER, **values}
        values["action_parts"] = read_parts(ActionPart, values.get("action_parts", ()), "action_parts", "kind")
        values["told"] = read_told(values.get("told", ()))
        if isinstance(tiles := values.get("tiles"), list | tuple):
            values["tiles"] = tuple(tuple(tile) if isinstance(tile, list) else tile for tile in tiles)
        if isinstance(small := values.get("small_autoencoder"), Mapping):
            _check_keys(SmallAutoencoder, small, "small_autoencoder of the world model config")
            values["small_autoencoder"] = SmallAutoencoder(**small)
        if isinstance(mixer := values["mixer"], Mapping):
            _check_keys(MixerConfig, mixer, "mixer of the world model config")
            values["mixer"] = MixerConfig(**mixer)
        return cls(**values)


OLDER: Mapping[str, Any] = {"mixer": MAMBA2, "forcing": "diffusion"}
"""What a config that was saved before these could be chosen stands for."""


def _check_keys(
    kind: type[WorldModelConfig | SmallAutoencoder | MixerConfig], values: Mapping[str, Any], what: str
) -> None:
    if not isinstance(values, Mapping):
        raise InputError(f"{what} is {values!r:.80}: give an object of names and values")
    unknown = sorted(map(str, set(values) - {f.name for f in fields(kind)}))
    if unknown:
        raise InputError(f"{what} has unknown keys {unknown}; it was written by another version")
