"""What a dream environment tells beside its observations, in the form of Gymnasium's vector infos: `key` and `_key`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lssvwm.envs.dream.dreams import Dreamt, Rows
from lssvwm.envs.dream.view import View
from lssvwm.worldmodel.episodes import Clips


def of_step(view: View, dreamt: Dreamt, rows: Rows) -> dict[str, Any]:
    """What the step told of `rows`."""
    told = {"termination_probability": dreamt.termination, "uncertainty": dreamt.uncertainty}
    info: dict[str, Any] = {}
    for name, values in told.items():
        if values is not None:
            info |= {name: view.array(values), f"_{name}": rows.copy()}
    return info


def of_goals(view: View, goals: Mapping[str, NDArray[Any]], rows: Rows) -> dict[str, Any]:
    """What `rows` are told, under the keys of the real environment; texts are an array of objects."""
    info: dict[str, Any] = {}
    for key, values in goals.items():
        info |= {key: values.copy() if values.dtype == object else view.array(values), f"_{key}": rows.copy()}
    return info


def of_end(
    view: View, dreamt: Dreamt, finished: Rows, observation: Any, goals: Mapping[str, NDArray[Any]]
) -> dict[str, Any]:
    """Gymnasium's record of rows that are about to begin anew within the step."""
    return {
        "final_obs": view.row_by_row(observation, finished),
        "_final_obs": finished.copy(),
        "final_info": of_step(view, dreamt, finished) | of_goals(view, goals, finished),
        "_final_info": finished.copy(),
    }


def of_contexts(view: View, contexts: Clips, rows: Rows) -> dict[str, Any]:
    """The real frames in which `rows` begin, (N, C, h, w, 3), what led to them, and how many of the C are their own."""
    index = torch.as_tensor(np.flatnonzero(rows), device=contexts.frames.device)

    def spread(part: Tensor) -> Tensor:
        return part.new_zeros(len(rows), *part.shape[1:]).index_copy_(0, index, part)

    return {
        "context_frames": view.frames(spread(contexts.frames)),
        "_context_frames": rows.copy(),
        "context_actions": view.array(spread(contexts.actions)),
        "_context_actions": rows.copy(),
        "context_length": view.array(spread(contexts.mask.sum(1))),
        "_context_length": rows.copy(),
    }
