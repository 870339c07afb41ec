"""Which digits are kept: of float32 products on CUDA devices, and of what ends a pass under autocast."""

from __future__ import annotations

import torch
from torch import Tensor, nn

POLICY = "TF32"
"""Products of float32 matrices on CUDA devices round their factors to TF32, 10 bits and the whole exponent, and add
up in 32 bits. Tensor cores multiply nothing wider; in full they would take several times as long. States, time
constants, angles, losses and optimisers are sums and elementwise products, which are not concerned, and the tokenizer
is fitted in float64."""


def use_policy() -> None:
    """Let this process compute by `POLICY`; a CPU computes as before.

    Scripts, commands and dream environments call it. Who uses `WorldModel` alone on CUDA may do so too.
    """
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True


class Full(nn.Sequential):
    """Layers that autocast leaves in the precision of their weights: what a loss, a policy or a frame is made of.

    They see few numbers beside the layers before them. Rounded to the 8 bits of bfloat16, a probability above one half
    is known to a 256th, and a dream that goes on with 0.999 a step goes on for ever.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs), in the dtype of the weights."""
        with torch.autocast(x.device.type, enabled=False):
            y: Tensor = super().forward(x.to(next(self.parameters()).dtype))  # type: ignore[no-untyped-call]
            return y
