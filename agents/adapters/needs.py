"""What an adapter needs of the environments it is given."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from numpy.typing import NDArray

from lssvwm.envs.dream import DreamVectorEnv
from lssvwm.envs.spaces.masks import MASK_KEY, masks_of
from lssvwm.worldmodel.common.errors import InputError


def check(
    envs: VectorEnv[Any, Any, Any], library: str, mode: AutoresetMode, output: str, *, masked_steps: bool = False
) -> None:
    """Raise an InputError that names the fix unless `envs` have this autoreset mode and give this output.

    Environments that do not say what they give, as Gymnasium's own, give numpy.
    """
    found = envs.metadata.get("autoreset_mode")
    if found is not mode:
        raise InputError(f"{library} needs autoreset_mode='{mode.value}', these environments have {found}")
    given = output_of(envs)
    if given != output:
        raise InputError(f"{library} needs output='{output}', these environments have output={given!r}")
    if masked_steps and "mask" not in inspect.signature(envs.step).parameters:
        raise InputError(
            f"{library} steps some rows and not others, which {type(envs).__name__} cannot: "
            "give it a dream without wrappers (DreamVectorEnv)"
        )


def output_of(envs: VectorEnv[Any, Any, Any]) -> str:
    """What the outermost layer that knows says: "numpy" or "torch"."""
    for layer in layers(envs):
        if isinstance(layer, DreamVectorEnv):
            return layer.options.output
        if isinstance(output := getattr(layer, "output", None), str):
            return output
    return "numpy"


def device_of(envs: VectorEnv[Any, Any, Any]) -> torch.device:
    """Where the outermost layer that knows keeps its tensors."""
    for layer in layers(envs):
        if isinstance(device := getattr(layer, "device", None), torch.device):
            return device
    raise InputError(f"{type(envs).__name__} does not say where its tensors are: give it an attribute `device`")


def count_of(envs: VectorEnv[Any, Any, Any]) -> int:
    """How many actions a mask is of. Raises InputError unless they are Discrete."""
    if not isinstance(envs.single_action_space, spaces.Discrete):
        raise InputError(f"masks are of Discrete actions, these environments have {envs.single_action_space}")
    return int(envs.single_action_space.n)


def told_masks(info: Mapping[str, Any], rows: int, count: int, ended: Any) -> NDArray[np.bool_]:
    """As `masks_of`, where masks were asked for. Raises InputError for environments that give none."""
    allowed = masks_of(info, rows, count, ended)
    if allowed is None:
        raise InputError(f'these environments give no info["{MASK_KEY}"], as dreams do not: leave out masks=True')
    return allowed


def layers(envs: VectorEnv[Any, Any, Any]) -> Iterator[VectorEnv[Any, Any, Any]]:
    """The environments and what they are wrapped around, from the outside in."""
    while isinstance(envs, VectorWrapper):
        yield envs
        envs = envs.env
    yield envs
