"""A policy that takes over: it first reads what has happened since the past began."""

from __future__ import annotations

import numpy as np

from lssvwm.envs.play.record import Record
from lssvwm.envs.policy import Policy, Remembering
from lssvwm.worldmodel.common.errors import InputError


class Pilot:
    """`policy`, kept in step with a record: of what it has read, nothing is read twice."""

    def __init__(self, policy: Policy, name: str) -> None:
        self._policy, self.name = policy, name
        self._record: Record | None = None
        self._read = 0

    def forget(self) -> None:
        """The record goes on from an earlier moment: read it anew."""
        self._record = None

    def next(self, record: Record, seed: int) -> int:
        """The action after the last frame of `record`. Raises InputError where the policy cannot play by frames."""
        if record is not self._record or self._read > len(record):
            self._policy.reset(np.array([0]), np.array([seed]))
            self._record, self._read = record, 0
        chosen = -1
        for at in range(self._read, len(record)):
            if at and isinstance(self._policy, Remembering):
                self._policy.took(np.array([record.actions[at]], np.int64))
            chosen = int(self._policy.act(record.frames[at][None], {})[0])
        if chosen < 0:
            raise InputError("the policy was asked twice about one moment: reset to another context")
        self._read = len(record)
        return chosen
