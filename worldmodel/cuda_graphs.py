"""Dreaming by CUDA graphs: a step is recorded once, and then repeated without Python between its kernels."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.common.rng import Drawn, Generators, normal
from lssvwm.worldmodel.layers.attention import HistoryMemory
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.model import Imagined
from lssvwm.worldmodel.sampling import Sampler

WARM = 3
"""Steps before the recording: kernels are compiled and tuned in them, which cannot be recorded."""


class GraphSampler:
    """A `Sampler` for always the same number of rows, whose step is one CUDA graph over buffers of its own.

    It dreams what `sampler` does with `in_place`: the memory that comes back lies in those buffers, and the next call
    writes over it. A memory that is not the one it gave last is copied into them, so rows may be replaced in between;
    what else a step tells is the caller's own. The first call records.

    On a CPU there are no graphs: there every call computes the step anew, over the same buffers.

    Raises InputError for models that dream in chunks or attend to all frames, whose steps are not all alike.
    """

    def __init__(self, sampler: Sampler, rows: int) -> None:
        config = sampler.model.config
        if config.chunk > 1 or any(isinstance(v.window, HistoryMemory) for v in sampler.model.empty(1).layers):
            raise InputError(
                f"a model of chunk={config.chunk}, window={config.window} has no step that is always the same, as a "
                "CUDA graph wants it: dream with Sampler"
            )
        self.sampler, self.model = sampler, sampler.model
        self._like = sampler.model.backbone.position
        self._noise = self._like.new_zeros(rows, 1, config.tokens, config.latent_channels)
        shape = (rows, config.action_size) if config.action_size else (rows,)
        kind = torch.float32 if config.action_size else torch.int64
        self._actions = torch.zeros(shape, dtype=kind, device=self._like.device)
        self._pose = self._like.new_zeros(rows, config.pose_size) if config.pose_size else None
        self._memory = self.model.empty(rows)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._told: Imagined | None = None

    @torch.no_grad()
    def imagine(
        self,
        actions: Tensor,
        memory: Memory,
        *,
        generator: Generators,
        pose: Tensor | None = None,
        in_place: bool = False,
    ) -> Imagined:
        """`Sampler.imagine` of all rows; without `in_place` the memory that comes back is a copy."""
        wanted = self._actions.shape
        if actions.shape != wanted or memory.rows != wanted[0]:
            raise ValueError(f"actions {tuple(wanted)} and as many rows of memory wanted, got {tuple(actions.shape)}")
        self.model.backbone.condition.check(actions[:, None], None if pose is None else pose[:, None], 1)
        self._actions.copy_(actions)
        if self._pose is not None and pose is not None:
            self._pose.copy_(pose)
        noise = normal(tuple(self._noise.shape), generator, self._like)
        if self._graph is None and self._like.is_cuda:
            self._record()
        if memory is not self._memory:
            _copy(memory, self._memory)
        self._noise.copy_(noise)
        if self._graph is None:
            self._step()
        else:
            self._graph.replay()
        assert self._told is not None
        told = self._told
        own = {name: getattr(told, name).clone() for name in ("frame", "reward", "termination", "features", "inputs")}
        return replace(told, **own, memory=self._memory if in_place else self._memory.clone())

    def _record(self) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM):
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._step()

    def _step(self) -> None:
        given = {"generator": Drawn(self._noise), "pose": self._pose, "in_place": True}
        self._told = self.sampler.imagine(self._actions, self._memory, **given)  # type: ignore[arg-type]
        _copy(self._told.memory, self._memory)


def _copy(source: Memory, target: Memory) -> None:
    """Write what `source` holds into the tensors of `target`, where it does not lie there already."""
    into = target.state_dict()
    for name, tensor in source.state_dict().items():
        if tensor.data_ptr() != into[name].data_ptr():
            into[name].copy_(tensor)
