# ruff: noqa: N801  the exhibits need no names, their decorators give them
"""What torch does with a layer: meta tensors, the compiler, operators, checkpoints."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .exhibits import Gate, numbers, plant, slope


@plant(".item() in forward", "meta tensors", r"reads a value of a tensor", numbers(4, 3))
def _(x):
    return x / max(x.detach().abs().max().item(), 1e-6) if x.numel() else x * 1


@plant("a tensor on the CPU", "meta tensors", r"device=input.device|two devices", numbers(4, 3))
def _(x):
    return x * torch.arange(1, 4, dtype=x.dtype)


@plant("a graph break", "torch.compile", r"breaks the graph", numbers(4, 3))
def _(x):
    torch._dynamo.graph_break()
    return torch.tanh(x)


@plant("another answer when compiled", "torch.compile", r"compiled against eager", numbers(4, 3))
def _(x):
    if torch.compiler.is_compiling():
        return x - x**3 / 3
    return torch.tanh(x)


@plant(
    "another answer without gradient", "no_grad and inference_mode", r"under no_grad", numbers(4, 3)
)
def _(x):
    return torch.tanh(x) if torch.is_grad_enabled() else x.clamp(-1, 1)


@torch.library.custom_op("toque_museum::doubled", mutates_args=())
def doubled(x: Tensor) -> Tensor:
    return torch.cat([x, x])


@doubled.register_fake
def _(x):
    return torch.empty_like(x)


doubled.register_autograd(lambda ctx, grad: grad.unflatten(0, (2, -1)).sum(0))


plant("a wrong fake of an operator", "custom operator", r"opcheck", numbers(4, 3),
      required=("custom operator",))(doubled)  # fmt: skip


@plant("ctx.saved_tensors read twice", "checkpoint", r"reads ctx.saved_tensors more than once")
class _(Gate):
    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors[0], ctx.saved_tensors[1]
        return grad * w * slope(x), (grad * torch.tanh(x)).sum(0)


@plant(
    "forward that depends on how often it ran", "checkpoint",
    r"run again as it did|under checkpoint", numbers(4, 3),
)  # fmt: skip
class _(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return torch.tanh(x) if self.calls % 2 else x.tanh() + x.exp() * 0.1
