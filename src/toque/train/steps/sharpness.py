"""Sharpness-aware minimisation: the gradient at the worst point nearby instead of here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


class Ascent:
    """A climb of length `radius` along the gradient, and the way back, bit for bit.

    Args:   radius: rho of the paper; 0.05 is usual
    Source: Foret 2020, arXiv:2010.01412, eq. 2 (p = 2)
    """

    def __init__(self, parameters: Iterable[nn.Parameter], radius: float) -> None:
        self._parameters = list(parameters)
        self._radius = radius

    @contextmanager
    def climbed(self) -> Iterator[None]:
        """Inside, the weights are w + radius * g / |g|, and the gradients g are gone."""
        moved = [p for p in self._parameters if p.grad is not None]
        gradients = [p.grad for p in moved if p.grad is not None]
        with torch.no_grad():
            before = [p.detach().clone() for p in moved]
            # The length does not depend on a float16 loss scale: it cancels.
            norm = nn.utils.get_total_norm(gradients)
            torch._foreach_mul_(gradients, self._radius / (norm + 1e-12))
            torch._foreach_add_([*moved], gradients)
        for parameter in moved:
            parameter.grad = None
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_([*moved], before)
