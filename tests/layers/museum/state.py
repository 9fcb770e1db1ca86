# ruff: noqa: N801  the exhibits need no names, their decorators give them
"""State, randomness and modes."""

from __future__ import annotations

import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .exhibits import numbers, plant


@plant("dropout in eval", "train and eval", r"another torch seed", numbers(4, 30))
class _(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.5)


@plant("Python's random", "deterministic", r"another generator than torch's", numbers(4, 3))
def _(x):
    return x * random.random()


@plant("NumPy's random", "deterministic", r"another generator than torch's", numbers(4, 3))
def _(x):
    return x * float(np.random.rand())


@plant("torch reseeded", "process-wide settings", r"reseeds torch's generator", numbers(4, 3))
def _(x):
    torch.manual_seed(0)
    return x * torch.rand(3, dtype=x.dtype)


@plant("a call counter", "deterministic", r"keep a counter", numbers(4, 3))
class _(nn.Module):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


@plant(
    "gradients switched off for all",
    "process-wide settings",
    r"changes torch's grad mode",
    numbers(4, 3),
)
def _(x):
    y = torch.tanh(x)
    torch.set_grad_enabled(False)
    return y


class _Statistics(nn.Module):
    """Centres by a running mean: the right one, which the wrong ones change."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))

    def update(self, x):
        with torch.no_grad():
            self.mean.lerp_(x.mean(0).to(self.mean.dtype), 0.1)

    def forward(self, x):
        if self.training:
            self.update(x)
            return x - x.mean(0)
        return x - self.mean


@plant("buffers move in eval", "train and eval", r"eval changes the buffer `mean`", numbers(4, 3))
class _(_Statistics):
    def forward(self, x):
        self.update(x)
        return x - (x.mean(0) if self.training else self.mean.clone())


@plant(
    "the batch's statistics in eval", "train and eval", r"depends on its neighbours", numbers(4, 3)
)
class _(_Statistics):
    def forward(self, x):
        if self.training:
            self.update(x)
        return x - x.mean(0)


@plant("a stale cache in eval", "state", r"stale cache", numbers(4, 3))
class _(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)
        self.folded = None

    def forward(self, x):
        if self.training:
            self.folded = None
            return F.linear(x, self.weight, self.bias)
        if self.folded is None:
            self.folded = [self.weight.detach().clone()]
        return F.linear(x, self.folded[0].to(x.dtype), self.bias)


@plant("a plain tensor attribute", "state", r"`scale` is a plain tensor", numbers(4, 3))
class _(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.tensor(2.0)

    def forward(self, x):
        return x * self.scale.to(x)


@plant("state in a Python number", "state", r"kept outside parameters and buffers", numbers(4, 3))
class _(nn.Module):
    def __init__(self):
        super().__init__()
        self.size = 1.0

    def forward(self, x):
        if self.training:
            self.size = 0.9 * self.size + 0.1 * float(x.detach().abs().mean())
        return x / self.size if not self.training else x * 1


@plant("a graph kept on the module", "state", r"deepcopy fails after a forward", numbers(4, 3))
class _(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)
        self.kept = []

    def forward(self, x):
        y = F.linear(x, self.weight, self.bias)
        self.kept = [y]
        return y


class _Opaque:
    pass


@plant("state that weights_only refuses", "state", r"weights_only=True", numbers(4, 3))
class _(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

    def get_extra_state(self):
        return _Opaque()

    def set_extra_state(self, state):
        pass
