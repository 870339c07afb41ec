"""The selective state-space scan of Mamba-2 (state-space duality; Dao & Gu 2024, section 6) as free functions.

    state_t = exp(dt_t * A) * state_{t-1} + dt_t * x_t B_t^T
    y_t     = state_t C_t + D * x_t

Shapes: x (b, l, h, p); dt (b, l, h), positive; A (h,), negative; B, C (b, l, n), shared by the heads; D (h,), or None
where the caller adds that term; state (b, n, h, p): n in front, so that reading it by C and writing it by B are plain
matrix products without a copy. `scan` is the one the model calls. Behind it are the matrix form in
torch, for one chunk of tokens and for many, and the Triton kernel; the recurrence, step by step, is the reference.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from lssvwm.worldmodel.layers.runtime import ScanChoice, choose_scan
from lssvwm.worldmodel.layers.triton_scan import Scanned, scan_triton

TARGET_CHUNK = 64
"""Fastest on CPU between 32 and 100 tokens (measured); cost is dominated by padding, so chunks are made even."""


def scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    state: Tensor | None = None,
    *,
    advance: bool = True,
    in_place: bool = False,
    choice: ScanChoice = "auto",
) -> Scanned:
    """Scan l tokens from `state` (zeros when None), by the implementation that `choice` comes to for these tensors.

    With `advance=False` the outputs are the same but the state comes back as it was given: a denoising pass looks
    ahead without committing, and not writing the state is what makes it cheap. `in_place` writes the new state over
    the one that was given, where gradients are off. Under autocast x, B and C may have 16 bits; the state keeps its
    dtype.
    """
    if x.ndim != 4 or dt.ndim != 3 or B.ndim != 3 or C.ndim != 3:
        raise ValueError(
            f"scan wants x (b, l, h, p), dt (b, l, h), B and C (b, l, n); got {tuple(x.shape)}, {tuple(dt.shape)}, "
            f"{tuple(B.shape)}, {tuple(C.shape)}"
        )
    b, length, h, p = x.shape
    if state is None:
        state = dt.new_zeros(b, B.shape[-1], h, p)
    chunk = even_chunk(length)
    kind = choose_scan(choice, x.device.type, x.dtype)
    # A single chunk, as in dreams, is a few products: the kernels have nothing to gain there, and minutes to tune.
    if kind == "triton" and (chunk < length or choice == "triton"):
        y, after = scan_triton(x, dt, A, B, C, D, state, advance=advance)
    elif chunk >= length:
        return scan_one_chunk(x, dt, A, B, C, D, state, advance=advance, in_place=in_place)
    else:
        y, after = scan_chunked(x, dt, A, B, C, D, state, chunk=chunk, advance=advance)
    return Scanned(y, state.copy_(after) if advance and in_place else after)


def scan_one_chunk(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    state: Tensor,
    *,
    advance: bool = True,
    in_place: bool = False,
) -> Scanned:
    """Matrix form of few tokens, quadratic in their number: all of a frame in a dream, or a short clip."""
    h, p = x.shape[2:]
    columns = state.flatten(2)  # (b, n, h * p): B and C are shared by the heads
    log_decay = (dt * A).cumsum(1)  # (b, l, h)
    inputs = x * dt[..., None]
    answers = read(columns, C).unflatten(-1, (h, p))
    y = torch.addcmul(intra_chunk(inputs, log_decay, B, C), answers, log_decay.exp()[..., None])
    if advance:
        whole = log_decay[:, -1:]  # (b, 1, h)
        added = (inputs * (whole - log_decay).exp()[..., None]).flatten(2)  # (b, l, h * p)
        kept = whole.exp().repeat_interleave(p, -1)
        columns = columns.mul_(kept) if in_place else columns * kept
        # In place either way, for what is new by now: autocast would compute the other form in 16 bits.
        if x.shape[1] == 1:
            columns = columns.addcmul_(B.mT, added)
        else:
            columns = columns.baddbmm_(B.mT.to(columns.dtype), added.to(columns.dtype))
        state = columns.unflatten(-1, (h, p))
    return Scanned(y if D is None else torch.addcmul(y, D[:, None], x), state)


def intra_chunk(inputs: Tensor, log_decay: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """What the tokens of one chunk answer each other, without what was there before: (b, l, h, p).

    Inputs dt * x (b, l, h, p), log_decay (b, l, h) summed from the first token on.
    """
    products = C @ B.mT  # (b, l, s)
    if inputs.shape[1] == 1:
        return inputs * products[..., None]
    return (decayed(products[:, None], log_decay.transpose(1, 2)) @ inputs.transpose(1, 2)).transpose(1, 2)


def read(columns: Tensor, C: Tensor) -> Tensor:
    """What states (b, n, m) answer to C (b, l, n): the product C columns, (b, l, m)."""
    b, n, m = columns.shape
    if C.shape[1] > 1 or columns.device.type != "cpu" or columns.dtype != C.dtype or torch.is_grad_enabled():
        return C @ columns
    # One token's is a weighted sum of rows, bound by memory: twice as fast this way as by a product of matrices.
    rows = torch.arange(b * n, device=columns.device)
    summed = functional.embedding_bag(
        rows, columns.reshape(b * n, m), rows[::n], mode="sum", per_sample_weights=C.reshape(-1)
    )
    return summed[:, None]


def decayed(products: Tensor, log_decay: Tensor) -> Tensor:
    """Products (..., l, s) of tokens l and s, zero where s > l, decayed by what lies between; log_decay (..., l) summed
    from the first token on.
    """
    between = log_decay[..., :, None] - log_decay[..., None, :]
    later = torch.ones(between.shape[-2:], dtype=torch.bool, device=between.device).triu(1)
    return products * between.masked_fill(later, -torch.inf).exp()


def even_chunk(length: int, target: int = TARGET_CHUNK) -> int:
    """Chunk size near `target` that cuts `length` with the least padding."""
    return math.ceil(length / max(1, round(length / target)))


def scan_step(state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None) -> Scanned:
    """One token: x (b, h, p), dt (b, h), B and C (b, n). The recurrence as written above."""
    decay = torch.exp(dt * A)[:, None, :, None]
    state = state * decay + B[:, :, None, None] * (dt[..., None] * x)[:, None]
    y = torch.einsum("bnhp,bn->bhp", state, C)
    return Scanned(y if D is None else y + D[:, None] * x, state)


def scan_sequential(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, state: Tensor) -> Scanned:
    """Token by token: the reference."""
    outputs = []
    for t in range(x.shape[1]):
        y, state = scan_step(state, x[:, t], dt[:, t], A, B[:, t], C[:, t], D)
        outputs.append(y)
    return Scanned(torch.stack(outputs, 1), state)


def scan_chunked(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    state: Tensor,
    *,
    chunk: int,
    advance: bool = True,
) -> Scanned:
    """Matrix form: quadratic inside chunks of `chunk` tokens, recurrent between them; linear in l.

    A ragged tail is padded with dt = 0: decay one, no input, so the state passes through unchanged.
    """
    b, length, h, p = x.shape
    pad = -length % chunk
    padded = [functional.pad(v, (0, 0) * (v.ndim - 2) + (0, pad)) if pad else v for v in (x, dt, B, C)]
    count = (length + pad) // chunk
    xs, dts, Bs, Cs = (v.reshape(b, count, chunk, *v.shape[2:]) for v in padded)

    log_decay = (dts * A).transpose(2, 3).cumsum(-1)  # (b, c, h, l)
    inputs = (xs * dts[..., None]).transpose(2, 3)  # (b, c, h, l, p)

    within = decayed((Cs @ Bs.transpose(-1, -2))[:, :, None], log_decay) @ inputs  # (b, c, h, l, p)

    # What each chunk adds to the state, as one product over (h, p) columns since B is shared by the heads.
    starts = state.flatten(2)[:, None]  # (b, c, n, h * p), the state before each chunk
    if count > 1 or advance:
        to_end = (log_decay[..., -1:] - log_decay).exp()[..., None]
        columns = (inputs * to_end).transpose(2, 3).flatten(3)
        added = (Bs.transpose(-1, -2) @ columns).unflatten(-1, (h, p))  # (b, c, n, h, p)
        # unbind, not indexing: the backward pass of indexing is quadratic in the number of chunks.
        carried, before = state, []
        for decay, new in zip(log_decay[..., -1].exp().unbind(1), added.unbind(1), strict=True):
            before.append(carried)
            carried = torch.addcmul(new, carried, decay[:, None, :, None])
        starts = torch.stack(before, 1).flatten(3) if count > 1 else starts
        state = carried if advance else state

    across = (Cs @ starts).unflatten(-1, (h, p)) * log_decay.exp().transpose(2, 3)[..., None]
    y = (within.transpose(2, 3) + across).reshape(b, count * chunk, h, p)[:, :length]
    return Scanned(y if D is None else torch.addcmul(y, D[:, None], x), state)
