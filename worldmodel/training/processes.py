"""This process among those that train one world model together: `accelerate launch` or `torchrun` started them all."""

from __future__ import annotations

import atexit
import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta

import torch
import torch.distributed.nn  # when processes have connected already, its default arguments keep that for good
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs
from accelerate.utils import broadcast, parse_flag_from_env
from torch import Tensor, nn

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.common.precision import use_policy
from lssvwm.worldmodel.tokenizer import Tokenizer

PATIENCE = timedelta(days=1)
"""How long a process waits for another one: one records or reads a large folder while the others have nothing to do."""


class Processes:
    """What one process has to know of the others. With a single process nothing is sent, and all of this is trivial.

    All methods but the properties are to be called by every process, in the same order.
    """

    def __init__(self) -> None:
        # Without being told, accelerate would start processes without a GPU as strangers to each other.
        cpu = not torch.cuda.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU")
        self.accelerator = Accelerator(
            cpu=cpu,
            mixed_precision="no",  # the training's own setting decides, see `TrainingConfig.precision`
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=PATIENCE),
                # Buffers follow from the same sums everywhere.
                DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
            ],
        )
        kind = self.accelerator.distributed_type
        if kind not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
            raise InputError(
                f"accelerate was set up for {kind}, but every process here holds the whole model: run `accelerate "
                "config` again without it, or start with torchrun"
            )
        use_policy()
        self.device = self.accelerator.device if self.count > 1 else torch.device("cpu" if cpu else "cuda")
        atexit.register(self.leave)

    @property
    def count(self) -> int:
        """Number of processes."""
        return int(self.accelerator.num_processes)

    @property
    def main(self) -> bool:
        """Whether this one writes files, shows progress and records."""
        return bool(self.accelerator.is_main_process)

    def leave(self) -> None:
        """End the connections and their threads, as happens by itself at the end of Python at the latest.

        A thread that still lets go of what it sent while Python comes to its end would abort the process.
        """
        self.accelerator.free_memory()
        self.accelerator.end_training()

    def wait(self) -> None:
        """Return when all have come this far."""
        self.accelerator.wait_for_everyone()

    def share(self, batch: int, accumulate: int) -> range:
        """Rows of a step's `batch` clips that are this process's; they come apart evenly in `accumulate` parts."""
        whole = self.count * accumulate
        if batch % whole:
            raise InputError(
                f"batch={batch} clips do not come apart evenly in {self.count} process(es) with accumulate="
                f"{accumulate}: choose a multiple of {whole}"
            )
        size, index = batch // self.count, int(self.accelerator.process_index)
        return range(index * size, (index + 1) * size)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Call what this returns instead of `model`: backward passes then average the gradients of all processes."""
        return model if self.count == 1 else self.accelerator.prepare_model(model)

    def apart(self, wrapped: nn.Module) -> AbstractContextManager[None]:
        """Backward passes inside keep their gradients to themselves; the next one outside brings all together."""
        return self.accelerator.no_sync(wrapped)  # type: ignore[no-any-return]

    def total(self, value: Tensor) -> Tensor:
        """Sum over the processes."""
        return self.accelerator.reduce(value, "sum")  # type: ignore[no-any-return]

    def any(self, flag: bool) -> bool:
        """Whether any process says so; returns when all have been asked."""
        if self.count == 1:
            return flag
        return bool(self.total(torch.tensor(float(flag), device=self.device)) > 0)

    def largest(self, number: int) -> int:
        """The largest number of all processes'."""
        if self.count == 1:
            return number
        return int(self.accelerator.gather(torch.tensor([number], device=self.device)).max())

    def gathered(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes, of one shape, joined along their rows: on the CPU of the main one.

        The others are given back their own.
        """
        if self.count == 1:
            return tensor.cpu()
        parts = [torch.empty_like(tensor) for _ in range(self.count)] if self.main else None
        torch.distributed.gather(tensor.contiguous(), parts)
        return torch.cat([part.cpu() for part in parts]) if parts else tensor

    def same(self, module: nn.Module | Tokenizer) -> None:
        """Give every process the main one's state of `module`."""
        if self.count > 1:
            module.load_state_dict(broadcast(module.state_dict()))

    def agree(self, number: int, what: str) -> None:
        """Raise an `InputError` unless all processes have the same number; returns when all have been asked."""
        if self.count > 1:
            numbers = self.accelerator.gather(torch.tensor([number], device=self.device)).tolist()
            if len(set(numbers)) > 1:
                raise InputError(f"{what} differs between processes ({numbers}): give all of them the same folders")

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The others enter when the main one has left."""
        with self.accelerator.main_process_first():
            yield


@functools.cache
def processes() -> Processes:
    """The one that is."""
    return Processes()
