"""How a world model is trained: one frozen dataclass, and what of it a training that goes on may change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from lssvwm.worldmodel.common.errors import InputError, check_fields, check_least
from lssvwm.worldmodel.training.curriculum import Curriculum

Precision = Literal["float32", "bfloat16"]

MAY_CHANGE: tuple[str, ...] = ("save_seconds", "accumulate", "checkpoint_layers", "compile", "workers")
"""Settings that say how training is carried out, not what it computes: another machine may need others."""


@dataclass(frozen=True)
class TrainingConfig:
    """How a world model is trained. Muon for the matrices of the layers and AdamW for the rest was measured one decibel
    better than AdamW alone at equal time (width 128, 4 layers).
    """

    batch: int = 4
    """Clips per step, those of all processes together."""
    length: int = 24
    """Frames per clip: how far back gradients reach."""
    curriculum: str = ""
    """Lengths in stages instead, each with its number of steps: 64:20k,128:20k. The last length stays."""
    carry: float = 0.0
    """Share of clips that go on where the clip before of their row ended, from the memory it left (truncated
    backpropagation through time); the others begin anew, anywhere, from empty memory, as all do at 0."""
    muon_lr: float = 0.01
    """Learning rate of Muon, for the matrices of the layers."""
    adam_lr: float = 1e-3
    """Learning rate of AdamW, for everything else."""
    weight_decay: float = 0.01
    """Weight decay of both, for the matrices of linear layers; nothing else decays."""
    warmup: int = 50
    """Steps over which learning rates rise from zero."""
    decay: float = 0.0
    """Share of all steps, at their end, over which learning rates fall to zero."""
    steps: int = 0
    """All steps of the training; only `decay` has to know them beforehand."""
    clip: float = 1.0
    """Largest gradient norm."""
    ema: float = 0.995
    """Decay of the averaged weights, which are the ones that dream."""
    fit_frames: int = 4096
    """Frames that the tokenizer is fitted to."""
    precision: Precision = "float32"
    """bfloat16 computes layers in half the bits where that does no harm (autocast); weights, states, heads and losses
    keep 32."""
    accumulate: int = 1
    """Parts in which each process computes its clips of a step, one after the other: less memory, the same result."""
    checkpoint_layers: bool = False
    """Compute every layer again in the backward pass instead of keeping what it needs: a third more time, and memory
    for one layer instead of all."""
    compile: bool = False
    """Compile the layers with torch.compile: minutes at first; meant for GPUs (docs/gpu.md: not run yet)."""
    workers: int = 0
    """Processes that read clips ahead, for each process that trains; 0 reads between steps."""
    save_seconds: float = 60.0
    """Least time between checkpoints. Writing them takes 3 % of the time at most; 0 writes one after every step."""
    seed: int = 0
    """Which clips and which noise are drawn."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_least(self, 1, "batch", "length", "accumulate", "fit_frames")
        check_least(self, 0, "warmup", "workers", "steps", "seed")
        if not 0 <= self.carry <= 1:
            raise InputError(f"carry={self.carry}: give a share of the clips from 0 to 1")
        if not 0 <= self.decay <= 1:
            raise InputError(f"decay={self.decay}: give a share of the steps from 0 to 1")
        self.stages  # noqa: B018 - raises what is wrong with it

    @property
    def stages(self) -> Curriculum:
        """Length of the clips by step."""
        return Curriculum.parse(self.curriculum, self.length)


def check_same(path: Path, saved: Mapping[str, Any], wanted: Any, but: tuple[str, ...] = ()) -> None:
    """Raise an `InputError` that names the settings in which a saved state differs from the wanted ones.

    wanted: a mapping, or a dataclass: then what was saved before an option was there counts as its default.
    """
    if is_dataclass(wanted) and not isinstance(wanted, type):
        saved, wanted = _completed(saved, wanted), asdict(wanted)

    def plain(value: Any) -> Any:
        return [plain(v) for v in value] if isinstance(value, tuple | list) else value

    differing = [
        f"{name} ({saved.get(name)!r} there, {wanted.get(name)!r} here)"
        for name in sorted({*saved, *wanted} - set(but))
        if plain(saved.get(name)) != plain(wanted.get(name))
    ]
    if differing:
        raise InputError(f"{path} was made with other settings: {', '.join(differing)}; use those or another folder")


def _completed(saved: Mapping[str, Any], config: Any) -> dict[str, Any]:
    found = dict(saved)
    for field in fields(config):
        if field.name in saved:
            value = getattr(config, field.name)
            found[field.name] = _completed(saved[field.name], value) if is_dataclass(value) else saved[field.name]
        elif field.default is not MISSING or field.default_factory is not MISSING:
            default: Any = field.default if field.default_factory is MISSING else field.default_factory()
            nested = is_dataclass(default) and not isinstance(default, type)
            found[field.name] = asdict(default) if nested else default
    return found
