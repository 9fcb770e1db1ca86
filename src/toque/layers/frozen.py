"""Frozen layers that let gradients through and keep nothing but a bit for each ReLU.

A frozen convolution still keeps its input, and BatchNorm in eval too, though only the gradient for
the input is wanted. Where something below a frozen backbone is trained, that is most of the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from toque import checks
from toque.layers.fused import Needs, Residuals, fused

Model = TypeVar("Model", bound=nn.Module)


def freeze_for_input_grad(model: Model) -> Model:
    """Freeze a model's parameters and let its convolutions and ReLUs keep no activations.

    For backbones whose input, or a layer below, is what is trained: style transfer, adversarial
    images, prompts, a network in front of a fixed one. Second derivatives are refused.

    Args:    model: changed in place and returned: its parameters no longer require gradients, it
             is in eval, and its Conv2d, BatchNorm2d and ReLU are of subclasses that do this
    Raises:  ValueError: it has nothing to change
    Measured: benchmarks/RESULTS.md, "layers"
    """
    changed = 0
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for module in model.modules():
        frozen = _FROZEN.get(type(module))
        if frozen is not None and getattr(module, "padding_mode", "zeros") == "zeros":
            module.__class__ = frozen
            changed += 1
    if not changed:
        raise checks.invalid(
            "freeze_for_input_grad", "model", "one with Conv2d, BatchNorm2d or ReLU modules",
            type(model).__name__, "Freeze it with requires_grad_(False).",
        )  # fmt: skip
    return model.eval()


def pack_bits(mask: Tensor) -> Tensor:
    """A boolean tensor in an eighth of its bytes: uint8 [ceil(n / 8)]."""
    flat = mask.reshape(-1).to(torch.uint8)
    flat = F.pad(flat, (0, -len(flat) % 8)).view(-1, 8)
    powers = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=mask.device)
    return (flat * powers).sum(1, dtype=torch.uint8)


def unpack_bits(bits: Tensor, shape: torch.Size) -> Tensor:
    """The boolean tensor of that shape again."""
    powers = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=bits.device)
    return (bits[:, None] & powers).ne(0).reshape(-1)[: shape.numel()].reshape(shape)


_Conv = tuple[Any, Any, Any, int]


def _conv_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, settings: _Conv, shape: torch.Size
) -> Tensor:
    return F.conv2d(x, weight, bias, *settings)


def _conv_forward(
    needs: Needs,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    settings: _Conv,
    shape: torch.Size,
) -> tuple[Tensor, Residuals]:
    return F.conv2d(x, weight, bias, *settings), ()


def _conv_backward(
    needs: Needs, grad: Tensor, inputs: Sequence[Any], residuals: Residuals
) -> tuple[Tensor, None, None, None, None]:
    _, weight, _, settings, shape = inputs
    to_x: Tensor = conv2d_input(  # type: ignore[no-untyped-call]
        shape, weight, grad, *settings
    )
    return to_x, None, None, None, None


_frozen_conv = fused(
    _conv_reference, _conv_forward, _conv_backward, keeps=["weight"], name="frozen_conv2d"
)


def _relu_reference(x: Tensor) -> Tensor:
    return torch.relu(x)


def _relu_forward(needs: Needs, x: Tensor) -> tuple[Tensor, Residuals]:
    out = torch.relu(x)
    return out, (pack_bits(out > 0), out.new_empty(()).expand(out.shape))


def _relu_backward(
    needs: Needs, grad: Tensor, inputs: Sequence[Any], residuals: Residuals
) -> tuple[Tensor]:
    bits, stand_in = residuals
    return (grad * unpack_bits(bits, stand_in.shape),)


_bit_relu = fused(
    _relu_reference, _relu_forward, _relu_backward, keeps=[], autocast="keep", name="bit_relu"
)


class FrozenConv2d(nn.Conv2d):
    """Conv2d with fixed parameters, which does not keep its input."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 torch's own name
        settings = (self.stride, self.padding, self.dilation, self.groups)
        if isinstance(self.padding, str):
            return super().forward(input)
        return _frozen_conv(input, self.weight, self.bias, settings, input.shape)


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d of its running statistics: a scale and a shift, which keep no image."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 torch's own name
        if self.running_mean is None or self.running_var is None:
            return super().forward(input)
        scale = torch.rsqrt(self.running_var + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        shift = -self.running_mean * scale
        if self.bias is not None:
            shift = shift + self.bias
        return input * scale[:, None, None] + shift[:, None, None]


class BitReLU(nn.ReLU):
    """ReLU that keeps one bit for each number."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 torch's own name
        return _bit_relu(input)


_FROZEN: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: FrozenConv2d,
    nn.BatchNorm2d: FrozenBatchNorm2d,
    nn.ReLU: BitReLU,
}
