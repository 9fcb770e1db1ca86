"""The parts in one line: convolution with norm, residual connection, repetition, checkpointing.

Shape letters: B batch, C channels, H W height and width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from toque import checks
from toque.layers import checkpointing
from toque.models import shapes


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    groups: int = 1,
    activation: nn.Module | None = None,
) -> nn.Sequential:
    """A convolution that keeps the size (divided by the stride), BatchNorm, maybe an activation."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = nn.Conv2d(
        in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False
    )
    layers["norm"] = nn.BatchNorm2d(out_channels)
    if activation is not None:
        layers["activation"] = activation
    return nn.Sequential(layers)


class Residual(nn.Module):
    """after(shortcut(x) + drop(scale(body(x)))).

    Without a `shortcut` of your own the body is run once on the meta device: where it keeps the
    shape the shortcut is the identity, elsewhere a 1x1 convolution with the body's stride, and
    BatchNorm.

    Shape:   [B, C, H, W] -> the shape of body(x)
    Args:    body: the branch with the weights
             shortcut: the other branch; None chooses as above
             after: what follows the sum, such as nn.ReLU()
             scale: what multiplies the body's output, such as LayerScale(channels)
             drop: probability of leaving the body out for an image while training
    Raises:  BranchMismatch: the two branches have different shapes
             ValueError: drop outside 0 <= drop < 1, a body that cannot be followed
    Source:  He 2015, arXiv:1512.03385; the projection is its option B
    Example: >>> Residual(conv_norm(16, 32, 3, stride=2))(torch.zeros(1, 16, 8, 8)).shape
             torch.Size([1, 32, 4, 4])
    """

    def __init__(
        self,
        body: nn.Module,
        shortcut: nn.Module | None = None,
        after: nn.Module | None = None,
        scale: nn.Module | None = None,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.body = body
        self.scale = nn.Identity() if scale is None else scale
        self.drop = StochasticDepth(drop) if drop else nn.Identity()
        self.shortcut = _shortcut(body) if shortcut is None else shortcut
        self.after = nn.Identity() if after is None else after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        body = self.drop(self.scale(self.body(x)))
        shortcut = self.shortcut(x)
        shapes.same("Residual", ("body", "shortcut"), (body, shortcut))
        if body.dtype == shortcut.dtype and self._ends_in_norm():
            # BatchNorm needs its own output for nothing, and nobody else has it.
            return cast(torch.Tensor, self.after(body.add_(shortcut)))
        return cast(torch.Tensor, self.after(body + shortcut))

    def _ends_in_norm(self) -> bool:
        last = self.body
        while isinstance(last, nn.Sequential) and len(last):
            last = last[-1]
        plain = isinstance(self.scale, nn.Identity) and isinstance(self.drop, nn.Identity)
        return plain and type(last) is nn.BatchNorm2d and not last._forward_hooks


class LayerScale(nn.Module):
    """One learned factor per channel, small at the start.

    Shape:  [B, C, H, W] -> the same; with trailing=0, [..., C] -> the same (tokens)
    Args:   channels: C
            initial: every factor at the start
            trailing: dimensions that follow the channels
    Source: Touvron 2021, arXiv:2103.17239, eq. 4
    """

    def __init__(self, channels: int, initial: float = 1e-5, trailing: int = 2) -> None:
        super().__init__()
        self.initial = initial
        self.trailing = trailing
        self.weight = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, self.initial)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight.reshape(-1, *(1,) * self.trailing)


class StochasticDepth(nn.Module):
    """Sets whole images to zero with probability p while training, and scales the others up.

    Source: Huang 2016, arXiv:1603.09382, with the scaling moved to training as in dropout
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise checks.invalid("StochasticDepth", "p", "0 <= p < 1", p, "Use 0 for none.")
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return x
        kept = F.dropout(x.new_ones((x.shape[0],) + (1,) * (x.ndim - 1)), self.p)
        return x * kept

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Repeat(nn.Sequential):
    """`times` modules of their own weights in a row: build(0), build(1), ...

    Raises:  ValueError: times < 1
    Example: >>> Repeat(3, lambda number: Residual(conv_norm(16, 16, 3)))
    """

    def __init__(self, times: int, build: Callable[[int], nn.Module]) -> None:
        if times < 1:
            raise checks.invalid("Repeat", "times", ">= 1", times, "Leave the part out instead.")
        super().__init__(*(build(number) for number in range(times)))


class Stage(nn.Sequential):
    """A row of blocks at one resolution: the first one changes channels and size, the others keep.

    Args:    build: (in_channels, out_channels, stride) -> one block
             depth: number of blocks, >= 1
             in_channels, out_channels: before and after the stage
             stride: of the first block
    Raises:  ValueError: depth < 1; a block that does not make what was asked of it
    Example: >>> Stage(basic_block, depth=2, in_channels=64, out_channels=128, stride=2)
    """

    def __init__(
        self,
        build: Callable[[int, int, int], nn.Module],
        depth: int,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
    ) -> None:
        if depth < 1:
            raise checks.invalid("Stage", "depth", ">= 1", depth, "Leave the stage out instead.")
        first = build(in_channels, out_channels, stride)
        expected = [2, out_channels, *[-(-shapes.PROBE_PX // stride)] * 2]
        made = shapes.probe(first, in_channels)
        if made != expected:
            raise checks.invalid(
                "Stage", f"build({in_channels}, {out_channels}, {stride})(x)",
                f"of shape {expected} for [2, {in_channels}, 64, 64]", made,
                "Use the channels and the stride that build is given.",
            )  # fmt: skip
        super().__init__(first, *(build(out_channels, out_channels, 1) for _ in range(depth - 1)))


class Checkpointed(nn.Module):
    """Keeps only the body's input for the backward pass and computes the body again there.

    BatchNorm statistics are updated once, as without checkpointing: plain checkpointing runs the
    update twice. Under torch.compile the recomputation is the compiler's and updates nothing.

    Example: >>> Checkpointed(stage)
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, checkpointing.again(self.body, self.body, x))


def _shortcut(body: nn.Module) -> nn.Module:
    channels = shapes.channels_in(body)
    if channels is None:
        return nn.Identity()
    made = shapes.probe(body, channels)
    if made == [2, channels, shapes.PROBE_PX, shapes.PROBE_PX]:
        return nn.Identity()
    if len(made) != 4 or made[2] != made[3] or shapes.PROBE_PX % made[2]:
        raise checks.invalid(
            "Residual", "body", f"one that keeps or divides the size of [2, {channels}, 64, 64]",
            made, "Pad its convolutions by kernel_size // 2, or give a shortcut of your own.",
        )  # fmt: skip
    return conv_norm(channels, made[1], 1, shapes.PROBE_PX // made[2])
