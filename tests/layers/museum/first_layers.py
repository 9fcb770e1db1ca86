# ruff: noqa: N801  the exhibits need no names, their decorators give them
"""Mistakes of a first layer."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from .exhibits import Gate, Square, numbers, plant, slope


@plant("a part detached", "gradients", r"part detached", numbers(4, 3))
class _(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return x + self.outer(torch.tanh(self.inner(x).detach()))


@plant("a norm by .item()", "gradients", r"`x`", numbers(4, 3))
def _(x):
    return x / (1 + x.detach().norm().item())


@plant("the values marked non-differentiable", "gradients", r"no gradient for `x`", numbers(4, 3))
class _(Function):
    @staticmethod
    def forward(ctx, x):
        values, indices = x.sort(1)
        ctx.save_for_backward(indices)
        ctx.mark_non_differentiable(values)
        return values, indices

    @staticmethod
    def backward(ctx, grad, _):
        (indices,) = ctx.saved_tensors
        return torch.zeros_like(grad).scatter(1, indices, grad)


@plant("a mask that passes gradients on", "gradients", r"`x` is not the numerical", numbers(4, 3))
class _(Function):
    @staticmethod
    def forward(ctx, x):
        mask = (x > 0).to(x.dtype)
        ctx.save_for_backward(mask)
        return x * mask, mask

    @staticmethod
    def backward(ctx, grad, grad_mask):
        (mask,) = ctx.saved_tensors
        return grad * mask + grad_mask


@plant("a bias gradient averaged over the batch", "gradients", r"`w` that is 0\.25 times")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        x, _ = ctx.saved_tensors
        return Gate.backward(ctx, grad)[0], (grad * torch.tanh(x)).mean(0)


@plant("grad_output forgotten", "backward twice", r"not linear in grad_output", numbers(4, 3))
class _(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return x.exp()


@plant("needs_input_grad in another order", "some inputs without gradient", r"only `[xw]` needs")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        grad_x = grad * w * slope(x) if ctx.needs_input_grad[1] else None
        grad_w = (grad * torch.tanh(x)).sum(0) if ctx.needs_input_grad[0] else None
        return grad_x, grad_w


@plant("a gradient not summed over the batch", "shapes of gradients", r"\[4, 3\] for `w` of shape")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        x, _ = ctx.saved_tensors
        return Gate.backward(ctx, grad)[0], grad * torch.tanh(x)


@plant("a gradient with an axis too many", "shapes of gradients", r"\[1, 3\] for `w` of shape")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        x, _ = ctx.saved_tensors
        return Gate.backward(ctx, grad)[0], (grad * torch.tanh(x)).sum(0, keepdim=True)


@plant("a copy that requires a gradient", "weights are parameters", r"new tensor", numbers(4, 3))
def _(x):
    return torch.from_numpy(np.sin(x.detach().numpy())).requires_grad_() * 1.0


@plant(
    "a parameter made in forward", "weights are parameters", r"new tensor.*__init__", numbers(4, 3)
)
class _(nn.Module):
    def forward(self, x):
        return F.linear(x, nn.Parameter(torch.ones(2, 3, dtype=x.dtype)))


@plant("layers in a list", "weights are parameters", r"ModuleList", numbers(4, 3))
class _(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = [nn.Linear(3, 3), nn.Linear(3, 2)]

    def forward(self, x):
        for part in self.parts:
            x = F.linear(x, part.weight.to(x), part.bias.to(x))
        return x


@plant("gradients in a buffer used again", "called twice", r"gradient of one call is overwritten",
       numbers(4, 3))  # fmt: skip
class _(Square):
    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        scratch = _SCRATCH.setdefault((x.shape, x.dtype, x.device), torch.empty_like(x))
        return torch.mul(grad, 2 * x, out=scratch)


_SCRATCH: dict[Any, Tensor] = {}


@plant("a norm without eps", "zeros", r"NaN for an input of zeros", numbers(4, 3))
def _(x):
    return x / x.square().sum(1, keepdim=True).sqrt()


@plant("the slope of a root at zero", "zeros", r"gradient for `x` is not finite", numbers(4, 3))
def _(x):
    return x.square().sum(1).sqrt()


@plant("softmax over the batch", "images apart", r"wrong for a batch", numbers(4, 3),
       required=("images apart",))  # fmt: skip
def _(x):
    return x.softmax(0)


@plant("a view of what is transposed", "images apart", r"wrong for a batch", numbers(4, 6),
       required=("images apart",))  # fmt: skip
def _(x):
    return 2 * x.t().reshape(x.shape)


@plant("values cached by shape", "state", r"cached by their shape alone", numbers(4, 3))
class _(nn.Module):
    def __init__(self):
        super().__init__()
        self.sizes = {}

    def forward(self, x):
        size = self.sizes.setdefault(x.shape, float(x.detach().abs().mean()))
        return x / size


@plant("dropout by a flag of its own", "train and eval", r"another torch seed", numbers(4, 30))
class _(nn.Module):
    def __init__(self):
        super().__init__()
        self.is_training = True

    def forward(self, x):
        return F.dropout(x, 0.3, training=self.is_training)


@plant("Python reseeded", "process-wide settings", r"reseeds Python's", numbers(4, 3))
def _(x):
    random.seed(0)
    return x * random.random()


@plant("NumPy reseeded", "process-wide settings", r"reseeds NumPy's", numbers(4, 3))
def _(x):
    np.random.seed(0)
    return x * float(np.random.rand())
