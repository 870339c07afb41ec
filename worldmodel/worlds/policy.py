"""The policy of a packed world: the weights that act, without what its training resumes from, in one safetensors file.

What the networks are is its metadata. `agents.policies.world_model.load_agent` makes a policy of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lssvwm.worldmodel.checkpoint import read_state, taking_up
from lssvwm.worldmodel.common.atomic import replace

POLICY = "policy.safetensors"
_STATES = ("policy.pt", "cloning.pt")
"""What the dreamer, and cloning alone, leave."""


def pack_policy(policy: Path, to: Path) -> bool:
    """Write what acts of the folder `policy` of a run to the file `to`; returns whether it has a policy of this kind.

    Those that learn within the dreams of a world model (dreamer, cloning) have: they read its features.
    """
    path = next((policy / name for name in _STATES if (policy / name).is_file()), None)
    if path is None:
        return False
    state = read_state(path, torch.device("cpu"), "networks", "agent")
    metadata = {"networks": json.dumps(dict(state["networks"]))}
    tensors = {name: tensor.contiguous() for name, tensor in state["agent"].items()}
    replace(to, lambda path: save_file(tensors, path, metadata))
    return True


def read_policy(path: Path) -> dict[str, Any]:
    """The `networks` and the `agent` of a packed policy. Raises InputError, naming the file, for any other."""
    with taking_up(path), safe_open(path, "pt") as file:
        networks = json.loads(file.metadata()["networks"])
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in networks.items()}
        return {"networks": values, "agent": {name: file.get_tensor(name) for name in file.keys()}}  # noqa: SIM118
