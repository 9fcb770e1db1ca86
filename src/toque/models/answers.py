"""What the outputs of a network say, once the targets are known: probabilities, or numbers.

Shape letters: B images, K classes or labels, D numbers, ... pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class Softmax(nn.Module):
    """Probabilities of classes of which one is right: [B, K, ...] -> float32, sum 1 over K."""

    def forward(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs.float().softmax(1)


class Sigmoid(nn.Module):
    """The probability of each label by itself: [B, K] -> float32."""

    def forward(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs.float().sigmoid()


class Rescaled(nn.Module):
    """Numbers in their own units, of outputs that were trained on standardised ones.

    Shape: [B, D] (or [B] where D is 1) -> float32 [B, D]
    Args:  mean, std: of the training targets, one for each of the D numbers
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32))
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32))

    def forward(self, outputs: torch.Tensor) -> torch.Tensor:
        return rescale(outputs, self.mean, self.std)


def rescale(outputs: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """As `Rescaled`, of a mean and standard deviations [D] that are tensors already."""
    return outputs.float().reshape(-1, len(mean)) * std + mean
