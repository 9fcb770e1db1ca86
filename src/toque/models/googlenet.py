"""GoogLeNet with BatchNorm: four branches beside each other in every block, joined by channel.

Source: Szegedy 2014, arXiv:1409.4842, table 1, with the BatchNorm of Ioffe 2015, arXiv:1502.03167,
        and a 3x3 convolution in the third branch, both as in torchvision
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from toque.models.blocks import conv_norm
from toque.models.branches import Parallel
from toque.models.classifier import Classifier

# Channels of: 1x1 | 3x3 reduced, 3x3 | "5x5" reduced, "5x5" | after the pool (table 1).
_STAGE3 = [(64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)]
_STAGE4 = [
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
]
_STAGE5 = [(256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)]


def inception_block(in_channels: int, widths: Sequence[int]) -> Parallel:
    """The module of figure 2b: 1x1, 3x3, "5x5" and pooled branches, joined by channel."""
    one, reduced3, three, reduced5, five, pooled = widths
    return Parallel(
        {
            "conv1x1": _conv(in_channels, one, 1),
            "conv3x3": nn.Sequential(_conv(in_channels, reduced3, 1), _conv(reduced3, three, 3)),
            "conv5x5": nn.Sequential(_conv(in_channels, reduced5, 1), _conv(reduced5, five, 3)),
            "pool": nn.Sequential(nn.MaxPool2d(3, 1, 1), _conv(in_channels, pooled, 1)),
        },
        "concat",
    )


def googlenet(num_classes: int, in_channels: int = 3) -> Classifier:
    """GoogLeNet for images of about 224 px; torchvision's architecture without the extra heads."""
    features: OrderedDict[str, nn.Module] = OrderedDict()
    features["stem"] = nn.Sequential(_conv(in_channels, 64, 7, stride=2), _pool(3))
    features["stage2"] = nn.Sequential(_conv(64, 64, 1), _conv(64, 192, 3), _pool(3))
    channels = 192
    for name, stage in (("stage3", _STAGE3), ("stage4", _STAGE4), ("stage5", _STAGE5)):
        blocks: list[nn.Module] = []
        for widths in stage:
            blocks.append(inception_block(channels, widths))
            channels = widths[0] + widths[2] + widths[4] + widths[5]
        if name != "stage5":
            blocks.append(_pool(3 if name == "stage3" else 2))
        features[name] = nn.Sequential(*blocks)
    return Classifier(nn.Sequential(features), channels, num_classes, in_channels, dropout=0.2)


def _conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    layers = conv_norm(
        in_channels, out_channels, kernel_size, stride, activation=nn.ReLU(inplace=True)
    )
    norm = layers[1]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.eps = 1e-3  # as in the paper's code and in torchvision
    return layers


def _pool(kernel_size: int) -> nn.MaxPool2d:
    return nn.MaxPool2d(kernel_size, 2, ceil_mode=True)
