# ruff: noqa: N801  the exhibits need no names, their decorators give them
"""The gradient is wrong."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import Function

from .exhibits import Gate, numbers, plant


@plant("a factor 2", "gradients", r"`w` that is 2 times.*taken twice")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        grad_x, grad_w = Gate.backward(ctx, grad)
        return grad_x, 2 * grad_w


@plant("a factor of 1 %", "gradients", r"`x` that is 1\.01 times")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        grad_x, grad_w = Gate.backward(ctx, grad)
        return 1.01 * grad_x, grad_w


@plant("a sign", "gradients", r"-1 times.*sign lost")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        grad_x, grad_w = Gate.backward(ctx, grad)
        return -grad_x, grad_w


@plant("a mean taken twice", "gradients", r"is a mean over 12 taken twice", numbers(4, 3))
class _(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x**2).mean()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (2 * x / x.numel()) / x.numel()


@plant("half of the product rule", "gradients", r"`x` is not the numerical one", numbers(4, 3))
class _(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.tanh(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * torch.tanh(x)


@plant("a constant added", "gradients", r"off by a constant")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        grad_x, grad_w = Gate.backward(ctx, grad)
        return grad_x + 0.01, grad_w


@plant("None for a weight", "gradients", r"no gradient for `w`")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        return Gate.backward(ctx, grad)[0], None


@plant("two gradients swapped", "gradients", r"swapped", numbers(3, 3), numbers(3, 3, seed=2))
class _(Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a * torch.sin(b)

    @staticmethod
    def backward(ctx, grad):
        a, b = ctx.saved_tensors
        return grad * a * torch.cos(b), grad * torch.sin(b)


@plant("weight by .data", "gradients", r"no gradient for `weight`", numbers(4, 3))
class _(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

    def forward(self, x):
        return x @ self.weight.data.t() + self.bias


@plant("a norm held constant", "gradients", r"`x` is not the numerical one", numbers(4, 3))
def _(x):
    return x / x.norm(dim=1, keepdim=True).detach()


@plant("all under no_grad", "gradients", r"no gradient for `x`, `w`")
def _(x, w):
    with torch.no_grad():
        return torch.tanh(x) * w


@plant("through NumPy", "gradients", r"NumPy", numbers(4, 3))
def _(x):
    return torch.from_numpy(np.tanh(x.detach().numpy()))


@plant("a border forgotten", "gradients", r"wrong in 4 of 12 elements", numbers(4, 3))
class _(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return F.pad(x**2, (1, 1), mode="constant")

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        inner = grad[:, 1:-1] * 2 * x
        inner[:, -1] = 0
        return inner


@plant("the negative side", "gradients", r"`x`.*wrong in \d+ of 12", numbers(4, 3))
class _(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return F.elu(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * torch.where(x > 0, torch.ones_like(x), 0.1 * torch.ones_like(x))


@plant(
    "slope cut off far out", "gradients at other scales", r"inputs times 30: .*`x`", numbers(4, 3)
)
class _(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sqrt(1 + x**2)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        exact = (1 + 2 * x**2) / torch.sqrt(1 + x**2)
        return grad * torch.where(x.abs() < 10, exact, torch.zeros_like(x))


@plant("an unused output", "gradients", r"only one output is used", numbers(4, 3))
class _(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x)
        return x.sin(), x.cos()

    @staticmethod
    def backward(ctx, first, second):
        (x,) = ctx.saved_tensors
        return first * x.cos() - second * x.sin()


@plant("float64 lost", "gradients", r"float32 output", numbers(4, 3))
def _(x):
    return torch.tanh(x.float())
