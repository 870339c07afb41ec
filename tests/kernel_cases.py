"""The Triton scan against the one in torch: outputs, states and gradients of all inputs.

Imported, for tests on CUDA. Run as a script, for a process of its own, in which Triton's interpreter runs the kernels
on CPU: it has to be told before Triton is imported, and cannot be told otherwise afterwards. Prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lssvwm.worldmodel.layers.scan import scan, scan_chunked
from lssvwm.worldmodel.layers.triton_scan import scan_triton


@dataclass(frozen=True)
class Case:
    """Sequences of `length` tokens in chunks of `chunk` (None: as the model chooses), small for the interpreter."""

    b: int = 2
    length: int = 53
    h: int = 2
    p: int = 16
    n: int = 16
    chunk: int | None = 16
    skip: bool = True
    """Whether D is given."""
    zeros: bool = False
    """Whether the state at the beginning is None."""
    advance: bool = True
    resting: int | None = None
    """Every other piece of so many tokens has dt = 0, as noised frames have."""
    grid_limit: int | None = None


CASES = {
    "ragged": Case(b=1, length=37),
    "whole chunks": Case(b=1, length=32),
    "shorter than a chunk": Case(length=5),
    "one token": Case(b=3, length=1, n=8),
    "a chunk and one token": Case(b=1, length=17),
    "as the model calls it": Case(length=21, h=1, n=32, chunk=None, skip=False),
    "a frame of a tile": Case(b=3, length=4, h=1, chunk=None, skip=False),
    "split over the grid": Case(b=3, length=18, h=1, grid_limit=4),  # 2 chunks each: 2 sequences, then 1
    "from nothing": Case(b=1, length=20, zeros=True),
    "looking ahead": Case(b=1, length=20, advance=False),
    "products of eight, every frame twice": Case(b=1, length=24, n=36, resting=3),
}


def compare(case: Case, device: str, dtype: torch.dtype) -> dict[str, float]:
    """Largest difference over the largest entry, by name: y, state and the gradient of every input.

    The reference computes in float64 from the same rounded inputs.
    """
    source = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=source, dtype=torch.float64)

    b, length, h, p, n = case.b, case.length, case.h, case.p, case.n
    awake = torch.ones(length) if case.resting is None else torch.arange(length) // case.resting % 2
    inputs = {
        "x": normal(b, length, h, p).to(dtype),
        "dt": (torch.exp(normal(b, length, h) - 2) * awake[:, None]).float(),
        "A": -torch.exp(normal(h)).float(),
        "B": normal(b, length, n).to(dtype),
        "C": normal(b, length, n).to(dtype),
        "D": normal(h).float() if case.skip else None,
        "start": None if case.zeros else normal(b, n, h, p).float(),
    }
    weights = normal(b, length, h, p), normal(b, n, h, p)

    def run(reference: bool) -> dict[str, Tensor]:
        to = {"device": "cpu", "dtype": torch.float64} if reference else {"device": device}
        given = {k: v.to(**to).requires_grad_() for k, v in inputs.items() if v is not None}  # type: ignore[call-overload]
        x, dt, A, B, C, D, start = (given.get(name) for name in inputs)
        if start is None:
            start = torch.zeros(b, n, h, p).to(**to)  # type: ignore[call-overload]
        if reference:
            out: Any = scan_chunked(x, dt, A, B, C, D, start, chunk=16, advance=case.advance)
        elif case.chunk is None and case.grid_limit is None:
            out = scan(x, dt, A, B, C, D, start, advance=case.advance, choice="triton")
        else:
            limits = {} if case.grid_limit is None else {"grid_limit": case.grid_limit}
            out = scan_triton(x, dt, A, B, C, D, start, advance=case.advance, chunk=case.chunk, **limits)
        assert case.advance or out.state is start
        loss = (out.y * weights[0].to(out.y)).sum()
        if case.advance:
            loss = loss + (out.state * weights[1].to(out.state)).sum()
        grads = torch.autograd.grad(loss, list(given.values()))
        return {"y": out.y, "state": out.state, **{f"d{k}": v for k, v in zip(given, grads, strict=True)}}

    ours, theirs = run(False), run(True)
    return {name: relative(ours[name], theirs[name]) for name in theirs}


def relative(actual: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest entry; not a number where anything is none."""
    assert actual.shape == expected.shape
    return float((actual.detach().cpu().double() - expected.detach()).abs().max() / expected.detach().abs().max())


def prepare_interpreter() -> None:
    """Stand-ins for what the kernels' launchers ask of a CUDA device, and no timing of configurations."""
    import triton.runtime.autotuner

    triton.runtime.autotuner.Autotuner._bench = lambda *args, **kwargs: [1.0, 1.0, 1.0]
    torch.cuda.get_device_properties = lambda *args: SimpleNamespace(multi_processor_count=4)  # type: ignore[assignment]

    class NoDevice:
        def __init__(self, *args: object) -> None: ...
        def __enter__(self) -> None: ...
        def __exit__(self, *args: object) -> None: ...

    torch.cuda.device = NoDevice  # type: ignore[assignment,misc]


if __name__ == "__main__":
    torch.set_num_threads(1)
    prepare_interpreter()
    found = {name: compare(case, "cpu", torch.float32) for name, case in CASES.items()}
    left = [name for name in sys.modules if name.startswith("mamba_ssm")]
    print(json.dumps({"errors": found, "modules left": left}))
