"""Algebra of linear image layers: each is one convolution, and so are their chains and sums.

Everything is computed in float64; the caller casts the result once.

Shape letters: O output channels, I input channels, g groups, k kernel side.
Source:        Ding 2021, "Diverse branch block", arXiv:2103.13425, transforms I to V
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from toque.models.blocks import LayerScale, StochasticDepth


class CannotMerge(Exception):
    """Why two layers are not one convolution."""


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution with zero padding and no dilation, in float64, or the identity.

    weight [O, I / g, k, k], bias [O]; `channels` is None and the rest empty for the identity, which
    takes the channels of whatever it meets.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    groups: int = 1
    is_identity: bool = False

    @property
    def out_channels(self) -> int:
        return self.weight.shape[0]

    @property
    def in_channels(self) -> int:
        return self.weight.shape[1] * self.groups

    @property
    def kernel_size(self) -> tuple[int, int]:
        return self.weight.shape[2], self.weight.shape[3]

    @property
    def is_pointwise(self) -> bool:
        return self.kernel_size == (1, 1) and self.padding == (0, 0)

    def module(self, like: torch.Tensor) -> nn.Conv2d:
        """The layer, with the dtype and device of `like`."""
        layer = nn.Conv2d(
            self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding,
            groups=self.groups, device=like.device, dtype=like.dtype,
        )  # fmt: skip
        assert layer.bias is not None
        with torch.no_grad():
            layer.weight.copy_(self.weight)
            layer.bias.copy_(self.bias)
        return layer


IDENTITY = Convolution(torch.empty(0, 0, 1, 1), torch.empty(0), is_identity=True)


def of_layer(layer: nn.Module) -> Convolution:
    """The convolution that one layer is in evaluation mode.

    Raises: CannotMerge: it is not linear, or not by a kernel with zero padding
    """
    if layer._forward_hooks or layer._forward_pre_hooks:
        raise CannotMerge("has hooks, which would be lost")
    if type(layer) is nn.Identity or isinstance(layer, nn.Dropout | nn.Dropout2d | StochasticDepth):
        return IDENTITY
    if type(layer) is nn.BatchNorm2d:
        scale, shift = affine_of(layer)
        return per_channel(scale, shift)
    if type(layer) is LayerScale and layer.trailing == 2:
        scale = layer.weight.detach().double()
        return per_channel(scale, torch.zeros_like(scale))
    if type(layer) is nn.Conv2d:
        if layer.padding_mode != "zeros" and layer.kernel_size != (1, 1):
            raise CannotMerge(f"pads by {layer.padding_mode}, not by zeros")
        if layer.dilation != (1, 1):
            raise CannotMerge("is dilated")
        if isinstance(layer.padding, str):
            raise CannotMerge(f"has padding={layer.padding!r}; give it in pixels")
        weight = layer.weight.detach().double()
        bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().double()
        (sy, sx), (py, px) = layer.stride, layer.padding
        return Convolution(weight, bias, (sy, sx), (py, px), layer.groups)
    raise CannotMerge(f"{type(layer).__name__} is not a convolution in evaluation mode")


def affine_of(norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift of a BatchNorm in evaluation mode, float64 [C] each.

    Raises: CannotMerge: it keeps no running statistics
    """
    if norm.running_mean is None or norm.running_var is None:
        raise CannotMerge("BatchNorm without running statistics depends on the batch")
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double() * scale
    if norm.affine:
        scale = scale * norm.weight.detach().double()
        shift = shift * norm.weight.detach().double() + norm.bias.detach().double()
    return scale, shift


def chain(first: Convolution, second: Convolution) -> Convolution:
    """The convolution that is `second` after `first`.

    Raises: CannotMerge: their composition is none, or not at the border of the image
    """
    if first.is_identity or second.is_identity:
        return first if second.is_identity else second
    if second.is_pointwise and second.groups == second.in_channels == second.out_channels:
        if second.stride != (1, 1):
            raise CannotMerge("a strided depthwise layer")
        scale = second.weight[:, 0, 0, 0]
        return Convolution(
            first.weight * scale[:, None, None, None], first.bias * scale + second.bias,
            first.stride, first.padding, first.groups,
        )  # fmt: skip
    if second.is_pointwise:
        mix = regroup(second, 1).weight[:, :, 0, 0]
        dense = regroup(first, 1)
        stride = (first.stride[0] * second.stride[0], first.stride[1] * second.stride[1])
        weight = torch.einsum("om,mikl->oikl", mix, dense.weight)
        return Convolution(weight, mix @ dense.bias + second.bias, stride, first.padding)
    if first.is_pointwise and first.stride == (1, 1):
        if first.bias.any() and second.padding != (0, 0):
            raise CannotMerge("a shift before a padded convolution differs at the border")
        dense, mix = regroup(second, 1), regroup(first, 1).weight[:, :, 0, 0]
        bias = second.bias + (dense.weight.sum((2, 3)) @ first.bias)
        weight = torch.einsum("omkl,mi->oikl", dense.weight, mix)
        return Convolution(weight, bias, second.stride, second.padding)
    raise CannotMerge("two kernels larger than a pixel differ at the border")


