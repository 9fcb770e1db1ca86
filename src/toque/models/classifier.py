"""The frame of every classifier here: features, pooling, dropout and one linear layer.

Shape letters: B batch, C channels, H W height and width, K classes.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from toque import checks


class Classifier(nn.Module):
    """Features, average pooling over height and width, dropout, and one linear layer.

    The names of the methods are timm's, so that code written for timm's models works here too.

    Shape:   images [B, in_channels, H, W] -> logits [B, K]; K = 0 gives the features [B, C]
    Args:    features: the network up to its last feature map; its children are the stages
             num_features: channels C of the last feature map
             num_classes: K, >= 0
             in_channels: channels of the images
             dropout: probability of dropping a pooled feature
    Raises:  ValueError: images of another rank or number of channels
    Example: >>> model = Classifier(features, num_features=64, num_classes=10, in_channels=1)
    """

    def __init__(
        self,
        features: nn.Sequential,
        num_features: int,
        num_classes: int,
        in_channels: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.features = features
        self.dropout = nn.Dropout(dropout)
        self.head = _linear(num_features, num_classes)

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """The last feature map: [B, in_channels, H, W] -> [B, C, h, w]."""
        check_images(type(self).__name__, images, self.in_channels)
        return cast(torch.Tensor, self.features(images))

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Pooled features [B, C] if `pre_logits`, else logits [B, K]: [B, C, h, w] -> [B, K]."""
        pooled = self.dropout(features.mean((2, 3)))
        return pooled if pre_logits else cast(torch.Tensor, self.head(pooled))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(images))

    def forward_stages(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The feature map after the stem and after each stage, the finest first."""
        check_images(type(self).__name__, images, self.in_channels)
        maps = []
        for stage in self.features:
            images = stage(images)
            maps.append(images)
        return maps

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """A new last layer for other classes, on the same device; 0 takes it away."""
        weight = next(self.parameters())
        self.num_classes = num_classes
        self.head = _linear(self.num_features, num_classes).to(weight.device, weight.dtype)


def check_images(where: str, images: torch.Tensor, in_channels: int) -> None:
    """Raise unless `images` is a batch with the right number of channels."""
    if images.ndim != 4 or images.shape[1] != in_channels:
        raise checks.invalid(
            where, "images", f"of shape [B, {in_channels}, H, W]", list(images.shape),
            "Give a batch with that many channels, or create the model with in_channels=... .",
        )  # fmt: skip
    if not images.is_floating_point():
        raise checks.invalid_type(
            where, "images", "floating", images.dtype,
            "Normalise them first, as toque.augment.preset does, or take images.float() / 255.",
        )  # fmt: skip


def _linear(num_features: int, num_classes: int) -> nn.Module:
    if num_classes < 0:
        raise checks.invalid(
            "Classifier", "num_classes", ">= 0", num_classes, "Give the number of classes."
        )
    return nn.Linear(num_features, num_classes) if num_classes else nn.Identity()
