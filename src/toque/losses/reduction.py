"""The three ways a loss of each position becomes one number: "mean", "sum", "none"."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from toque import checks

Reduction = Literal["mean", "sum", "none"]


def check(where: str, reduction: str) -> None:
    """Raises ValueError when reduction is none of the three."""
    if reduction not in ("mean", "sum", "none"):
        raise checks.invalid(
            where, "reduction", "mean, sum or none", repr(reduction), "Choose one of them."
        )


def full_precision(tensor: Tensor) -> Tensor:
    """float16 and bfloat16 as float32, everything else unchanged: losses are summed in float32."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def share(total: Tensor, weight: Tensor) -> Tensor:
    """total / weight, or 0 with zero gradient (not NaN) where there is nothing to average."""
    return total / torch.where(weight == 0, torch.ones_like(weight), weight)


def reduce(values: Tensor, reduction: Reduction, weight: Tensor | None = None) -> Tensor:
    """The mean, the sum or the values themselves.

    Shape: values [...], weight [...] or None -> [] ("mean", "sum") or [...] ("none")
    Args:  weight: what "mean" divides by, summed; None counts the values. The values are taken as
           weighted already
    """
    if reduction == "none":
        return values
    total = values.sum()
    if reduction == "sum":
        return total
    if weight is None:
        return total / max(values.numel(), 1)
    return share(total, weight.to(total.dtype).sum())
