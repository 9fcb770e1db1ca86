"""Normalising and pooling over channels and pixels: RMSNorm2d, GeM, BlurPool."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from toque import checks
from toque.layers.fused import Needs, Residuals, fused


def _rms_reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    size = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    scale = torch.rsqrt(size.square().mean(1, keepdim=True) + eps)
    return (size * scale * weight[:, None, None]).to(x.dtype)


def _rms_forward(needs: Needs, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Residuals]:
    sums = torch.promote_types(x.dtype, torch.float32)
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=sums)
    scale = length.square_().div_(x.shape[1]).add_(eps).rsqrt_()
    return (x * scale).mul_(weight[:, None, None]).to(x.dtype), (scale,)


def _rms_backward(
    needs: Needs, grad: Tensor, inputs: Sequence[Tensor], residuals: Residuals
) -> tuple[Tensor | None, Tensor | None, None]:
    x, weight, _ = inputs
    (scale,) = residuals
    unit = x * scale
    to_weight = (grad * unit).sum((0, 2, 3)).to(weight.dtype) if needs[1] else None
    to_x = None
    if needs[0]:
        slope = grad * weight[:, None, None].to(scale.dtype)
        along = (slope * unit).mean(1, keepdim=True)
        to_x = slope.sub_(unit.mul_(along)).mul_(scale).to(x.dtype)
    return to_x, to_weight, None


_rms_norm = fused(
    _rms_reference, _rms_forward, _rms_backward, autocast="float32", name="rms_norm_2d"
)


class RMSNorm2d(nn.Module):
    """RMSNorm over the channels of an image, without a permutation.

    Shape:    [B, C, H, W] -> [B, C, H, W]
    Dtype:    sums in float32 for half inputs
    Args:     channels: C; eps: added to the mean square, > 0
    Raises:   ValueError: another number of channels or axes
    Source:   Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4
    Measured: against timm's RmsNorm2d: benchmarks/RESULTS.md, "layers"
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(channels)), eps

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[1] != len(self.weight):
            raise checks.invalid(
                "RMSNorm2d", "input", f"of shape [B, {len(self.weight)}, H, W]", list(x.shape),
                "Give the channels it was made for.",
            )  # fmt: skip
        return _rms_norm(x, self.weight, self.eps)


class GeM(nn.Module):
    """Generalised mean pooling: the mean at power 1, near the maximum at a large power; learned.

    Shape:  [B, C, H, W] -> [B, C, 1, 1], or [B, C] when flatten
    Args:   power: to start from, > 0; eps: activations below it count as it
    Raises: ValueError: power <= 0
    Source: Radenovic 2018, arXiv:1711.02512, eq. 3
    """

    def __init__(self, power: float = 3.0, eps: float = 1e-6, flatten: bool = False) -> None:
        super().__init__()
        if not power > 0:
            raise checks.invalid("GeM", "power", "> 0", power, "3 is usual.")
        self.power, self.eps, self.flatten = nn.Parameter(torch.tensor([power])), eps, flatten

    def forward(self, x: Tensor) -> Tensor:
        powers = x.clamp(min=self.eps).pow(self.power)
        pooled = powers.mean((-2, -1), keepdim=True).pow(1 / self.power)
        return pooled.flatten(1) if self.flatten else pooled


class BlurPool(nn.Module):
    """A small blur before taking every second pixel, so that a shift of the image stays a shift.

    Its filter is fixed, so its input is not needed in backward: the convolution is transposed by
    hand, and nothing is kept.

    Shape:    [B, C, H, W] -> [B, C, ceil(H / stride), ceil(W / stride)]
    Args:     size: of the binomial filter, 2 to 7; stride: >= 1
    Raises:   ValueError: size outside
    Source:   Zhang 2019, arXiv:1904.11486, section 3.2
    """

    filter: Tensor

    def __init__(self, size: int = 3, stride: int = 2) -> None:
        super().__init__()
        if not 2 <= size <= 7:
            raise checks.invalid("BlurPool", "size", "in 2 .. 7", size, "3 is usual.")
        row = torch.ones(1)
        for _ in range(size - 1):
            row = F.pad(row, (1, 0)) + F.pad(row, (0, 1))
        self.size, self.stride = size, stride
        self.register_buffer("filter", torch.outer(row, row) / row.sum() ** 2)

    def forward(self, x: Tensor) -> Tensor:
        before, after = (self.size - 1) // 2, self.size // 2
        mode = "reflect" if min(x.shape[-2:]) > after else "replicate"
        padded = F.pad(x, (before, after, before, after), mode)
        weight = self.filter.to(x.dtype).expand(x.shape[1], 1, *self.filter.shape)
        return _blur(padded, weight, self.stride)


def _blur_reference(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    return F.conv2d(x, weight, stride=stride, groups=x.shape[1])


def _blur_forward(needs: Needs, x: Tensor, weight: Tensor, stride: int) -> tuple[Tensor, Residuals]:
    # An expanded 0-byte stand-in remembers the input's shape.
    return _blur_reference(x, weight, stride), (x.new_empty(()).expand(x.shape),)


def _blur_backward(
    needs: Needs, grad: Tensor, inputs: Sequence[Tensor], residuals: Residuals
) -> tuple[Tensor, None, None]:
    _, weight, stride = inputs
    shape = residuals[0].shape
    to_x: Tensor = conv2d_input(  # type: ignore[no-untyped-call]
        shape, weight, grad, stride=int(stride), groups=shape[1]
    )
    return to_x, None, None


_blur = fused(_blur_reference, _blur_forward, _blur_backward, keeps=["weight"], name="blur_pool")
