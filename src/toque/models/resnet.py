"""Residual networks: the ImageNet family, and a small family for small images.

Source: He 2015, arXiv:1512.03385; the stride of a bottleneck stands in its 3x3 convolution, as in
        torchvision ("v1.5"); the small family is section 4.2 of the paper.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import nn

from toque.models.blocks import Residual, Stage, conv_norm
from toque.models.classifier import Classifier

Block = Callable[[int, int, int], Residual]


def basic_block(in_channels: int, channels: int, stride: int) -> Residual:
    """Two 3x3 convolutions: the block of ResNet-18 and ResNet-34."""
    body = nn.Sequential(
        *conv_norm(in_channels, channels, 3, stride, activation=nn.ReLU(inplace=True)),
        *conv_norm(channels, channels, 3),
    )
    return Residual(body, after=nn.ReLU(inplace=True))


def bottleneck_block(in_channels: int, channels: int, stride: int) -> Residual:
    """1x1, 3x3 and 1x1 convolutions, narrow by four inside: ResNet-50 and deeper."""
    inside = channels // 4
    body = nn.Sequential(
        *conv_norm(in_channels, inside, 1, activation=nn.ReLU(inplace=True)),
        *conv_norm(inside, inside, 3, stride, activation=nn.ReLU(inplace=True)),
        *conv_norm(inside, channels, 1),
    )
    return Residual(body, after=nn.ReLU(inplace=True))


def resnet(
    block: Block,
    stem: nn.Sequential,
    depths: Sequence[int],
    widths: Sequence[int],
    *,
    expansion: int,
    num_classes: int,
    in_channels: int,
) -> Classifier:
    """A residual network: the stem, then stages that each halve the size but the first.

    Args: block: (in_channels, channels, stride) -> one residual block
          stem: what comes first; its last convolution has widths[0] channels
          depths, widths: blocks and channels of each stage
          expansion: how many times a block's output is wider than its `channels`
    """
    features: OrderedDict[str, nn.Module] = OrderedDict(stem=stem)
    channels = widths[0]
    for number, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
        stride = 1 if number == 1 else 2
        features[f"stage{number}"] = Stage(block, depth, channels, expansion * width, stride)
        channels = expansion * width
    model = Classifier(nn.Sequential(features), channels, num_classes, in_channels)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def resnet18(num_classes: int, in_channels: int = 3) -> Classifier:
    """ResNet-18 for images of about 224 px; torchvision's architecture."""
    return _imagenet(basic_block, (2, 2, 2, 2), 1, num_classes, in_channels)


def resnet34(num_classes: int, in_channels: int = 3) -> Classifier:
    """ResNet-34 for images of about 224 px; torchvision's architecture."""
    return _imagenet(basic_block, (3, 4, 6, 3), 1, num_classes, in_channels)


def resnet50(num_classes: int, in_channels: int = 3) -> Classifier:
    """ResNet-50 for images of about 224 px; torchvision's architecture."""
    return _imagenet(bottleneck_block, (3, 4, 6, 3), 4, num_classes, in_channels)


def resnet101(num_classes: int, in_channels: int = 3) -> Classifier:
    """ResNet-101 for images of about 224 px; torchvision's architecture."""
    return _imagenet(bottleneck_block, (3, 4, 23, 3), 4, num_classes, in_channels)


def resnet10_small(num_classes: int, in_channels: int = 3) -> Classifier:
    """Four stages of one basic block, 16 to 128 channels, for images of about 28 to 64 px.

    Made for a CPU: 0.3 million parameters; see benchmarks/RESULTS.md for its accuracy and time on
    the bundled Fashion-MNIST subset.
    """
    return _small((1, 1, 1, 1), (16, 32, 64, 128), num_classes, in_channels)


def resnet20_small(num_classes: int, in_channels: int = 3) -> Classifier:
    """ResNet-20 of the paper's section 4.2 (CIFAR), with projection shortcuts."""
    return _small((3, 3, 3), (16, 32, 64), num_classes, in_channels)


def _imagenet(
    block: Block, depths: Sequence[int], expansion: int, num_classes: int, in_channels: int
) -> Classifier:
    stem = conv_norm(in_channels, 64, 7, 2, activation=nn.ReLU(inplace=True))
    stem.add_module("pool", nn.MaxPool2d(3, 2, 1))
    widths = (64, 128, 256, 512)
    return resnet(
        block, stem, depths, widths,
        expansion=expansion, num_classes=num_classes, in_channels=in_channels,
    )  # fmt: skip


def _small(
    depths: Sequence[int], widths: Sequence[int], num_classes: int, in_channels: int
) -> Classifier:
    stem = conv_norm(in_channels, widths[0], 3, activation=nn.ReLU(inplace=True))
    return resnet(
        basic_block, stem, depths, widths,
        expansion=1, num_classes=num_classes, in_channels=in_channels,
    )  # fmt: skip
