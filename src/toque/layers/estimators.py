"""Layers whose gradient is not the derivative of their forward, on purpose.

They are written with .detach(): the algebra survives every transform, where an autograd.Function's
own gradient is silently dropped by torch.compile(torch.func.grad(...)) in torch 2.14.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from toque import checks


def reverse_gradient(x: Tensor, scale: float = 1.0) -> Tensor:
    """x itself; its gradient arrives multiplied by -scale.

    Shape:   [...] -> [...]
    Args:    scale: how strongly the layers below work against the loss above
    Source:  Ganin 2015, arXiv:1409.7495, section 3
    """
    # Forward adds an exact zero; backward sees the slope -scale.
    return x.detach() - scale * (x - x.detach())


def straight_through(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """function(x), with the gradient of x itself.

    Example: >>> straight_through(torch.tensor([0.4, 0.6]), torch.round)
             tensor([0., 1.])
    Source:  Bengio 2013, arXiv:1308.3432, section 4
    """
    return function(x).detach() + (x - x.detach())


class LearnedStepQuantiser(nn.Module):
    """Rounds to 2^bits levels of a learned step, with torch's own operator for it.

    The step is set from the first batch it sees in training (twice the mean size over the root of
    the largest level), as the paper does.

    Shape:  [...] -> [...]
    Args:   bits: 2 to 8; signed: levels on both sides of 0 (weights), or from 0 up (after ReLU)
    Raises: ValueError: bits outside
    Source: Esser 2020, arXiv:1902.08153, section 2
    """

    is_set: Tensor

    def __init__(self, bits: int = 8, signed: bool = True) -> None:
        super().__init__()
        if not 2 <= bits <= 8:
            raise checks.invalid("LearnedStepQuantiser", "bits", "in 2 .. 8", bits, "8 is usual.")
        self.bits, self.signed = bits, signed
        self.low = -(2 ** (bits - 1)) if signed else 0
        self.high = self.low + 2**bits - 1
        self.step = nn.Parameter(torch.ones(1))
        self.register_buffer("is_set", torch.zeros((), dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():  # without reading is_set, so that nothing waits for the device
                first = 2 * x.abs().mean().to(self.step.dtype) / self.high**0.5
                first = torch.where(first > 0, first, 1.0)
                self.step.copy_(torch.where(self.is_set, self.step, first))
                self.is_set.fill_(True)
        growth = 1 / max(x.numel() * self.high, 1) ** 0.5
        zero = torch.zeros(1, dtype=self.step.dtype, device=x.device)
        out: Tensor = torch._fake_quantize_learnable_per_tensor_affine(
            x, self.step, zero, self.low, self.high, growth
        )
        return out

    def extra_repr(self) -> str:
        return f"bits={self.bits}, signed={self.signed}"
