"""An activation or a normalisation before a linear layer or convolution, made again in backward.

These are plain compositions under `recomputing`: what the prologue returns is not kept, the numbers
are torch's own. `save_memory` does the same to a whole model.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toque import checks
from toque.layers.recompute import recomputing


def _squared_relu(x: Tensor) -> Tensor:
    return torch.relu(x).square()


def _swiglu(x: Tensor) -> Tensor:
    gate, value = x.chunk(2, -1)
    return F.silu(gate) * value


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "relu": torch.relu,
    "squared_relu": _squared_relu,
    "swiglu": _swiglu,
}


def act_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "gelu"
) -> Tensor:
    """linear(activation(x), weight, bias), keeping x and not activation(x).

    ReLU alone gains nothing: autograd keeps its output once, for itself and the linear layer.

    Shape:  x [..., D], weight [K, D], bias [K] -> [..., K]; for swiglu x is [..., 2 D]
    Args:   activation: a name of `ACTIVATIONS`
    Raises: ValueError: unknown activation
    """
    act = _activation("act_linear", activation)
    with recomputing(min_bytes=0):
        return F.linear(act(x), weight, bias)


class ActLinearMlp(nn.Module):
    """A transformer's two-layer MLP that keeps its hidden layer once instead of twice.

    Shape: [..., in] -> [..., out]
    Args:  hidden: width behind the activation; swiglu's first layer is twice as wide
    """

    def __init__(
        self, in_features: int, hidden: int, out_features: int | None = None, act: str = "gelu"
    ) -> None:
        super().__init__()
        _activation("ActLinearMlp", act)
        self.act = act
        self.up = nn.Linear(in_features, 2 * hidden if act == "swiglu" else hidden)
        self.down = nn.Linear(hidden, out_features or in_features)

    def forward(self, x: Tensor) -> Tensor:
        return act_linear(self.up(x), self.down.weight, self.down.bias, self.act)


def norm_act_conv(x: Tensor, norm: nn.Module, activation: str, conv: nn.Module) -> Tensor:
    """conv(activation(norm(x))), keeping x and the statistics; running ones move once.

    Args:   norm: BatchNorm2d, GroupNorm or any module that normalises x
            activation: a name of `ACTIVATIONS`
    Raises: ValueError: unknown activation
    """
    act = _activation("norm_act_conv", activation)
    with recomputing(min_bytes=0):
        out: Tensor = conv(act(norm(x)))
    return out


def norm_linear(x: Tensor, norm: nn.Module, linear: nn.Module) -> Tensor:
    """linear(norm(x)), keeping x and the statistics."""
    with recomputing(min_bytes=0):
        out: Tensor = linear(norm(x))
    return out


def _activation(where: str, name: str) -> Callable[[Tensor], Tensor]:
    if name not in ACTIVATIONS:
        raise checks.invalid(
            where, "activation", "a known one", name, checks.nearest(name, ACTIVATIONS)
        )
    return ACTIVATIONS[name]
