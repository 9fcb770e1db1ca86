"""RepVGG: three branches while training, one plain 3x3 convolution when deployed.

Source: Ding 2021, arXiv:2101.03697; depths and widths of table 2
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from toque.models.blocks import Stage, conv_norm
from toque.models.branches import Parallel
from toque.models.classifier import Classifier


def repvgg_block(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    """ReLU(BatchNorm(x) + 1x1(x) + 3x3(x)), without the first where the shape changes (fig. 2)."""
    branches: OrderedDict[str, nn.Module] = OrderedDict()
    if in_channels == channels and stride == 1:
        branches["identity"] = nn.BatchNorm2d(channels)
    branches["conv3x3"] = conv_norm(in_channels, channels, 3, stride)
    branches["conv1x1"] = conv_norm(in_channels, channels, 1, stride)
    return nn.Sequential(
        OrderedDict(branches=Parallel(branches, "sum"), activation=nn.ReLU(inplace=True))
    )


def repvgg_a0(num_classes: int, in_channels: int = 3) -> Classifier:
    """RepVGG-A0: 9.1 million parameters while training, 8.3 million fused (1000 classes)."""
    return _repvgg((2, 4, 14, 1), (48, 96, 192, 1280), 48, num_classes, in_channels)


def repvgg_a1(num_classes: int, in_channels: int = 3) -> Classifier:
    """RepVGG-A1: 14.1 million parameters while training, 12.8 million fused (1000 classes)."""
    return _repvgg((2, 4, 14, 1), (64, 128, 256, 1280), 64, num_classes, in_channels)


def repvgg_b0(num_classes: int, in_channels: int = 3) -> Classifier:
    """RepVGG-B0: 15.8 million parameters while training, 14.3 million fused (1000 classes)."""
    return _repvgg((4, 6, 16, 1), (64, 128, 256, 1280), 64, num_classes, in_channels)


def _repvgg(
    depths: Sequence[int],
    widths: Sequence[int],
    stem_channels: int,
    num_classes: int,
    in_channels: int,
) -> Classifier:
    features: OrderedDict[str, nn.Module] = OrderedDict()
    features["stem"] = repvgg_block(in_channels, stem_channels, 2)
    channels = stem_channels
    for number, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
        features[f"stage{number}"] = Stage(repvgg_block, depth, channels, width, stride=2)
        channels = width
    return Classifier(nn.Sequential(features), channels, num_classes, in_channels)
