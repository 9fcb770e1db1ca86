"""U-Net with residual blocks, with or without attention gates on its long skips: segmentation.

Source: Ronneberger 2015, arXiv:1505.04597; residual blocks as in Zhang 2017, arXiv:1711.10684;
        gates: Oktay 2018, arXiv:1804.03999
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import nn

from toque import checks
from toque.models.classifier import check_images
from toque.models.resnet import basic_block
from toque.models.skips import AttentionGate, LongSkips, Up


class UNet(nn.Module):
    """An encoder that halves the size between its stages, and a decoder that takes its maps up.

    Shape:   images [B, in_channels, H, W], H and W multiples of 2^(stages - 1) -> [B, K, H, W]
    Args:    widths: channels of each stage, the finest first
             gates: weigh the skipped maps by attention
    Raises:  ValueError: a size that cannot be halved so often (the next good size is named)
    Example: >>> UNet((32, 64, 128), num_classes=2, in_channels=1)
    """

    def __init__(
        self, widths: Sequence[int], *, num_classes: int, in_channels: int = 3, gates: bool = False
    ) -> None:
        super().__init__()
        if len(widths) < 2:
            raise checks.invalid(
                "UNet", "widths", "two or more", list(widths), "Give the channels of each stage."
            )
        self.in_channels, self.num_classes = in_channels, num_classes
        self.num_features = widths[0]
        self.multiple_px = 2 ** (len(widths) - 1)
        encoder: list[nn.Module] = [basic_block(in_channels, widths[0], 1)]
        encoder += [basic_block(fine, coarse, 2) for fine, coarse in pairwise(widths[:-1])]
        decoder = [
            Up(
                basic_block(fine + coarse, fine, 1),
                gate=AttentionGate(fine, coarse) if gates else None,
            )
            for coarse, fine in pairwise(reversed(widths))
        ]
        self.features = LongSkips(encoder, basic_block(widths[-2], widths[-1], 2), decoder)
        self.head: nn.Module = nn.Conv2d(widths[0], num_classes, 1)

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """The decoder's last map: [B, widths[0], H, W]."""
        check_images("UNet", images, self.in_channels)
        check_multiple("UNet", images, self.multiple_px)
        return cast(torch.Tensor, self.features(images))

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """The features if `pre_logits`, else the logits of every pixel [B, K, H, W]."""
        return features if pre_logits else cast(torch.Tensor, self.head(features))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(images))

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """A new last layer for other classes, on the same device; 0 takes it away."""
        weight = next(self.parameters())
        self.num_classes = num_classes
        self.head = nn.Identity()
        if num_classes:
            self.head = nn.Conv2d(self.num_features, num_classes, 1).to(weight.device, weight.dtype)


def check_multiple(where: str, images: torch.Tensor, multiple_px: int) -> None:
    """Raise unless height and width are multiples, naming the next size that fits."""
    height, width = images.shape[2:]
    if height % multiple_px or width % multiple_px:
        good = [-(-side // multiple_px) * multiple_px for side in (height, width)]
        raise checks.invalid(
            where, "image height and width", f"multiples of {multiple_px}",
            f"{height} x {width}", f"Pad or resize to {good[0]} x {good[1]}.",
        )  # fmt: skip


def unet(num_classes: int, in_channels: int = 3) -> UNet:
    """Five stages of one residual block, 32 to 512 channels: 7.9 million parameters."""
    return UNet((32, 64, 128, 256, 512), num_classes=num_classes, in_channels=in_channels)


def unet_small(num_classes: int, in_channels: int = 3) -> UNet:
    """Four stages of one residual block, 16 to 128 channels, for a CPU: 0.5 million parameters."""
    return UNet((16, 32, 64, 128), num_classes=num_classes, in_channels=in_channels)


def unet_attention(num_classes: int, in_channels: int = 3) -> UNet:
    """`unet` with attention gates on its long skips."""
    return UNet(
        (32, 64, 128, 256, 512), num_classes=num_classes, in_channels=in_channels, gates=True
    )
