"""Counting right answers on the device they are on."""

from __future__ import annotations

import torch


def num_correct(outputs: torch.Tensor, targets: torch.Tensor) -> int | None:
    """How many of the largest logits are at the target.

    Shape: outputs [B, K], targets [B] (classes) or [B, K] (shares of each class)
    None where that has no meaning: outputs of another shape, or targets that are numbers.
    """
    if outputs.ndim != 2:
        return None
    if targets.is_floating_point():
        if targets.shape != outputs.shape or outputs.shape[1] == 1:
            return None
        targets = targets.argmax(1)
    return int((outputs.argmax(1) == targets).sum())
