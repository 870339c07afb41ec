"""How float32 products are computed on CUDA devices: the one place that decides it."""

from __future__ import annotations

import torch

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
