"""When a dream ends: the head says so, the horizon is reached, or it has left what the model knows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lssvwm.envs.dream.dreams import Dreams, Prediction, RowMask


class Ends(NamedTuple):
    """Which rows ended in a step, bool (N,); no row does both."""

    terminated: RowMask
    truncated: RowMask


def ends(dreams: Dreams, prediction: Prediction, live: RowMask) -> Ends:
    """What becomes of the rows of `live`, which the heads said `prediction` of. Waits for the device only if that
    decides."""
    options = dreams.options
    terminated, late = np.zeros_like(live), np.zeros_like(live)
    if options.terminate != "never":
        level = dreams.generators.uniform(live) if options.terminate == "sample" else 0.5
        terminated = live & (prediction.termination.cpu().numpy() > level)
    if options.max_episode_steps is not None:
        late = dreams.clock >= options.max_episode_steps
    if options.truncate_above is not None and prediction.uncertainty is not None:
        late = late | (prediction.uncertainty.cpu().numpy() > options.truncate_above)
    return Ends(terminated, live & ~terminated & late)
