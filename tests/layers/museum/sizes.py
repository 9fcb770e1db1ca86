# ruff: noqa: N801  the exhibits need no names, their decorators give them
"""Layouts and sizes that were not thought of."""

from __future__ import annotations

import torch

from .exhibits import Gate, Square, numbers, plant, slope


@plant(
    "contiguous input assumed",
    "strides",
    r"`x` (transposed|every second element): the output differs",
)
def _(x, w):
    return torch.tanh(torch.as_strided(x, x.shape, (x.shape[1], 1), x.storage_offset())) * w


@plant(
    "NCHW assumed",
    "strides",
    r"`x` (transposed|channels_last|every second element)",
    numbers(2, 3, 4, 4),
)
def _(x):
    rows = torch.as_strided(x, (x.shape[0], x[0].numel()), (x[0].numel(), 1), x.storage_offset())
    return rows.reshape(x.shape) ** 2


@plant(".view of an input", "strides", r"it calls \.view\(\)", numbers(4, 6))
def _(x):
    return (x.view(-1, 2) ** 2).sum(1)


@plant(
    "an offset forgotten", "strides", r"with a storage offset: the output differs", numbers(4, 3)
)
def _(x):
    return torch.as_strided(x, x.shape, x.stride(), 0).sin()


@plant(
    "contiguous grad_output assumed",
    "strides of grad_output",
    r"grad_output (expanded|transposed|every)",
)
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        flat = torch.as_strided(
            grad, grad.shape, (min(3, grad.numel()), 1) if grad.stride(0) else (0, 0)
        )
        return Gate.backward(ctx, flat)


@plant("squeeze without an axis", "other sizes", r"a batch of one loses its axis", numbers(4, 3))
def _(x):
    return torch.tanh(x).squeeze()


@plant("an odd last column", "other sizes", r"x7x5", numbers(2, 1, 4, 4))
class _(Square):
    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        even = x.shape[-1] - x.shape[-1] % 2
        return torch.cat([(2 * x * grad)[..., :even], torch.zeros_like(x)[..., even:]], -1)


@plant("NaN on an empty batch", "empty batch", r"`w` is NaN on an empty batch")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        product = grad * torch.tanh(x)
        return grad * w * slope(x), product.mean(0) * product.shape[0]


@plant("exp before it is bounded", "large values", r"logsumexp", numbers(4, 3))
def _(x):
    return torch.log(torch.exp(x).sum(1))
