"""The CIFAR-10 network of airbench: a whitening first layer, dirac initialisation, few parameters.

Source: Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv:2404.00498, section 3
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from toque.models.classifier import Classifier


class _Head(nn.Linear):
    """A linear layer without bias whose answers are scaled down by nine, as in the paper."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return super().forward(features) / 9


class Airbench(Classifier):
    """The network of section 3, for images of 32 px.

    Call `initialise.whiten(model.features.whiten, images)` with some training images before
    training; the weights of that layer are frozen, its bias is not. Pools by maximum.
    """

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Maximum over height and width, then the scaled linear layer."""
        pooled = features.amax((2, 3))
        return pooled if pre_logits else self._answer(pooled)

    def _answer(self, pooled: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.head(pooled)
        return answer

    def reset_classifier(self, num_classes: int) -> None:
        """A new last layer for other classes, on the same device; 0 takes it away."""
        super().reset_classifier(num_classes)
        if num_classes:
            weight = next(self.parameters())
            head = _Head(self.num_features, num_classes, bias=False)
            self.head = head.to(weight.device, weight.dtype)


def airbench94(num_classes: int, in_channels: int = 3) -> Airbench:
    """The network that reaches 94 % on CIFAR-10 in 9.9 epochs: 2 million parameters."""
    return _airbench((64, 256, 256), num_classes, in_channels)


def _airbench(widths: tuple[int, int, int], num_classes: int, in_channels: int) -> Airbench:
    patches = 2 * in_channels * 2 * 2  # every direction of a 2x2 patch and its opposite
    first = nn.Conv2d(in_channels, patches, 2)
    first.weight.requires_grad_(False)
    nn.init.zeros_(first.weight)
    nn.init.dirac_(first.weight[: first.in_channels])
    features: OrderedDict[str, nn.Module] = OrderedDict(whiten=first, activation=nn.GELU())
    channels = patches
    for number, width in enumerate(widths, start=1):
        features[f"stage{number}"] = _group(channels, width)
        channels = width
    model = Airbench(nn.Sequential(features), channels, num_classes, in_channels)
    model.reset_classifier(num_classes)
    return model


def _group(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        _dirac_conv(in_channels, channels), nn.MaxPool2d(2), _norm(channels), nn.GELU(),
        _dirac_conv(channels, channels), _norm(channels), nn.GELU(),
    )  # fmt: skip


def _dirac_conv(in_channels: int, channels: int) -> nn.Conv2d:
    """A 3x3 convolution whose first in_channels outputs are the inputs (section 3.3)."""
    conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(conv.weight[:in_channels])
    return conv


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    norm.weight.requires_grad_(False)  # section 3: the scale stays 1, the bias is learned
    return norm
