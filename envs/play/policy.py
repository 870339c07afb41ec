"""A policy that takes over: it first reads what has happened since the context began."""

from __future__ import annotations

import numpy as np

from lssvwm.envs.play.trajectory import Trajectory
from lssvwm.envs.policy import Policy, Remembering
from lssvwm.worldmodel.common.errors import InputError


class PolicyPlayer:
    """`policy`, kept in step with a trajectory: of what it has read, nothing is read again."""

    def __init__(self, policy: Policy, name: str) -> None:
        self._policy, self.name = policy, name
        self._trajectory: Trajectory | None = None
        self._read = 0

    def forget(self) -> None:
        """The trajectory goes on from an earlier moment: read it anew."""
        self._trajectory = None

    def next(self, trajectory: Trajectory, seed: int) -> int:
        """The action after the last frame of `trajectory`. Raises InputError where the policy cannot play by frames."""
        if trajectory is not self._trajectory or self._read > len(trajectory):
            self._policy.reset(np.array([0]), np.array([seed]))
            self._trajectory, self._read = trajectory, 0
        chosen = -1
        for at in range(self._read, len(trajectory)):
            if at and isinstance(self._policy, Remembering):
                self._policy.took(np.array([trajectory.actions[at]], np.int64))
            chosen = int(self._policy.act(trajectory.frames[at][None], trajectory.told)[0])
        if chosen < 0:
            raise InputError("the policy was asked twice about one moment: reset to another context")
        self._read = len(trajectory)
        return chosen
