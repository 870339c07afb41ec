"""A MiniGrid room that has to be remembered: every tile of its floor has a random color."""

from __future__ import annotations

from typing import Any

from lssvwm.worldmodel.common.errors import require

try:
    from minigrid.core.constants import COLOR_NAMES
    from minigrid.core.grid import Grid
    from minigrid.core.mission import MissionSpace
    from minigrid.core.world_object import Floor
    from minigrid.minigrid_env import MiniGridEnv
except ModuleNotFoundError:
    require("minigrid", "minigrid", "MiniGrid environments")  # says which extra brings it
    raise


class Carpet(MiniGridEnv):  # type: ignore[misc]  # minigrid has no types
    """A square room, `size` cells with its walls, carpeted in tiles of six colors. Nothing to reach, no reward.

    The agent sees 3 x 3 cells; what lies around is known from memory alone, and every tile has to be remembered. The
    worlds that come with MiniGrid hold a few objects, which the smallest memory holds too.
    """

    def __init__(self, size: int = 8, max_steps: int = 128, agent_view_size: int = 3, **options: Any) -> None:
        super().__init__(
            mission_space=MissionSpace(mission_func=lambda: "remember the carpet"),
            grid_size=size,
            max_steps=max_steps,
            agent_view_size=agent_view_size,
            see_through_walls=True,
            **options,
        )

    def _gen_grid(self, width: int, height: int) -> None:
        self.grid = Grid(width, height)
        self.grid.wall_rect(0, 0, width, height)
        for x in range(1, width - 1):
            for y in range(1, height - 1):
                self.grid.set(x, y, Floor(COLOR_NAMES[self.np_random.integers(len(COLOR_NAMES))]))
        # MiniGrid's own placing looks for a cell without floor, forever.
        x, y = self.np_random.integers(1, (width - 1, height - 1))
        self.agent_pos, self.agent_dir = (int(x), int(y)), int(self.np_random.integers(4))
        self.mission = "remember the carpet"
