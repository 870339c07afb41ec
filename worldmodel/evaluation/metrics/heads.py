"""How well rewards and terminations are predicted, beside what knowing nothing but their rates would give."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from lssvwm.worldmodel.common.errors import require
from lssvwm.worldmodel.episodes import Clips
from lssvwm.worldmodel.episodes.data import led_here
from lssvwm.worldmodel.evaluation.protocols.rollout import observe
from lssvwm.worldmodel.model import WorldModel


@dataclass(frozen=True)
class HeadFigures:
    """Rewards over the frames that an action led to, terminations over all frames. None: not defined there.

    Beside each figure stands its base rate: the figure of a constant prediction, the best that there is.
    """

    reward_rmse: float | None
    reward_rmse_of_mean: float | None
    """Base rate of it: the deviation of the true rewards."""
    reward_auroc: float | None
    """Chance that a frame with a reward other than 0 is predicted one further from 0 than a frame without; 0.5 is
    the base rate."""
    rewarded_share: float | None
    termination_accuracy: float | None
    """Share of frames that are told right at a probability of one half."""
    termination_accuracy_of_constant: float | None
    """Base rate of it: always the more frequent answer."""
    termination_auroc: float | None
    """Chance that a terminal frame gets a higher probability than another one; 0.5 is the base rate."""
    terminal_share: float | None

    def to_dict(self) -> dict[str, float | None]:
        """Plain values, for JSON."""
        return asdict(self)


def judge_heads(rewards: Tensor, terminations: Tensor, truth: Clips) -> HeadFigures:
    """Predicted rewards and termination probabilities (B, T) against the recorded ones."""
    counts = truth.mask & led_here(truth.actions)
    predicted, true = rewards[counts].double(), truth.rewards[counts].double()
    probability, ended = terminations[truth.mask].double(), truth.terminated[truth.mask]
    share = _mean(ended)
    return HeadFigures(
        reward_rmse=_root(_mean((predicted - true).square())),
        reward_rmse_of_mean=_root(_mean((true - true.mean()).square())),
        reward_auroc=auroc(predicted.abs(), true != 0),
        rewarded_share=_mean(true != 0),
        termination_accuracy=_mean((probability > 0.5) == ended),
        termination_accuracy_of_constant=None if share is None else max(share, 1 - share),
        termination_auroc=auroc(probability, ended),
        terminal_share=share,
    )


@torch.no_grad()
def judge_heads_on_real(model: WorldModel, batches: Iterable[Clips]) -> HeadFigures:
    """The heads on real frames, where they are trained: every frame is observed after all those before it.

    Clips come in batches of one length, of whose frames no more than one batch is held at a time.
    """
    rewards, terminations, truths = [], [], []
    for clips in batches:
        here = clips.to(model.device)
        seen, _ = observe(model, here, model.empty(len(here.mask)))
        rewards.append(torch.cat([each.reward for each in seen], 1).cpu())
        terminations.append(torch.cat([each.termination for each in seen], 1).cpu())
        truths.append(without_frames(clips))
    return judge_heads(torch.cat(rewards), torch.cat(terminations), Clips.cat(truths))


def without_frames(clips: Clips) -> Clips:
    """The same clips with frames of no pixels."""
    return replace(clips, frames=clips.frames.new_empty(*clips.mask.shape, 0, 0, 3))


def auroc(scores: Tensor, positive: Tensor) -> float | None:
    """Area under the receiver operating characteristic of scores (n,); None unless both kinds occur."""
    if not positive.any() or positive.all():
        return None
    functional = require("torchmetrics.functional.classification", "evaluation", "figures of the heads")
    # Ranks instead of scores: torchmetrics would squash scores outside [0, 1] until many are equal.
    ranks = torch.unique(scores, return_inverse=True)[1].double() / max(1, len(scores))
    return float(functional.binary_auroc(ranks, positive.long()))


def _mean(values: Tensor) -> float | None:
    return float(values.double().mean()) if values.numel() else None


def _root(value: float | None) -> float | None:
    return None if value is None else value**0.5
