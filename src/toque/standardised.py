"""Numbers as models are trained on them: (number - mean) / standard deviation; and the way back.

Shape letters: B images, D numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class Standardised(nn.Module):
    """What knows the mean and standard deviation of each of D numbers in the training set."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        # By these names they lie in exported files.
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32))
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32))

    def in_units(self, outputs: torch.Tensor) -> torch.Tensor:
        """Outputs [B, D], or [B] where D is 1, in the numbers' own units: float32 [B, D]."""
        return outputs.float().reshape(-1, len(self.mean)) * self.std + self.mean
