"""The implementations of the two mixers side by side: the scan in torch and Triton, attention in blocks and dense.

    python -m benchmarks.kernels [--device cpu] [--threads 1] [--repeats 3]

Forward and backward, milliseconds of this machine; the ratios are of one run, measured in turns. On CPU the Triton scan
and FlexAttention are not measured: the one needs CUDA, the other has no backward pass there.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from lssvwm.worldmodel.layers import triton_scan
from lssvwm.worldmodel.layers.runtime import choose_scan
from lssvwm.worldmodel.layers.scan import even_chunk, scan_chunked, scan_sequential
from lssvwm.worldmodel.layers.windows import Window, attend_flex, attend_sdpa

Work = Callable[[], object]


def milliseconds(works: dict[str, Work], repeats: int, device: str) -> dict[str, float]:
    """Best of `repeats` each, in turns, so that other load falls on all of them."""
    best = dict.fromkeys(works, float("inf"))
    for work in works.values():
        work()  # compiling, autotuning
    for _ in range(repeats):
        for name, work in works.items():
            if device == "cuda":
                torch.cuda.synchronize()
            begin = time.perf_counter() if device == "cuda" else time.process_time()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            spent = (time.perf_counter() if device == "cuda" else time.process_time()) - begin
            best[name] = min(best[name], 1e3 * spent)
    return best


def line(what: str, times: dict[str, float], first: str) -> None:
    listed = "  ".join(f"{name} {spent:8.2f} ms ({spent / times[first]:.2f})" for name, spent in times.items())
    print(f"{what:36s} {listed}", flush=True)


def forward_backward(function: Callable[..., Tensor], inputs: list[Tensor]) -> Work:
    def work() -> object:
        given = [v.detach().requires_grad_() for v in inputs]
        return torch.autograd.grad(function(*given).float().sum(), given)

    return work


def scans(device: str, dtype: torch.dtype, repeats: int) -> None:
    """Sequences as 8 clips in tiles give them, from one frame of a tile to 400 frames; 8 heads of 64, state 64."""
    kernel = device == "cuda" and choose_scan("auto", device, dtype) == "triton"
    if not kernel:
        print("the Triton scan is not measured: it needs a CUDA device and the packages of `make cuda`")
    heads, size, state = (8, 64, 64) if device == "cuda" else (4, 64, 32)
    for b, length in ((128, 1), (128, 4), (128, 96), (32, 400), *(((512, 1600),) if device == "cuda" else ())):
        x = torch.randn(b, length, heads, size, device=device, dtype=dtype)
        B, C = (torch.randn(b, length, state, device=device, dtype=dtype) for _ in range(2))
        dt, A = torch.rand(b, length, heads, device=device), -torch.rand(heads, device=device)
        start = torch.randn(b, state, heads, size, device=device)
        inputs = [x, dt, A, B, C, start]

        def form(name: str, *given: Tensor, length: int = length) -> Tensor:
            *rest, start = given
            if name == "torch":
                return scan_chunked(*rest, None, start, chunk=even_chunk(length)).y
            if name == "recurrence":
                return scan_sequential(*rest, None, start).y
            return triton_scan.scan_triton(*rest, None, start, chunk=int(name.removeprefix("triton "))).y

        names = ["torch", *(["recurrence"] if length <= 4 else [])]
        if kernel:
            names += [f"triton {chunk}" for chunk in ((16,) if length <= 16 else (64, 128, 256))]
        works = {name: forward_backward(functools.partial(form, name), inputs) for name in names}
        line(f"scan: {b} sequences of {length} tokens", milliseconds(works, repeats, device), "torch")


def attend_dense(q: Tensor, keys: Tensor, values: Tensor, seen: Tensor, rule: Window) -> Tensor:
    """All frames against all under one mask."""
    return attend_sdpa(q, keys, values, seen, rule, block=q.shape[1])


def attend_sliding(q: Tensor, keys: Tensor, values: Tensor, seen: Tensor, rule: Window) -> Tensor:
    """A copy of its window for every frame, laid out by a strided view, in one call; for chunks of one frame."""
    b, frames, tokens, heads, size = q.shape
    assert rule.window is not None
    lead = (0,) * 6 + (rule.window, 0)
    wide = [
        functional.pad(v, lead)
        .unfold(1, rule.window + 1, 1)
        .permute(0, 1, 3, 5, 2, 4)
        .reshape(b * frames, heads, -1, size)
        for v in (keys, values)
    ]
    steps, slots = torch.arange(frames, device=q.device), torch.arange(rule.window + 1, device=q.device)
    exists = (steps[:, None] + slots >= rule.window).repeat_interleave(tokens, -1).repeat(b, 1)[:, None, None]
    queries = q.flatten(0, 1).transpose(1, 2)
    return functional.scaled_dot_product_attention(queries, *wide, attn_mask=exists).transpose(1, 2).reshape(q.shape)


def attentions(device: str, dtype: torch.dtype, repeats: int) -> None:
    """Clips from empty memory, 16 tokens per frame (CUDA: 64), 4 heads of 32 (CUDA: 12 of 64)."""
    rows, tokens, heads, size = (4, 64, 12, 64) if device == "cuda" else (2, 16, 4, 32)
    for frames in (24, 64, 192):
        for window in (4, 10, 48, 192, None):
            if window is not None and window > frames:
                continue
            shape = (rows, frames, tokens, heads, size)
            inputs = [torch.randn(shape, device=device, dtype=dtype) for _ in range(3)]
            seen, rule = torch.zeros(rows, dtype=torch.int64, device=device), Window(window, 1)
            forms: dict[str, Callable[..., Tensor]] = {"blocks": attend_sdpa, "dense": attend_dense}
            if window is not None and window <= 48:
                forms["sliding"] = attend_sliding
            if device == "cuda":
                forms["flex"] = attend_flex
            works = {
                name: forward_backward(functools.partial(form, seen=seen, rule=rule), inputs)
                for name, form in forms.items()
            }
            line(f"attention: {frames} frames, window {window}", milliseconds(works, repeats, device), "blocks")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    print(f"{options.device}, {dtype}, {options.threads} thread(s); in brackets: over the first")
    scans(options.device, dtype, options.repeats)
    attentions(options.device, dtype, options.repeats)


if __name__ == "__main__":
    main()
