# ruff: noqa: N801  the exhibits need no names, their decorators give them
"""Dtypes that were not thought of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from .exhibits import Gate, numbers, plant, slope


@plant("float32 summed in float16", "float32", r"`w` is off by")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        lower = torch.float64 if x.dtype == torch.float64 else torch.float16
        return grad * w * slope(x), (grad * torch.tanh(x)).to(lower).sum(0).to(x.dtype)


@plant(
    "a running sum in bfloat16",
    "bfloat16 and float16",
    r"the output is off",
    3 + numbers(2, 700).abs(),
)
def _(x):
    return x.double().cumsum(1)[:, -1].to(x.dtype) if x.dtype != torch.bfloat16 else _one_by_one(x)


def _one_by_one(x: Tensor) -> Tensor:
    total = x[:, 0]
    for column in range(1, x.shape[1]):
        total = total + x[:, column]
    return total


@plant(
    "a float32 table for half inputs",
    "bfloat16 and float16",
    r"is a tensor made in float32",
    numbers(4, 3),
)
def _(x):
    table = torch.eye(3, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    return x @ table


@plant(
    "two dtypes under autocast",
    "autocast",
    r"forward saw autocast's dtype",
    numbers(4, 3),
    numbers(2, 3),
)
class _(Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return F.linear(x, w)

    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        return grad @ w, grad.t() @ x