def add(branches: list[Convolution], factor: float = 1.0) -> Convolution:
    """The convolution that is the sum of the branches, times `factor`.

    Raises: CannotMerge: strides, channels or paddings do not fit
    """
    branches = _aligned(branches)
    if len({b.out_channels for b in branches}) > 1:
        raise CannotMerge("branches of different output channels")
    groups = math.gcd(*(b.groups for b in branches))
    branches = [regroup(b, groups) for b in branches]
    weight = torch.stack([b.weight for b in branches]).sum(0) * factor
    bias = torch.stack([b.bias for b in branches]).sum(0) * factor
    return Convolution(weight, bias, branches[0].stride, branches[0].padding, groups)


def concat(branches: list[Convolution]) -> Convolution:
    """The convolution whose output channels are those of the branches one after the other.

    Raises: CannotMerge: strides or paddings do not fit
    """
    branches = [regroup(b, 1) for b in _aligned(branches)]
    weight = torch.cat([b.weight for b in branches])
    bias = torch.cat([b.bias for b in branches])
    return Convolution(weight, bias, branches[0].stride, branches[0].padding)


def regroup(conv: Convolution, groups: int) -> Convolution:
    """The same convolution written with fewer groups: blocks of zeros between the old ones."""
    if conv.groups == groups:
        return conv
    together = conv.groups // groups  # so many old groups are in a new one
    out_old, in_old = conv.out_channels // conv.groups, conv.weight.shape[1]
    shape = (conv.out_channels, in_old * together, *conv.kernel_size)
    weight = conv.weight.new_zeros(shape)
    for group in range(conv.groups):
        place = group % together
        rows = slice(group * out_old, (group + 1) * out_old)
        weight[rows, place * in_old : (place + 1) * in_old] = conv.weight[rows]
    return Convolution(weight, conv.bias, conv.stride, conv.padding, groups)


def cost(conv: Convolution) -> int:
    """Multiplications per output pixel (none for the identity)."""
    return conv.weight.numel()


def per_channel(scale: torch.Tensor, shift: torch.Tensor) -> Convolution:
    """x * scale + shift, channel by channel, as a 1x1 depthwise convolution."""
    return Convolution(scale[:, None, None, None], shift, groups=len(scale))


def _aligned(branches: list[Convolution]) -> list[Convolution]:
    """The branches with one kernel size and padding, and identities written out."""
    real = [b for b in branches if not b.is_identity]
    if not real:
        raise CannotMerge("nothing but identities")
    channels = {b.in_channels for b in real}
    if len({b.stride for b in real}) > 1 or len(channels) > 1:
        raise CannotMerge("branches of different strides or input channels")
    ones = real[0].weight.new_ones(channels.pop())
    written = [per_channel(ones, torch.zeros_like(ones)) if b.is_identity else b for b in branches]
    if real[0].stride != (1, 1) and len(real) < len(branches):
        raise CannotMerge("an identity beside a strided branch")
    kernel = tuple(max(b.kernel_size[axis] for b in written) for axis in (0, 1))
    largest = next((b for b in written if b.kernel_size == kernel), None)
    if largest is None:
        raise CannotMerge("kernels of which none contains the others")
    return [_padded(b, largest) for b in written]


def _padded(conv: Convolution, to: Convolution) -> Convolution:
    margins = []
    for axis in (0, 1):
        margin = to.kernel_size[axis] - conv.kernel_size[axis]
        if margin % 2 or to.padding[axis] - conv.padding[axis] != margin // 2:
            raise CannotMerge("kernels that are not centred on the same pixel")
        margins.append(margin // 2)
    y, x = margins
    weight = F.pad(conv.weight, (x, x, y, y))
    return Convolution(weight, conv.bias, conv.stride, to.padding, conv.groups)
