"""Which actions undo which, where a world has such: what walks out and back need (`worldmodel.evaluation`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lssvwm.envs.factory import EnvConfig, is_minigrid

_LEFT, _RIGHT, _FORWARD = range(3)
_MINIGRID = {
    _LEFT: (_RIGHT,),
    _RIGHT: (_LEFT,),
    _FORWARD: (_RIGHT, _RIGHT, _FORWARD, _RIGHT, _RIGHT),  # there is no step backwards: turn round, go, turn round
}


def inverse_actions(config: EnvConfig) -> NDArray[np.int64] | None:
    """The actions that undo each action of `config`, as recorded (`INVERSE_KEY`): (1, A, n), filled up with -1.

    None where none is known to be exact. In the Memory Maze a turn to the right does not undo one to the left: the body
    is still turning, and after eight of each the view differs by 19 to 28 dB PSNR (three mazes). In MiniGrid what
    moves by itself does not go back either.
    """
    if not is_minigrid(config.id) or "Dynamic-Obstacles" in config.id:
        return None
    offered = config.actions or tuple(range(7))
    known = {done: undo for done, undo in _MINIGRID.items() if {done, *undo} <= set(offered)}
    table = np.full((1, len(offered), max(map(len, known.values()), default=1)), -1, np.int64)
    for done, undo in known.items():
        table[0, offered.index(done), : len(undo)] = [offered.index(action) for action in undo]
    return table if known else None
