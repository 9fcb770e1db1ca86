# ruff: noqa: N801, RUF059  the exhibits need no names, their decorators give them
"""What is not its own is written to, shared or kept."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function

from .exhibits import Gate, numbers, plant, slope


@plant("input changed", "inputs left alone", r"forward changes `x` in place")
def _(x, w):
    return _Changing.apply(x, w)


class _Changing(Function):
    @staticmethod
    def forward(ctx, x, w):
        x.tanh_()
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx, grad):
        y, w = ctx.saved_tensors
        return grad * w * (1 - y**2), (grad * y).sum(0)


@plant("grad_output written", "inputs left alone", r"writes into grad_output")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        grad_w = (grad * torch.tanh(x)).sum(0)
        return grad.mul_(w * slope(x)), grad_w


@plant(
    "gradient in the input's memory",
    "inputs left alone",
    r"backward changes|lies in the memory of `x`",
)
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        grad_w = (grad * torch.tanh(x)).sum(0)
        return x.detach().copy_(grad * w * slope(x)), grad_w


@plant("gradient is the weight", "inputs left alone", r"lies in the memory of `w`",
       numbers(3), numbers(3, seed=1))  # fmt: skip
class _(Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return (x * w).sum()

    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        return w.mul(grad) if float(grad) == 0 else w.data, x * grad


@plant("a view returned", "views", r"view of `x` from an autograd.Function", numbers(4, 3))
class _(Function):
    @staticmethod
    def forward(ctx, x):
        return x.view(2, 6)

    @staticmethod
    def backward(ctx, grad):
        return grad.reshape(4, 3)


@plant("memory shared behind autograd's back", "views", r"shares memory with `x`", numbers(4, 3))
class _(Function):
    @staticmethod
    def forward(ctx, x):
        return x.detach()

    @staticmethod
    def backward(ctx, grad):
        return grad.clone()


@plant("ctx.x instead of save_for_backward", "changes in place caught", r"when `x` is changed")
class _(Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.x, ctx.w = x, w
        return torch.tanh(x) * w

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.w * slope(ctx.x), (grad * torch.tanh(ctx.x)).sum(0)


@plant(
    "output kept through .data",
    "changes in place caught",
    r"when the output is changed",
    numbers(4, 3),
)
class _(Function):
    @staticmethod
    def forward(ctx, x):
        y = torch.sigmoid(x)
        ctx.save_for_backward(y.data)
        return y

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        return grad * y * (1 - y)


@plant("state on the class", "called twice", r"call 1 of two", numbers(4, 3))
class _(Function):
    @staticmethod
    def forward(ctx, x):
        _Kept.kept = x.clone()
        return x**2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2 * _Kept.kept


class _Kept:
    kept: Tensor


@plant("backward counts its calls", "backward twice", r"second backward")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        ctx.calls = getattr(ctx, "calls", 0) + 1
        grad_x, grad_w = Gate.backward(ctx, grad)
        return (grad_x if ctx.calls == 1 else 0 * grad_x), grad_w


@plant("a saved tensor changed in backward", "backward twice", r"second backward", numbers(4, 3))
class _(Function):
    @staticmethod
    def forward(ctx, x):
        y = x.exp()
        ctx.save_for_backward(y + 0)
        return y

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        return y.data.mul_(grad).clone()


@plant(
    "gradient clipped inside", "backward twice", r"not linear in grad_output", 20 * numbers(2, 2)
)
class _(Function):
    @staticmethod
    def forward(ctx, x):
        return 0.8 * x

    @staticmethod
    def backward(ctx, grad):
        return (0.8 * grad).clamp(-1.7, 1.7)


@plant("fails when only w needs a gradient", "some inputs without gradient", r"only `w` needs")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        if not ctx.needs_input_grad[0]:
            return None, grad.sum(0)
        return Gate.backward(ctx, grad)


@plant(
    "crashes for a frozen weight", "some inputs without gradient", r"backward fails when only `x`"
)
class _(Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w if w.requires_grad else None)
        return torch.tanh(x) * w

    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        return grad * w * slope(x), (grad * torch.tanh(x)).sum(0)


@plant("ignores needs_input_grad", "no unneeded work", r"same work when only `[xw]`")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        return grad * w * slope(x), (grad * torch.tanh(x)).sum(0)
