"""Clips that turn round: a recording played up to some frame, and then its own past backwards (paper, Maze retrieval).

Whoever knows where the agent stands, and has seen the place before, can say what every frame of the way back shows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes.data import Clips, cleared, without_actions
from lssvwm.worldmodel.episodes.loader import ClipSource


def there_and_back(clips: Clips, turn: Tensor) -> Clips:
    """Play each clip up to and with frame `turn` (B,) int64, then frames turn - 1, turn - 2, ... down to 0.

    Frames and poses of the way back are the recorded ones in reverse; its actions are "none", because no action leads
    there; its rewards are zero. What would come before frame 0 is masked. `turn = T - 1` leaves a clip as it is. A
    frame to turn at that lies outside its clip is an `InputError`.

    What a loss makes of such clips: `mask` stays True on the way back, so that the frames there are learnt. Rewards
    exist only where an action led to a frame, so the reward head learns nothing from it, neither there nor as the
    future of frames before the turn. The termination head sees its labels as recorded, and they are right: only the
    last frame of an episode is terminal, and the way back begins with the frame before.
    """
    rows, frames = clips.mask.shape
    if turn.shape != (rows,) or turn.dtype != torch.int64:
        raise ValueError(f"turn must be int64 ({rows},), one frame per clip, got {turn.dtype} {tuple(turn.shape)}")
    inside = (turn >= 0) & (turn < frames)
    there = clips.mask.gather(1, turn.clamp(0, frames - 1)[:, None])[:, 0] | (turn == frames - 1)
    for row in (~(inside & there)).nonzero()[:1, 0].tolist():
        raise InputError(f"clip {row} ends before frame {int(turn[row])}, where it should turn: turn earlier")
    time = torch.arange(frames, device=turn.device)
    source = torch.where(time <= turn[:, None], time, 2 * turn[:, None] - time)
    exists, row = source >= 0, torch.arange(rows, device=turn.device)[:, None]
    both = clips.map(lambda part: cleared(part[row, source.clamp(min=0)], ~exists))
    back = time > turn[:, None]
    return replace(both, actions=without_actions(both.actions, back), rewards=cleared(both.rewards, back))


@dataclass(frozen=True)
class Retraced:
    """A source of clips of which the share `share` turns round, so that a model learns to find its way back.

    They turn at a random frame of their second half, none too early to fill the clip, or with the end of the episode.
    Which clips turn, and where, is drawn from the generator given to `sample`, after the clips themselves.
    """

    source: ClipSource
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise InputError(f"share={self.share} of clips to retrace: give a share from 0 to 1")

    def sample(self, batch: int, length: int, generator: np.random.Generator) -> Clips:
        """Draw `batch` clips of `length` frames, at least 3. An `InputError` where they have no pose."""
        if length < 3:
            raise InputError(f"clips of length={length} cannot go there and back: use 3 frames or more")
        clips = self.source.sample(batch, length, generator)
        if clips.pose is None:
            raise InputError("retraced clips need the agent's pose: name the extras that hold it (agent_pos,agent_dir)")
        turns = torch.from_numpy(generator.integers(length // 2, length - 1, size=batch))
        chosen = torch.from_numpy(generator.random(batch) < self.share)
        last = clips.mask.sum(1) - 1
        turn = torch.where(chosen, torch.minimum(turns, last), length - 1)
        return there_and_back(clips, turn)
