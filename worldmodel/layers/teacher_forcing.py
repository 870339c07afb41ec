"""Teacher forcing with a noised copy of every frame: how training computes exactly what a dream computes.

In a dream a frame is denoised from the memory of finished frames, and enters it when it is finished. Here a clip's
frames come chunk by chunk, each chunk first noised and then clean (`interleaved`). A noised one sees what is remembered
of the chunks before it, and itself; it is never remembered. A clean one sees the clean ones only, as in
`WorldModel.observe`. Layers compute all of them alike but for three places: the scan, its convolution, and attention
(`windows.attend_sdpa`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lssvwm.worldmodel.layers.fused import convolve
from lssvwm.worldmodel.layers.runtime import ScanChoice
from lssvwm.worldmodel.layers.scan import intra_chunk, scan
from lssvwm.worldmodel.layers.triton_scan import Scanned


class Copies(NamedTuple):
    """The two copies of all T entries, (B, T, ...)."""

    noised: Tensor
    clean: Tensor


def interleaved(noised: Tensor, clean: Tensor, piece: int) -> Tensor:
    """Both (B, T, ...) as (B, 2 T, ...): `piece` entries of the one, as many of the other, and so on."""
    parts = [v.unflatten(1, (-1, piece)) for v in (noised, clean)]
    return torch.stack(parts, 2).flatten(1, 3)


def deinterleaved(x: Tensor, piece: int) -> Copies:
    """Inverse of `interleaved`."""
    return Copies(*(part.flatten(1, 2) for part in x.unflatten(1, (-1, 2, piece)).unbind(2)))


def convolve_copies(past: Tensor, x: Copies, weight: Tensor, bias: Tensor, piece: int) -> Copies:
    """`convolve` of both copies (b, T, c) after past (b, w - 1, c); a noised piece continues the clean ones before it.

    Being linear, what it gives there is what the clean piece gives and the convolution of their difference.
    """
    with torch.autocast(weight.device.type, enabled=False):  # in few bits little would be left of a difference
        noised, remembered = x.noised.to(weight), x.clean.to(weight)
        clean = convolve(past, remembered, weight, bias)
        reach = min(piece, weight.shape[1])
        differ = (noised - remembered).unflatten(1, (-1, piece)).flatten(0, 1)
        before = differ.new_zeros(len(differ), reach - 1, differ.shape[2])
        change = convolve(before, differ, weight[:, -reach:], torch.zeros_like(bias))
        total = clean + change.reshape(clean.shape)
    return Copies(total.to(x.noised), clean.to(x.clean))


def scan_copies(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    *,
    piece: int,
    advance: bool = True,
    choice: ScanChoice = "auto",
) -> Scanned:
    """`scan` without D over interleaved sequences of tokens, in pieces of `piece`; shapes as there.

    One ordinary scan, by whatever computes it, in which noised tokens have dt = 0: they read the state before them and
    leave it as it is. What they are to each other, and how far the state fades between them, is added to it.
    """
    steps = deinterleaved(dt, piece)
    y, state = scan(
        x,
        interleaved(torch.zeros_like(steps.noised), steps.clean, piece),
        A,
        B,
        C,
        None,
        state,
        advance=advance,
        choice=choice,
    )
    answers = deinterleaved(y, piece)

    def noised(v: Tensor) -> Tensor:
        pieces: Tensor = deinterleaved(v, piece).noised.unflatten(1, (-1, piece))
        return pieces.flatten(0, 1)

    own = noised(dt)
    log_decay = (own * A).cumsum(1)
    mutual = intra_chunk(noised(x) * own[..., None], log_decay, noised(B), noised(C)).reshape(answers.noised.shape)
    fading = log_decay.exp().reshape(steps.noised.shape)[..., None]
    return Scanned(interleaved(torch.addcmul(mutual, answers.noised, fading), answers.clean, piece), state)
