"""When a dream ends: the head says so, the horizon is reached, or it has left what the model knows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lssvwm.envs.dream.dreams import Dreams, Dreamt, Rows


class Ends(NamedTuple):
    """Which rows ended in a step, bool (N,); no row does both."""

    terminated: Rows
    truncated: Rows


def ends(dreams: Dreams, dreamt: Dreamt, live: Rows) -> Ends:
    """What becomes of the rows of `live`, which just went on to `dreamt`. Waits for the device only if it decides."""
    options = dreams.options
    terminated, late = np.zeros_like(live), np.zeros_like(live)
    if options.terminate != "never":
        level = dreams.chance.uniform(live) if options.terminate == "sample" else 0.5
        terminated = live & (dreamt.termination.cpu().numpy() > level)
    if options.max_episode_steps is not None:
        late = dreams.clock >= options.max_episode_steps
    if options.truncate_above is not None and dreamt.uncertainty is not None:
        late = late | (dreamt.uncertainty.cpu().numpy() > options.truncate_above)
    return Ends(terminated, live & ~terminated & late)
