"""MobileOne: depthwise and pointwise layers, each of several branches while training, one deployed.

Source: Vasu 2022, arXiv:2206.04040; block: figure 3, depths and widths: table 2; a stem of one
        convolution, as in timm
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from toque.models.blocks import conv_norm
from toque.models.branches import Parallel
from toque.models.classifier import Classifier


def mobileone_layer(
    in_channels: int,
    channels: int,
    kernel_size: int,
    stride: int = 1,
    groups: int = 1,
    branches: int = 4,
) -> nn.Sequential:
    """ReLU of the sum of `branches` equal convolutions, a 1x1 one, and a norm if shapes allow."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    if in_channels == channels and stride == 1:
        parts["identity"] = nn.BatchNorm2d(channels)
    for number in range(branches):
        parts[f"conv{number}"] = conv_norm(in_channels, channels, kernel_size, stride, groups)
    if kernel_size > 1:
        parts["scale"] = conv_norm(in_channels, channels, 1, stride, groups)
    return nn.Sequential(
        OrderedDict(branches=Parallel(parts, "sum"), activation=nn.ReLU(inplace=True))
    )


def mobileone_s0(num_classes: int, in_channels: int = 3) -> Classifier:
    """MobileOne-S0: 5.3 million parameters while training, 2.1 million fused (1000 classes)."""
    features: OrderedDict[str, nn.Module] = OrderedDict()
    features["stem"] = mobileone_layer(in_channels, 48, 3, stride=2, branches=1)
    channels = 48
    depths_and_widths = ((2, 48), (8, 128), (10, 256), (1, 1024))
    for number, (depth, width) in enumerate(depths_and_widths, start=1):
        layers: list[nn.Module] = []
        for position in range(depth):
            stride = 2 if position == 0 else 1
            layers.append(mobileone_layer(channels, channels, 3, stride, groups=channels))
            layers.append(mobileone_layer(channels, width, 1))
            channels = width
        features[f"stage{number}"] = nn.Sequential(*layers)
    return Classifier(nn.Sequential(features), channels, num_classes, in_channels)
