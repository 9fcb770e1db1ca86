"""Shapes followed on the meta device: no weight is read and nothing is computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call


def output(module: nn.Module, *inputs: Sequence[int]) -> Any:
    """What `module` returns for inputs of these shapes, as meta tensors.

    Parameters and buffers are replaced by meta tensors for the one call, so that the module itself
    (and its BatchNorm statistics) stays untouched wherever it lives.

    Example: >>> output(nn.Conv2d(3, 8, 3), [1, 3, 32, 32]).shape
             torch.Size([1, 8, 30, 30])
    """
    state = {
        name: torch.empty_like(tensor, device="meta")
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]
    }
    images = tuple(torch.empty(*shape, device="meta") for shape in inputs)
    with torch.no_grad():
        return functional_call(module, state, images)
