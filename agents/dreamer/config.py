"""What the dreamer is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from lssvwm.worldmodel.common.errors import InputError, check_least
from lssvwm.worldmodel.sampling import Precision
from lssvwm.worldmodel.uncertainty import Ensemble, UncertaintyPenalty

ContextKind = Literal["stream", "window"]


@dataclass(frozen=True)
class DreamerConfig:
    """How a policy learns in dreams; docs/dreamer.md sets the defaults beside those of the papers."""

    rows: int = 64
    """Dreams at a time (DIAMOND: 32; DreamerV3: one from each of 1024 states)."""
    horizon: int = 15
    """Imagined steps per dream (DreamerV3, R2I, DIAMOND)."""
    contexts: ContextKind = "stream"
    """Where dreams begin. stream: in rows that read on through whole episodes and remember all of them (DreamerV3 goes
    on from stored states, `replay_context`); window: in windows read from empty memory, which know nothing older."""
    context: int = 16
    """Most real frames that a row reads before a dream; each batch draws a number from 1 to this."""
    episode_start: float = 0.5
    """Share of rows (with windows: of batches) that read the first frames of an episode, where real play begins."""
    steps: int | None = None
    """Denoising steps per imagined frame (DIAMOND: 3; Dreamer 4: 4). None: 2, or 1 of a world model with `shortcut`."""
    precision: Precision = "float32"
    """What dreams are computed in. bfloat16 is for GPUs; heads, actor and critic compute in float32 either way."""
    pessimism: float = 0.0
    """Rewards are lowered by so many standard deviations of what other predictions say, so that a policy gains little
    where the model does not know; 0: not at all."""
    pessimism_over: Ensemble = "masks"
    """Other predictions: masks of the reward head's inputs, which cost little, or whole draws of the step."""
    discount: float = 0.97
    """What a reward one step later is worth (DreamerV3, R2I, Dreamer 4: 0.997; DIAMOND: 0.985)."""
    lam: float = 0.95
    """Lambda of the returns: 0 trusts the critic after one step, 1 only at the end of a dream (all: 0.95)."""
    entropy: float = 1e-2
    """Weight of the entropy bonus, in units of normalised advantage whatever the size of rewards; with a target, the
    first weight. More than the papers use (DreamerV3: 3e-4; DIAMOND: 1e-3), for runs of a hundred batches instead of
    many thousands."""
    target_spread: float | None = None
    """Share of the actions that the policy should keep in play, in (0, 1): the entropy weight then adapts to it.
    None keeps the weight."""
    lr: float = 1e-3
    """Learning rate of actor and critic (DreamerV3: 4e-5; R2I on Memory Maze and DIAMOND: 1e-4)."""
    epochs: int = 4
    """Gradient steps per batch of dreams. Imagining costs far more than learning from it, so a batch is used several
    times, kept honest by clipped probability ratios (PPO); with 1 this is DreamerV3's plain policy gradient."""
    clip_ratio: float = 0.2
    """How far the probability of an action may move within a batch, as a ratio (PPO)."""
    reset_every: int = 0
    """Begin with new networks after every so many batches; 0 never does. What was learned first, in a world model that
    knew little, hinders what could be learned later (Nikishin et al. 2022, "The Primacy Bias"); give the batches of a
    round, and the data and the world model are all that outlasts it."""
    slow_target: bool = True
    """Values in returns, and what advantages are measured from, are those of the critic's slow copy; without, those of
    the critic itself (DreamerV3). The copy holds value back from starts that are several dreams away from a reward."""
    slow_weight: float = 1.0
    """Weight of the critic's pull towards its slow copy (DreamerV3, which makes a hundred times as many updates). With
    0, and without `slow_target`, value travels several times as fast: docs/dreamer.md."""
    clone_kl: float = 0.0
    """Weight of the divergence from what the policy was cloned from, in units of normalised advantage, as the entropy
    (Dreamer 4's prior; PMPO). Only for a policy that starts so; 0 lets it go where dreams lead."""
    clone_kl_half: int = 0
    """Batches after which that weight has halved, again and again; 0 keeps it."""
    replay_value: float = 0.3
    """Weight of the critic's loss on the real rewards of the frames that rows have read (DreamerV3, `repval_loss`); 0
    learns from dreams alone."""
    clip: float = 1.0
    """Largest gradient norm, of actor and critic each."""
    ended: float = 0.01
    """A dream that goes on with no more than this probability has ended, and is not followed further, which is time
    saved; 0 follows every dream to the horizon."""
    save_seconds: float = 60.0
    """Time between checkpoints."""
    hidden: int = 256
    """Width of the hidden layers of actor and critic (DreamerV3: 1024; R2I and the smallest of DreamerV3: 512, 256)."""
    layers: int = 2
    """Hidden layers of actor and critic (DreamerV3: 3)."""
    seed: int = 0
    """Which contexts and which dreams are drawn, and the first weights."""

    def __post_init__(self) -> None:
        check_least(self, 1, "rows", "horizon", "context", "steps", "epochs", "hidden", "layers")
        if self.contexts not in get_args(ContextKind):
            raise InputError(f"contexts={self.contexts!r}: choose stream or window")
        for name in ("discount", "lam", "episode_start"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}={getattr(self, name)}: give a number from 0 to 1")
        if self.entropy < 0 or (self.target_spread is not None and self.entropy == 0):
            raise InputError(f"entropy={self.entropy}: give a weight of at least 0, above 0 with target_spread")
        if self.target_spread is not None and not 0 < self.target_spread < 1:
            raise InputError(f"target_spread={self.target_spread}: give a share between 0 and 1")
        if self.precision not in get_args(Precision):
            raise InputError(f"precision={self.precision!r}: choose one of {', '.join(get_args(Precision))}")
        UncertaintyPenalty(self.pessimism, self.pessimism_over)
        if not 0 <= self.ended < 1:
            raise InputError(f"ended={self.ended}: give a probability from 0 to below 1")
        for name in ("replay_value", "clone_kl"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}={getattr(self, name)}: give a weight of at least 0")
        for name in ("reset_every", "clone_kl_half"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}={getattr(self, name)}: give a number of batches, or 0")
        if self.clone_kl and self.reset_every:
            raise InputError(f"reset_every={self.reset_every} would forget what clone_kl holds to: leave one out")
