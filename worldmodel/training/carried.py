"""Memory carried from clip to clip: truncated backpropagation through time, over whole episodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes.loader import ClipSource, Place, StreamClips, StreamSource
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.model import WorldModel
from lssvwm.worldmodel.training.config import TrainingConfig
from lssvwm.worldmodel.training.processes import Processes


class Carried:
    """What the rows of this process remember of the clips before, and where they read on.

    `memory` is that before the next step, detached, or None where no row goes on. A row whose next clip begins anew
    may have anything in it.
    """

    def __init__(
        self, model: WorldModel, source: ClipSource, config: TrainingConfig, rows: range, processes: Processes
    ) -> None:
        if not isinstance(source, StreamSource):
            raise InputError(
                f"carry={config.carry} reads on through whole episodes, which {type(source).__name__} does not: set "
                "carry=0"
            )
        self.clips = StreamClips(source, config.seed, config.batch, rows, config.stages.length, config.carry)
        self.model, self.rows, self.processes = model, rows, processes
        self.memory: Memory | None = None

    def start(self, step: int) -> Memory | None:
        """The memory that this process's clips of `step` begin from; None where all are empty."""
        windows = self.clips.windows(step)
        anew = torch.tensor([not windows[row].carried for row in self.rows])
        if self.memory is None or bool(anew.all()):
            return None
        return self.memory.emptied(anew.to(self.model.device)) if bool(anew.any()) else self.memory

    def state_dict(self, step: int) -> dict[str, Any]:
        """Where all rows of the batch stand before `step`, and what they remember, on the CPU.

        To be called by every process; what the others return lacks the memory, which is the main one's to save.
        """
        places = [None if place is None else tuple(place) for place in self.clips.places(step)]
        if not self.processes.any(self.memory is not None):
            return {"places": places, "memory": None}
        memory = self.model.empty(len(self.rows)) if self.memory is None else self.memory
        memory = memory.with_histories(self.processes.largest(memory.longest))
        found = {name: self.processes.gathered(tensor) for name, tensor in memory.state_dict().items()}
        return {"places": places, "memory": found if self.processes.main else None}

    def load_state_dict(self, step: int, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned in the main process of any number."""
        places = [None if place is None else Place(str(place[0]), int(place[1])) for place in state["places"]]
        self.clips.resume(step, places)
        self.memory = None
        if state["memory"] is not None:
            memory = self.model.empty(0).load_state_dict(state["memory"])
            self.memory = memory.select(slice(self.rows.start, self.rows.stop)).to(self.model.device)
