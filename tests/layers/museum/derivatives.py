# ruff: noqa: N801  the exhibits need no names, their decorators give them
"""Second derivatives, forward mode and vmap are wrong."""

from __future__ import annotations

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .exhibits import Gate, numbers, plant, slope


@plant("once_differentiable", "second derivatives", r"required, but .*differentia",
       required=("second derivatives",))  # fmt: skip
class _(Gate):
    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return Gate.backward(ctx, grad)


@plant("backward detaches", "second derivatives", r"second derivative .*`x` is wrong")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        return grad * w * slope(x.detach()), (grad * torch.tanh(x)).sum(0)


@plant("kept on ctx", "second derivatives", r"second derivative .*kept on ctx", numbers(4, 3))
class _(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.cube = x**3
        ctx.save_for_backward(x)
        return x**4

    @staticmethod
    def backward(ctx, grad):
        return grad * 4 * ctx.cube


@plant("jvp drops a tangent", "forward-mode AD", r"`x` and `w` is wrong")
class _(Gate):
    generate_vmap_rule = False

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx, x_tangent, w_tangent):
        x, w = ctx.saved_tensors
        if bool((x_tangent != 0).any()):
            return slope(x) * w * x_tangent
        return torch.tanh(x) * w_tangent


@plant("vmap rule for one sample", "vmap", r"vmap over `w`")
class _(Gate):
    generate_vmap_rule = False

    @staticmethod
    def vmap(info, in_dims, x, w):
        if in_dims[0] is not None:
            x = x.movedim(in_dims[0], 0)
        if in_dims[1] is not None:
            w = w.movedim(in_dims[1], 0)[0]
        shape = torch.broadcast_shapes(x.shape, w.shape, (info.batch_size, *x.shape[-2:]))
        return Gate.apply(x.expand(shape), w), 0
