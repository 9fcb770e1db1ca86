# ruff: noqa: N801  the exhibits need no names, their decorators give them
"""Memory is kept, or hidden from hooks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .exhibits import Gate, numbers, plant


@plant("output on ctx", "nothing kept alive", r"reference cycle")
class _(Gate):
    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.output = output


@plant("last activation on the module", "nothing kept alive", r"in `last`", numbers(4, 3))
class _(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

    def forward(self, x):
        self.last = torch.tanh(x).detach()
        return F.linear(self.last + 0 * x, self.weight, self.bias)


_SEEN: list[Tensor] = []


@plant(
    "a list that grows",
    "nothing kept alive",
    r"kept on the module, the class or a global",
    numbers(4, 3),
)
def _(x):
    y = torch.tanh(x)
    _SEEN.append(y.detach())
    return y


@plant("a buffer hidden on ctx", "saved memory visible", r"hooks cannot see")
class _(Gate):
    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.hidden = torch.cat([inputs[0].detach()] * 50)
