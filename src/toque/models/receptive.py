"""Costs and receptive fields, followed operation by operation on the meta device.

Shape letters: B batch, C channels, H W height and width.
Source:        Araujo 2019, "Computing receptive fields of convolutional neural networks", eqs. 1-2
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten


class Field(NamedTuple):
    """How far a value sees: `size_px` image pixels, and the pixels between two neighbours."""

    size_px: float
    step_px: float


EVERYTHING = Field(math.inf, math.inf)
_POOLS = {aten.max_pool2d_with_indices, aten.avg_pool2d}
_REDUCTIONS = {aten.mean, aten.sum, aten.amax, aten.amin, aten.std, aten.var}
_MIXES_TOKENS = {
    aten._scaled_dot_product_flash_attention_for_cpu,
    aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_efficient_attention,
    aten._scaled_dot_product_attention_math,
    aten.scaled_dot_product_attention,
    aten.bmm,
}


class Following(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, counts floating-point operations and follows the field of every tensor.

    A multiplication and an addition count as two, as in torch.utils.flop_counter.
    """

    def __init__(self, images: list[torch.Tensor]) -> None:
        # Imported here: it loads Triton, which takes a tenth of a second.
        from torch.utils.flop_counter import flop_registry

        super().__init__()  # type: ignore[no-untyped-call]
        self._flops_of = flop_registry
        self.flops = 0
        self.fields: dict[int, Field] = {id(image): Field(1, 1) for image in images}
        self.alive: list[Any] = [images]  # meta tensors cost nothing, and their ids stay theirs

    def field(self, tensor: torch.Tensor) -> Field | None:
        """The receptive field of a value of this tensor; None where no image went in."""
        return self.fields.get(id(tensor))

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        answer = func(*args, **kwargs)
        packet = func._overloadpacket
        if packet in self._flops_of:
            self.flops += self._flops_of[packet](*args, **kwargs, out_val=answer)
        seen = [self.fields[id(t)] for t in tree_leaves((args, kwargs)) if id(t) in self.fields]
        if seen:
            field = Field(max(f.size_px for f in seen), max(f.step_px for f in seen))
            field = _after(packet, args, answer, field)
            for tensor in tree_leaves(answer):
                if isinstance(tensor, torch.Tensor):
                    self.fields[id(tensor)] = field
        self.alive.append(answer)
        return answer


def _after(packet: Any, args: tuple[Any, ...], answer: Any, field: Field) -> Field:
    given = args[0] if args and isinstance(args[0], torch.Tensor) else None
    if packet is aten.convolution:
        stride, dilation, transposed = args[3], args[5], args[6]
        kernel = max(d * (k - 1) + 1 for k, d in zip(args[1].shape[2:], dilation, strict=True))
        if transposed:
            step = field.step_px / stride[0]
            return Field(field.size_px + (math.ceil(kernel / stride[0]) - 1) * field.step_px, step)
        return Field(field.size_px + (kernel - 1) * field.step_px, field.step_px * stride[0])
    if packet in _POOLS:
        kernel, stride = args[1], (args[2] if len(args) > 2 and args[2] else args[1])
        return Field(field.size_px + (kernel[0] - 1) * field.step_px, field.step_px * stride[0])
    if packet in _MIXES_TOKENS:
        return EVERYTHING
    if given is None or not isinstance(answer, torch.Tensor):
        return field
    if given.ndim == 4 and answer.ndim == 4 and "upsample" in str(packet):
        scale = answer.shape[2] / given.shape[2]
        reach = field.step_px if "linear" in str(packet) or "cubic" in str(packet) else 0
        return Field(field.size_px + reach, field.step_px / scale)
    spatial = math.prod(given.shape[2:]) if given.ndim == 4 else 1
    if packet in _REDUCTIONS and spatial > 1 and given.shape[2:] != answer.shape[2:]:
        return EVERYTHING
    if given.ndim == 4 and answer.ndim == 2 and spatial > 1:  # flattened for a linear layer
        return EVERYTHING
    if "adaptive" in str(packet) and given.ndim == 4:
        return EVERYTHING if math.prod(answer.shape[2:]) == 1 else field
    return field
