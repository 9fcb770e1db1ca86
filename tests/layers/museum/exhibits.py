"""How a wrong layer is put on show, and the right one that most of them change in one place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function


@dataclass(frozen=True)
class Exhibit:
    layer: Callable[..., Any]
    inputs: tuple[Any, ...]
    check: str
    words: str
    required: tuple[str, ...] = ()


EXHIBITS: dict[str, Exhibit] = {}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + 17 * len(shape)))


def pair() -> tuple[Tensor, Tensor]:
    return numbers(4, 3), numbers(3, seed=1)


def plant(
    name: str, check: str, words: str, *inputs: Any, required: tuple[str, ...] = ()
) -> Callable[[Any], Any]:
    """Puts a function, a Function or a module class on show."""

    def show(made: Any) -> Any:
        layer = made
        if isinstance(made, type) and issubclass(made, Function):
            layer = made.apply
        elif isinstance(made, type) and issubclass(made, nn.Module):
            layer = made()
        EXHIBITS[name] = Exhibit(layer, inputs or pair(), check, words, required)
        return made

    return show


def slope(x: Tensor) -> Tensor:
    return 1 - torch.tanh(x) ** 2


class Gate(Function):
    """The right layer, which the wrong ones change in one place. No bug: it must pass."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, w):
        return torch.tanh(x) * w

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        grad_x = grad * w * slope(x) if ctx.needs_input_grad[0] else None
        grad_w = (grad * torch.tanh(x)).sum(0) if ctx.needs_input_grad[1] else None
        return grad_x, grad_w


class Square(Function):
    """The square of each element, whose wrong backward passes are exhibits."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2
