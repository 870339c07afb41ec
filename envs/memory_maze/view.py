"""Which geoms of a Memory Maze can change the picture: the others are not given to OpenGL, and the picture is the same.

Two tests in the plan of the maze, both on the safe side. A geom is out of view if its corners are, all beyond the same
side. It is hidden if in every direction in which it lies a wall stands before it: walls reach from the floor to one
height, nothing tested is higher, and the camera is lower. Directions are counted in bins. One in which two walls meet
counts as open, since OpenGL may leave a gap there, and what is as near as the wall itself counts as visible.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_BINS = 64
_SEAM = 1e-3  # of a tangent; OpenGL rounds corners to 1/256 of a pixel: 1e-4 at 64 pixels, the fewest, less at more
_NEARER = 2e-3  # 1/m, of one over the depth; so the heights at which walls end in the picture differ
_CLOSEST = 20.0  # 1/m; of what is as close as this to the lens, OpenGL may cut something off


class View:
    """The view of camera number `camera` of a MuJoCo model, as `data` has it, which must have been computed once.

    The camera turns about the vertical and moves; everything but the body that it belongs to stands still.
    """

    def __init__(self, model: Any, data: Any, camera: int) -> None:
        self._data, self._camera = data, camera
        normal = data.geom_xmat.reshape(-1, 3, 3)[:, :, 2]
        plane = model.geom_type == 0  # MuJoCo's mjGEOM_PLANE
        sides = np.where(model.geom_size[:, :2] > 0, model.geom_size[:, :2], np.inf)  # 0 is endless
        spans = np.abs(data.geom_xmat.reshape(-1, 3, 3)[:, :, :2]) @ np.where(plane[:, None], sides, 0)[:, :, None]
        extent = np.where(plane[:, None], spans[..., 0], model.geom_rbound[:, None])
        low, high = data.geom_xpos - extent, data.geom_xpos + extent
        still = model.body_weldid[model.geom_bodyid] == 0
        upright = plane & still & (np.abs(normal).max(1) > 1 - 1e-6) & (np.abs(normal[:, 2]) < 1e-6)
        self._top = high[upright, 2].max(initial=0.0)
        whole = (np.abs(low[:, 2]) < 1e-6) & (np.abs(high[:, 2] - self._top) < 1e-6)
        self._wall = upright & whole & (model.geom_rgba[:, 3] == 1) & (model.geom_group < 3)
        self._moving = np.flatnonzero(~still)
        self._normal, self._low = normal[:, :2].copy(), low[:, :2].copy()
        self._hideable = plane & still & (low[:, 2] > -1e-6) & (high[:, 2] < self._top + 1e-6)
        self._x = np.stack([low[:, 0], low[:, 0], high[:, 0], high[:, 0]])
        self._y = np.stack([low[:, 1], high[:, 1], low[:, 1], high[:, 1]])
        # The widest direction in the plan is that of an upper corner, as the camera looks up a little.
        turn, tangent = data.cam_xmat[camera].reshape(3, 3), np.tan(np.deg2rad(model.cam_fovy[camera]) / 2)
        widest = tangent / (turn[2, 1] - tangent * abs(turn[2, 2])) + 0.02
        # A sphere meets the pyramid of the view only if its center is no further than this beyond a side, at its depth.
        bound = np.where(plane, np.inf, model.geom_rbound)
        self._tangent, self._radius = tangent, bound[self._moving] * np.hypot(1, tangent)
        self._edges = np.linspace(-widest, widest, _BINS + 1)

    def visible(self) -> NDArray[np.bool_]:
        """For each geom (n,) whether it may be seen."""
        eye, turn = self._data.cam_xpos[self._camera], self._data.cam_xmat[self._camera].reshape(3, 3)
        c, s = -turn[:2, 2] / np.hypot(turn[0, 2], turn[1, 2])
        x, y = self._x - eye[0], self._y - eye[1]
        depth, left = c * x + s * y, c * y - s * x  # (4, n)
        reach = self._edges[-1] * depth
        inside: NDArray[np.bool_] = (depth > 0).any(0) & (left < reach).any(0) & (-left < reach).any(0)
        seen = (self._data.geom_xpos[self._moving] - eye) @ turn
        inside[self._moving] = np.abs(seen[:, :2]).max(1) - self._tangent * -seen[:, 2] <= self._radius
        if 0 < eye[2] < self._top:
            geoms = np.flatnonzero(inside & self._hideable)
            facing = ((eye[:2] - self._low[geoms]) * self._normal[geoms]).sum(1)
            walls = self._wall[geoms] & (facing > 1 / _CLOSEST)
            n = self._normal[geoms] / np.where(walls, -facing, 1.0)[:, None]
            slopes = np.stack([n @ (c, s), n @ (-s, c)])
            inside[geoms[self._hidden(depth[:, geoms], left[:, geoms], slopes, walls)]] = False
        return inside

    def _hidden(
        self, depth: NDArray[Any], left: NDArray[Any], slopes: NDArray[Any], walls: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Which geoms (k,) are hidden; a direction is the tangent of its angle to the left, `_edges` divide them.

        depth, left: (4, k) of the corners. slopes: (2, k); on a wall 1 / depth = slopes[0] + slopes[1] * tangent.
        """
        ahead = depth > 1 / _CLOSEST
        tangents = np.where(ahead, left / np.where(ahead, depth, 1.0), np.copysign(np.inf, slopes[1]))
        first, last = tangents.min(0)[:, None] - _SEAM, tangents.max(0)[:, None] + _SEAM
        begin, end = self._edges[:-1], self._edges[1:]
        near = slopes[0, walls, None] + slopes[1, walls, None] * self._edges
        near = np.minimum(near[:, :-1], near[:, 1:])
        closes = (first[walls] + 2 * _SEAM <= begin) & (end <= last[walls] - 2 * _SEAM) & (near < _CLOSEST)
        # One over the depth at which a wall closes each bin, 0 where none does.
        closed = np.where(closes, near, 0.0).max(0, initial=0.0)
        behind = np.where((first < end) & (begin < last), closed, _CLOSEST).min(1)
        hidden: NDArray[np.bool_] = (behind - _NEARER) * depth.min(0) >= 1
        return hidden
