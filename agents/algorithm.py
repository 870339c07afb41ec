"""What learns to act: the one interface (`Algorithm`), and what is alike in those that train a network (`Learner`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from lssvwm.envs.policy import Policy
from lssvwm.worldmodel.checkpoint import load_weights, read_state, taking_up
from lssvwm.worldmodel.common.atomic import replace
from lssvwm.worldmodel.common.loggers import Scalars
from lssvwm.worldmodel.common.stepping import Alone, settled
from lssvwm.worldmodel.training import check_same


class Algorithm(Protocol):
    """Learns to act. Made anew for every stage of a run; it continues from what it has written."""

    writer: Scalars | None
    """Where curves go."""

    @property
    def logged(self) -> int:
        """The step, as its curves count, that it stands at."""
        ...

    def train(self, until: int, *, progress: bool = True) -> dict[str, float]:
        """Train up to `until`, counted as the algorithm counts, and save; returns means of its figures."""
        ...

    def policy(self, *, greedy: bool = False) -> Policy:
        """What has been learned, playing the real environment; `greedy` takes the most likely actions."""
        ...


class Learner(Alone):
    """Keeps a network, its optimiser and the number of steps in one file, and continues from there exactly.

    Whoever inherits makes `agent` and `optimizer`, calls `resume` at the end of its construction, and says in
    `extra_state` and `restore` what else it goes on from.
    """

    FILE: ClassVar[str]
    """Name of the file in `out`."""
    NETWORK: ClassVar[str] = "agent"
    """Its key for the weights."""
    NEEDS: ClassVar[tuple[str, ...]] = ()
    """Keys without which nothing is read of it."""
    MAY_CHANGE: ClassVar[tuple[str, ...]] = ("save_seconds",)
    """Settings that do not change what is learned."""

    config: Any
    """A dataclass."""
    agent: Any
    """The network, with the dataclass that it was made from as `agent.config`."""
    optimizer: torch.optim.Optimizer

    def __init__(self, config: Any, out: Path, writer: Scalars | None) -> None:
        self.config, self.out, self.writer = config, out, writer
        self.step, self.whole = 0, True
        self.recent: list[dict[str, float]] = []

    @property
    def logged(self) -> int:
        """Batches so far."""
        return self.step

    def extra_state(self) -> Mapping[str, Any]:
        """What else to save: tensors and plain values by key."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `extra_state` gave."""

    def save(self) -> None:
        """Write the network and all that is needed to continue it."""
        self.out.mkdir(parents=True, exist_ok=True)
        state = {
            "step": self.step,
            "config": asdict(self.config),
            "networks": asdict(self.agent.config),
            "recent": self.recent,
            self.NETWORK: self.agent.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **self.extra_state(),
        }
        replace(self.out / self.FILE, lambda path: torch.save(state, path))

    def resume(self) -> Mapping[str, Any] | None:
        """Continue from the file and return what it holds; None where there is none.

        Raises InputError for one of another configuration, naming what differs, and for one that is damaged.
        """
        path = self.out / self.FILE
        if not path.exists():
            return None
        state = read_state(path, next(self.agent.parameters()).device, *self.NEEDS)
        with taking_up(path):
            check_same(path, state["networks"], self.agent.config)
            check_same(path, state["config"], self.config, but=self.MAY_CHANGE)
            self.step, self.recent = state["step"], settled(state["recent"])
            load_weights(self.agent, state[self.NETWORK], path)
            self.optimizer.load_state_dict(state["optimizer"])
            self.restore(state)
        return state
