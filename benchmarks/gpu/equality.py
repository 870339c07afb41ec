"""The kernels against plain torch: values and gradients, where public reports name trouble."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.gpu.sheet import CUDA, Setting, Sheet
from kernel_cases import Case, compare, prepare_interpreter
from lssvwm.worldmodel.layers.attention import FrameLocalAttention
from lssvwm.worldmodel.layers.windows import KeyValues, Window, attend_flex, attend_sdpa, block_mask, compiled_flex
from lssvwm.worldmodel.presets import SIZES

SCAN = {"float32": 1e-2, "bfloat16": 3e-2}
"""Largest error over the largest entry; products of float32 are taken in TF32."""
ATTENTION = {"float32": 1e-2, "bfloat16": 3e-2}
MOST_GRAPHS = 24
"""Compilations of FlexAttention over all that is asked of it here; past `runtime.SHAPES` there would be no kernel."""


def scans(setting: Setting, sheet: Sheet, *, chunk: int, dtype: str, state: int) -> None:
    """`tests/kernel_cases.compare` at the sizes of the presets, for whole chunks, ragged and short lengths."""
    if not setting.cuda:
        prepare_interpreter()
    size = {"b": 1, "h": 1, "p": 16, "n": 16} if setting.rehearse else {"b": 3, "h": 6, "p": 64, "n": state}
    cases = {
        "ragged": Case(**size, length=2 * chunk + chunk // 2 + 3, chunk=chunk),
        "whole": Case(**size, length=2 * chunk, chunk=chunk, skip=False),
        "short": Case(**size, length=max(1, chunk // 3), chunk=chunk),
        "one token": Case(**size, length=1, chunk=chunk),
        "from nothing": Case(**size, length=chunk + 1, chunk=chunk, zeros=True),
        "looking ahead": Case(**size, length=chunk + 1, chunk=chunk, advance=False),
    }
    for name, case in list(cases.items())[: 1 if setting.rehearse else None]:
        for what, error in compare(case, setting.device, getattr(torch, dtype)).items():
            sheet.at_most(f"{name} ({case.length} tokens): {what}", error, SCAN[dtype])


def attentions(setting: Setting, sheet: Sheet, *, dtype: str) -> None:
    """FlexAttention at token counts that 128 does not divide, for rows that lack frames, against SDPA in float64."""
    kind, grad = getattr(torch, dtype), setting.cuda
    sizes = [(49, frames, past) for frames in (3, 5, 21) for past in (0, 1, 7)] + [(64, 12, 10), (16, 80, 4)]
    for tokens, frames, past in sizes[-1:] if setting.rehearse else sizes:
        if setting.rehearse:
            tokens, frames = 7, 12
        for own in (False, True):
            errors = flex_errors(Window(4, 1), past, frames, tokens, kind, setting.device, grad, own=own)
            case = f"{tokens} tokens, {frames} frames{' twice' if own else ''} after {past}"
            for what, error in errors.items():
                sheet.at_most(f"{case}: {what}", error, ATTENTION[dtype])
    if not setting.cuda:
        sheet.not_run("gradients, and compilations by lengths", CUDA)
        return
    sheet.note("the same with scores modified instead: largest error", scored_error(kind, setting.device))
    for length in (16, 24, 32, 40, *range(2, 17)):  # a curriculum, and the contexts of dreams
        layer_of_frames(length, kind, setting.device)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    sheet.at_most("graphs that FlexAttention was compiled to", float(graphs), MOST_GRAPHS)


def layer_of_frames(length: int, dtype: torch.dtype, device: str) -> None:
    """Attention as `small` computes it, over so many frames; backwards too, where they are a clip's."""
    layer = FrameLocalAttention(SIZES["small"]).to(device)
    x = torch.randn(3, length, 64, 192, device=device)
    with torch.autocast(device, dtype, enabled=dtype != torch.float32), torch.set_grad_enabled(length > 16):
        out, _ = layer(x, layer.empty(3, x), torch.zeros(3, dtype=torch.int64, device=device))
        if length > 16:
            out.float().square().sum().backward()


def scored_error(dtype: torch.dtype, device: str) -> float:
    """What public reports name: score_mod and block_mask together, at 49 tokens; worst of values and gradients."""
    past, frames, tokens, rule = 4, 5, 49, Window(4, 1)
    source = torch.Generator().manual_seed(0)
    shapes = [(2, 1, count * tokens, 32) for count in (frames, past + frames, past + frames)]
    given = [torch.randn(shape, generator=source).to(dtype) for shape in shapes]
    absent = torch.tensor([0, past * tokens])
    found = []
    for to, kind in ((device, dtype), ("cpu", torch.float64)):
        q, k, v = inputs = [each.to(to, kind).requires_grad_() for each in given]
        hidden = absent.to(to)
        if to == "cpu":
            there = block_mask(rule, past, frames, tokens, torch.device("cpu")).mask_mod
            query, key = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])
            mask = there(key, key, query, key) & (key >= hidden[:, None, None, None])
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:

            def hide(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor, hidden: Tensor = hidden) -> Tensor:
                return torch.where(j >= hidden[b], score, -torch.inf)

            blocks = block_mask(rule, past, frames, tokens, torch.device(to))
            out = compiled_flex()(q, k, v, score_mod=hide, block_mask=blocks)
        grads = torch.autograd.grad(out.float().square().sum(), inputs)
        found.append([each.detach().double().cpu() for each in (out, *grads)])
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*found, strict=True))


def flex_errors(
    rule: Window, past: int, frames: int, tokens: int, dtype: torch.dtype, device: str, grad: bool, *, own: bool = False
) -> dict[str, float]:
    """Largest error over the largest entry: output and gradients of queries, keys and values, and with `own` of those
    that every frame has for itself.
    """
    source = torch.Generator().manual_seed(0)

    def normal(count: int) -> Tensor:
        return torch.randn(3, count, tokens, 2, 32, generator=source).to(dtype)

    given = [normal(frames), normal(past + frames), normal(past + frames), *(normal(frames) for _ in range(2 * own))]
    weight = torch.randn(given[0].shape, generator=source, dtype=torch.float64)
    seen = torch.tensor([past, past // 2, 0])
    found = []
    for function, to in ((attend_flex, (device, dtype)), (attend_sdpa, ("cpu", torch.float64))):
        inputs = [v.to(*to).requires_grad_(grad) for v in given]
        out = function(*inputs[:3], seen.to(to[0]), rule, own=KeyValues(*inputs[3:]) if own else None)
        grads = torch.autograd.grad((out * weight.to(out)).sum(), inputs) if grad else ()
        found.append([v.detach().double().cpu() for v in (out, *grads)])
    names = ("values", "dq", "dk", "dv", "own dk", "own dv")
    return {name: float((a - b).abs().max() / b.abs().max()) for name, a, b in zip(names, *found, strict=False)}
