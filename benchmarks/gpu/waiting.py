"""Where the host waits for the device in a dream step and in a training step, and that it does nowhere else.

On CUDA torch itself warns at every wait (`torch.cuda.set_sync_debug_mode`). On a CPU the operations are noted that
would wait there: those that bring a number to the host, or whose result has a size that only the device knows.
"""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu.sheet import CUDA, Setting, Sheet
from benchmarks.gpu.worlds import config_of, model_of, noise_episodes
from lssvwm.envs.dream import DreamVectorEnv
from lssvwm.worldmodel import Checkpoint, Trainer, TrainingConfig

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("worldmodel", "envs", "agents")
STEPS = 3

DREAM = {
    "worldmodel/layers/conditioning.py:check": "whether actions are in range",
    "envs/dream/validation.py:_numbers": "whether actions are in range, and taking them to the device",
    "envs/dream/dreams.py:advance": "taking the mask of rows to the device",
    "worldmodel/common/rng.py:_drawn": "which rows rest, where some do",
    "envs/dream/termination.py:ends": "one read of the probabilities of endings",
    "envs/dream/outputs.py:array": "taking ends to the device",
    "worldmodel/layers/backbone.py:forward": "on a CPU alone: whether all rows have a full window",
}
"""Where a dream step may wait, and for what."""

TRAINING = {
    "worldmodel/layers/conditioning.py:check": "whether actions are in range",
    "worldmodel/episodes/data.py:to": "taking clips to the device",
    "worldmodel/layers/memory.py:longest": "whether any row remembers anything",
    "worldmodel/heads.py:forward": "frames whose figures are noted",
    "worldmodel/heads.py:update": "how much was noted",
    "worldmodel/common/gradients.py:usable": "whether the gradient is finite",
    "worldmodel/layers/backbone.py:forward": "on a CPU alone: whether all rows have a full window",
}
"""Where a training step may wait, and for what."""


class Noted(TorchDispatchMode):
    """Counts, by place, the operations inside that would wait for a device."""

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            isinstance(each, Tensor) and each.dtype == torch.bool for each in args[1]
        )
        if by_mask or name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique_dim", "_unique2"):
            self.found[place()] += 1
        return func(*args, **(kwargs or {}))


class Read(TorchFunctionMode):
    """Counts, by place, what brings whole tensors to the host, which is no operation."""

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("tolist", "cpu"):
            self.found[place()] += 1
        return func(*args, **(kwargs or {}))


def place() -> str:
    """The innermost function of the packages that is at work: path:name."""
    for frame in reversed(traceback.extract_stack()):
        if frame.filename.startswith(str(ROOT)):
            path = str(Path(frame.filename).relative_to(ROOT)).removeprefix("lssvwm/")
            if path.startswith(PACKAGES):
                return f"{path}:{frame.name}"
    return "elsewhere"


@contextmanager
def waits(device: str) -> Iterator[Counter[str]]:
    """Counts the waits of what is inside, by place."""
    found: Counter[str] = Counter()
    if device != "cuda":
        with Noted(found), Read(found):
            yield found
        return

    def note(message: Any, *args: Any, **kwargs: Any) -> None:
        if "synchronizing" in str(message):
            found[place()] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")


def look(setting: Setting, sheet: Sheet) -> None:
    """Steps of a dream environment with tensors in and out, and steps of training, in bfloat16 on CUDA."""
    config = config_of("memory-maze", setting)
    model, store = model_of(config, setting), noise_episodes(setting.shared / "waiting", config, 32)
    torch.nn.init.constant_(model.termination_head[-1].bias, -30.0)  # no row begins anew, which waits for more
    checkpoint = Checkpoint(model, {"num_actions": config.num_actions}, 0, setting.shared)
    how: dict[str, Any] = {"device": setting.device, "max_episode_steps": None, "output": "torch"}
    env = DreamVectorEnv(
        4, checkpoint=checkpoint, contexts=store.root, context_length=4, profile="balanced", terminate="sample", **how
    )
    env.reset(seed=0)
    actions = torch.zeros(4, dtype=torch.int64, device=setting.device)
    tell(sheet, "dream", lambda: env.step(actions), DREAM, setting)

    precision = "bfloat16" if setting.cuda else "float32"
    training = TrainingConfig(batch=4, length=8 if setting.rehearse else 32, precision=precision, save_seconds=1e9)
    trainer = Trainer(model, store, training, setting.shared / "waiting-model", world={})
    trainer.prepare()
    tell(sheet, "training", trainer.train_step, TRAINING, setting)
    if not setting.cuda:
        sheet.not_run("the same by torch's own warnings (sync debug mode)", CUDA)


def tell(sheet: Sheet, what: str, step: Callable[[], object], named: dict[str, str], setting: Setting) -> None:
    """Write down where `step` waits, and how often at places that have no name."""
    for _ in range(2):
        step()
    with waits(setting.device) as found:
        for _ in range(STEPS):
            step()
    for where, count in sorted(found.items()):
        reason = named.get(where, "NOT NAMED")
        sheet.note(f"{what} step waits in {where} ({reason})", count / STEPS, "times")
    unexpected = sum(count for where, count in found.items() if where not in named)
    sheet.at_most(f"{what} step: waits at places without a name", unexpected / STEPS, 0)
