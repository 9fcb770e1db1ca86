"""Train and eval mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Train or eval mode, and every part's own mode again afterwards."""
    kept = {part: part.training for part in module.modules()}
    module.train(training)
    try:
        yield
    finally:
        for part, value in kept.items():
            part.training = value
