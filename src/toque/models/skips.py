"""Connections that go around: a skip around one part, and the long skips of encoder and decoder.

Shape letters: B batch, C channels, H W height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from toque import checks
from toque.models import shapes
from toque.models.branches import Parallel


class Skip(Parallel):
    """The input beside the body's output: merge([x, body(x)]).

    Nested, it makes a U: Skip(Sequential(down, Skip(Sequential(down, up)), up)).

    Shape:   [B, C, H, W] -> "concat": [B, C + body's channels, H, W]
    Raises:  BranchMismatch: the body changes the size (or, unless merged by concat, the channels)
    Example: >>> Skip(nn.Sequential(down, middle, up), merge="concat")
    """

    def __init__(self, body: nn.Module, merge: str | nn.Module = "concat") -> None:
        super().__init__({"skip": nn.Identity(), "body": body}, merge)


class LongSkips(nn.Module):
    """An encoder whose maps the decoder takes up again, the last one first.

    Shape:   x through encoder, bottom, decoder[0](x, last map), ..., decoder[-1](x, first map)
    Args:    encoder: modules, each on the output of the one before
             bottom: the part between encoder and decoder
             decoder: as many modules, called with what comes from below and with the skipped map
    Raises:  ValueError: encoder and decoder of different length, or empty
    Source:  Ronneberger 2015, "U-Net", arXiv:1505.04597, figure 1
    """

    def __init__(
        self, encoder: Sequence[nn.Module], bottom: nn.Module, decoder: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        if len(encoder) != len(decoder) or not encoder:
            raise checks.invalid(
                "LongSkips", "decoder", f"as long as the encoder ({len(encoder)}) and not empty",
                len(decoder), "Give one decoder module for each encoder module.",
            )  # fmt: skip
        self.encoder = nn.ModuleList(encoder)
        self.bottom = bottom
        self.decoder = nn.ModuleList(decoder)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = []
        for stage in self.encoder:
            x = stage(x)
            maps.append(x)
        x = self.bottom(x)
        for stage, skipped in zip(self.decoder, reversed(maps), strict=True):
            x = stage(x, skipped)
        return x


class AttentionGate(nn.Module):
    """Weighs every pixel of a skipped map by what the coarser path is looking for.

    Shape:  skipped [B, C, H, W], below [B, D, H, W] -> [B, C, H, W]
    Source: Oktay 2018, "Attention U-Net", arXiv:1804.03999, eqs. 1-2; `below` comes upsampled
            already, where the paper resamples the weights
    """

    def __init__(self, channels: int, below_channels: int) -> None:
        super().__init__()
        hidden = max(channels // 2, 1)
        self.skipped = nn.Conv2d(channels, hidden, 1, bias=False)
        self.below = nn.Conv2d(below_channels, hidden, 1)
        self.weigh = nn.Conv2d(hidden, 1, 1)

    def forward(self, skipped: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
        mixed = F.relu(self.skipped(skipped) + self.below(below))
        return skipped * torch.sigmoid(self.weigh(mixed))


class Up(nn.Module):
    """Upsample by two, join with the skipped map, and refine.

    Shape:  below [B, D, H/2, W/2], skipped [B, C, H, W] -> block of [B, C + D, H, W]
    Args:   block: what refines the joined map
            gate: weighs the skipped map first; None takes it as it is
    Raises: BranchMismatch: the upsampled map has not the size of the skipped one
    """

    def __init__(self, block: nn.Module, gate: AttentionGate | None = None) -> None:
        super().__init__()
        self.gate = gate
        self.block = block

    def forward(self, below: torch.Tensor, skipped: torch.Tensor) -> torch.Tensor:
        below = F.interpolate(below, scale_factor=2.0, mode="nearest")
        shapes.same("Up", ("skipped", "below"), (skipped, below), free=1)
        if self.gate is not None:
            skipped = self.gate(skipped, below)
        return cast(torch.Tensor, self.block(torch.cat([skipped, below], 1)))
