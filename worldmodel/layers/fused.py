"""Parts of a layer that are not products, each with its gradient written down, for full precision on a CPU.

Between products of matrices a layer is bound by memory and by the number of operations. Autograd keeps every
intermediate result of a composition and walks back through each; these keep what the gradient needs. Each computes what
the composition of torch's own functions in its first lines does (tested), which is taken on other devices and in half
precision, where torch has kernels for it.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

_FULL = (torch.float32, torch.float64)
_LINEAR = 2 * math.sqrt(2 / math.pi)
_CUBIC = 0.044715 * _LINEAR


def _here(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in _FULL


class _Forgetful:
    """What a forward pass keeps things in that nobody will ask for."""

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Do nothing."""


def _applied(function: type[torch.autograd.Function], *given: Any) -> Tensor:
    forward: Any = function.apply if torch.is_grad_enabled() else functools.partial(function.forward, _Forgetful())
    result: Tensor = forward(*given)
    return result


def gelu(x: Tensor) -> Tensor:
    """GELU in its tanh form, as x * sigmoid(2 z): the exponential of a sigmoid takes a third of the time of tanh."""
    if not _here(x):
        return functional.gelu(x, approximate="tanh")
    return _applied(_Gelu, x)


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        share = (x * x).mul_(_CUBIC).add_(_LINEAR).mul_(x).sigmoid_()
        ctx.save_for_backward(x, share)
        return share * x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        x, share = ctx.saved_tensors
        slope = (x * x).mul_(3 * _CUBIC).add_(_LINEAR).mul_(x)  # of what the sigmoid is taken of, times x
        return torch.addcmul(share, share - share * share, slope).mul_(gradient)


def convolve(past: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A causal convolution of each channel: x (b, l, c) after past (b, w - 1, c), weight (c, w), bias (c,).

    A sum of w shifted products: convolutions with a group per channel take several times as long.
    """
    if not _here(x):
        joined = torch.cat([past, x], 1).transpose(1, 2)
        return functional.conv1d(joined, weight[:, None], bias, groups=len(weight)).transpose(1, 2)
    taps = weight.T.contiguous()  # (w, c)
    if x.shape[1] == 1 and not torch.is_grad_enabled():
        total = torch.addcmul(bias, x, taps[-1])
        for before, tap in enumerate(taps[:-1]):
            total.addcmul_(past[:, before : before + 1], tap)
        return total
    return _applied(_Convolve, torch.cat([past, x], 1), taps, bias)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, joined: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
        length = joined.shape[1] - len(taps) + 1
        total = torch.addcmul(bias, joined[:, :length], taps[0])
        for shift in range(1, len(taps)):
            total.addcmul_(joined[:, shift : shift + length], taps[shift])
        ctx.save_for_backward(joined, taps)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        joined, taps = ctx.saved_tensors
        length, of_joined, of_taps = gradient.shape[1], torch.zeros_like(joined), []
        for shift, tap in enumerate(taps):
            window = slice(shift, shift + length)
            of_joined[:, window].addcmul_(gradient, tap)
            of_taps.append((joined[:, window] * gradient).sum((0, 1)))
        return of_joined, torch.stack(of_taps), gradient.sum((0, 1))


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of x * silu(gate) over the last axis, times weight."""
    if not _here(x) or not _here(gate):
        return functional.rms_norm(x * functional.silu(gate), weight.shape, weight, eps)
    return _applied(_GatedRMSNorm, x, gate, weight, eps)


class _GatedRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
        share = gate.sigmoid()
        open_ = share * gate
        gated = open_ * x
        scale = _inverse_rms(gated, eps)
        ctx.save_for_backward(x, weight, share, open_, scale)
        return gated.mul_(scale).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, share, open_, scale = ctx.saved_tensors
        inner, of_weight = _of_norm(gradient, (open_ * x).mul_(scale), weight, scale)
        slope = torch.addcmul(share, open_, 1 - share)
        return inner * open_, slope.mul_(x).mul_(inner), of_weight, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of x over the last axis, times weight."""
    if not _here(x):
        return functional.rms_norm(x, weight.shape, weight, eps)
    return _applied(_RMSNorm, x, weight, eps)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = _inverse_rms(x, eps)
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        return *_of_norm(gradient, x * scale, weight, scale), None


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.rsqrt(length.square_().div_(x.shape[-1]).add_(eps))


def _of_norm(gradient: Tensor, normed: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients with respect to what was normed, and to the weight."""
    of_weight = (normed * gradient).sum(tuple(range(normed.ndim - 1)))
    inner = gradient * weight
    along = (inner * normed).sum(-1, keepdim=True).div_(-normed.shape[-1])
    return inner.addcmul_(normed, along).mul_(scale), of_weight


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn pairs of channels of x (..., 2 n) by angles with these cosines and sines, (..., n) or what expands to it.

    Channel i and channel n + i are a pair.
    """
    if not _here(x):
        first, second = x.chunk(2, -1)
        return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)
    return _applied(_Rotate, x, cos, sin)


def _turned(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    turned, half = torch.empty_like(x, memory_format=torch.contiguous_format), x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    turned[..., :half] = first * cos
    turned[..., :half].addcmul_(second, sin, value=-sign)
    turned[..., half:] = second * cos
    turned[..., half:].addcmul_(first, sin, value=sign)
    return turned


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(gradient, cos, sin, -1), None, None
