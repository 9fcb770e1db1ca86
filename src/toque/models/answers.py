"""What the outputs of a network say, once the targets are known: probabilities, or numbers.

Shape letters: B images, K classes or labels, D numbers, ... pixels.
"""

from __future__ import annotations

import torch
from torch import nn

from toque.standardised import Standardised


class Softmax(nn.Module):
    """Probabilities of classes of which one is right: [B, K, ...] -> float32, sum 1 over K."""

    def forward(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs.float().softmax(1)


class Sigmoid(nn.Module):
    """The probability of each label by itself: [B, K] -> float32."""

    def forward(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs.float().sigmoid()


class Rescaled(Standardised):
    """Numbers in their own units, of outputs that were trained on standardised ones.

    Shape: [B, D] (or [B] where D is 1) -> float32 [B, D]
    Args:  mean, std: of the training targets, one for each of the D numbers
    """

    def forward(self, outputs: torch.Tensor) -> torch.Tensor:
        return self.in_units(outputs)
