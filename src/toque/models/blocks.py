"""The parts of a residual network.

Shape letters: B batch, C channels, H W height and width.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from toque import checks
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
    """after(shortcut(x) + scale * drop(body(x))).

    Without a `shortcut` of your own the body is run once on the meta device: where it keeps the
    shape the shortcut is the identity, elsewhere a 1x1 convolution with the body's stride and
    BatchNorm.

    Shape:   [B, C, H, W] -> the shape of body(x)
    Args:    body: the branch with the weights
             shortcut: the other branch; None chooses as above
             after: what follows the sum, such as nn.ReLU()
             scale: what multiplies the body's output, such as LayerScale(channels)
             drop: probability of leaving the body out for an image while training
    Raises:  ValueError: the two branches have different shapes; drop outside 0 <= drop < 1
    Source:  He 2015, arXiv:1512.03385; projection shortcut = option B
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
        if body.shape != shortcut.shape:
            raise checks.invalid(
                "Residual", "body(x)", f"of the shortcut's shape {list(shortcut.shape)}",
                list(body.shape), "Change the body's stride or channels, or give a shortcut.",
            )  # fmt: skip
        return cast(torch.Tensor, self.after(shortcut + body))


class LayerScale(nn.Module):
    """One learned factor per channel, small at the start (Touvron 2021, arXiv:2103.17239, eq. 4).

    Shape: [B, C, H, W] -> [B, C, H, W]
    """

    def __init__(self, channels: int, initial: float = 1e-5) -> None:
        super().__init__()
        self.initial = initial
        self.weight = nn.Parameter(torch.full((channels,), initial))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight[:, None, None]


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
        keep = F.dropout(x.new_ones((x.shape[0],) + (1,) * (x.ndim - 1)), self.p)
        return x * keep

    def extra_repr(self) -> str:
        return f"p={self.p}"


def _shortcut(body: nn.Module) -> nn.Module:
    channels = _channels_in(body)
    if channels is None:
        return nn.Identity()
    size = 64
    before, after = (
        [2, channels, size, size],
        list(shapes.output(body, [2, channels, size, size]).shape),
    )
    if before == after:
        return nn.Identity()
    stride = size // after[2]
    return conv_norm(channels, after[1], 1, stride)


def _channels_in(body: nn.Module) -> int | None:
    for module in body.modules():
        channels = getattr(module, "in_channels", None)
        if isinstance(channels, int):
            return channels
    return None
