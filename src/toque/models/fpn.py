"""A feature pyramid and its segmentation head over the maps of any backbone.

Shape letters: B batch, C channels, H W height and width, K classes.
Source:        pyramid: Lin 2016, arXiv:1612.03144; head: Kirillov 2019, arXiv:1901.02446, figure 3
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from toque import checks
from toque.models import shapes
from toque.models.classifier import Classifier, check_images
from toque.models.resnet import resnet18


class Maps(nn.Module):
    """The last map of each size that a Classifier makes: what features_only is in timm."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.in_channels = model.in_channels
        self.features = model.features

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        maps: list[torch.Tensor] = []
        for stage in self.features:
            images = stage(images)
            if maps and maps[-1].shape[2:] == images.shape[2:]:
                maps.pop()  # of several maps of one size the last one knows most
            maps.append(images)
        return maps


class FPN(nn.Module):
    """Lateral 1x1 convolutions, a top-down path, and a head that joins all levels at the finest.

    The backbone is asked once, on the meta device, what maps it makes. Levels finer than a quarter
    of the image are left out; the answer is upsampled to the image's size.

    Shape:   images [B, in_channels, H, W] -> logits [B, K, H, W]
    Args:    backbone: images -> list of maps, the finest first (timm's features_only, or Maps)
             channels: of the pyramid
    Raises:  ValueError: a backbone that does not return a list of maps
    Example: >>> FPN(timm.create_model("resnet18", features_only=True), num_classes=21)
    """

    def __init__(
        self, backbone: nn.Module, *, num_classes: int, in_channels: int = 3, channels: int = 128
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes, self.num_features = in_channels, num_classes, channels
        size = 256
        maps = shapes.check(backbone, [2, in_channels, size, size])
        if not isinstance(maps, list | tuple) or not all(m.ndim == 4 for m in maps):
            raise checks.invalid(
                "FPN", "backbone", "one that returns a list of maps [B, C, H, W]",
                type(maps).__name__, "Create it with features_only=True, or wrap it in Maps.",
            )  # fmt: skip
        self.backbone = backbone
        self.levels = [i for i, m in enumerate(maps) if size // m.shape[2] >= 4]
        taken = [maps[i] for i in self.levels]
        self.lateral = nn.ModuleList(nn.Conv2d(m.shape[1], channels, 1) for m in taken)
        self.smooth = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in taken)
        self.refine = nn.ModuleList(
            _refine(channels, int(math.log2(taken[0].shape[2] / m.shape[2]))) for m in taken
        )
        self.head: nn.Module = nn.Conv2d(channels, num_classes, 1)

    def pyramid(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The maps of the pyramid, the finest first, all with the same number of channels."""
        maps = self.backbone(images)
        down = [
            lateral(maps[level]) for lateral, level in zip(self.lateral, self.levels, strict=True)
        ]
        for i in reversed(range(len(down) - 1)):
            above = F.interpolate(down[i + 1], size=down[i].shape[2:], mode="nearest")
            down[i] = down[i] + above
        return [smooth(level) for smooth, level in zip(self.smooth, down, strict=True)]

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """All levels joined at the finest one: [B, channels, H / 4, W / 4]."""
        check_images("FPN", images, self.in_channels)
        levels = self.pyramid(images)
        joined = torch.zeros_like(levels[0])
        for refine, level in zip(self.refine, levels, strict=True):
            joined = joined + F.interpolate(
                refine(level), size=joined.shape[2:], mode="bilinear", align_corners=False
            )
        return joined

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """The features if `pre_logits`, else logits at the features' size."""
        return features if pre_logits else cast(torch.Tensor, self.head(features))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.forward_head(self.forward_features(images))
        return F.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=False)

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """A new last layer for other classes, on the same device; 0 takes it away."""
        weight = next(self.lateral.parameters())
        self.num_classes = num_classes
        self.head = nn.Identity()
        if num_classes:
            self.head = nn.Conv2d(self.num_features, num_classes, 1).to(weight.device, weight.dtype)


class _Upsample(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def _refine(channels: int, doublings: int) -> nn.Sequential:
    """Convolution, GroupNorm, ReLU and upsampling per doubling; none of the last at the finest."""
    layers: list[nn.Module] = []
    for number in range(max(doublings, 1)):
        layers += [
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.GroupNorm(_norm_groups(channels), channels),
            nn.ReLU(inplace=True),
        ]
        if number < doublings:
            layers.append(_Upsample())
    return nn.Sequential(*layers)


def _norm_groups(channels: int) -> int:
    return math.gcd(channels, 32)


def fpn_resnet18(num_classes: int, in_channels: int = 3) -> FPN:
    """An FPN over our ResNet-18; the name "toque/fpn+timm/NAME" takes a backbone of timm's."""
    backbone = Maps(resnet18(0, in_channels))
    return FPN(backbone, num_classes=num_classes, in_channels=in_channels)
