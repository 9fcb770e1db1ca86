"""The memory layout of an optimiser's state, after it was loaded."""

from __future__ import annotations

import torch
from torch import Tensor


def lay_out(part: torch.optim.Optimizer) -> None:
    """Give the loaded state the memory layout of its parameters.

    A fused step walks through parameter, gradient and state in the order of memory and does not
    look at strides: with a momentum from a checkpoint, which is contiguous, it would add to each
    weight of a channels_last convolution the momentum of another one, without a word.
    """
    for parameter, values in part.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.ndim:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
