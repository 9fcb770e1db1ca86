"""Shapes followed on the meta device: no weight is read and nothing is computed.

Shape letters: B batch, C channels, H W height and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from toque import checks
from toque.layers.running import modules_running

# The image on which a part tries out its branches when it is built; a power of two, so that strides
# divide it, and large enough for five halvings.
PROBE_PX = 64

_DIMENSIONS = ("batch", "channels", "height", "width")


class BranchMismatch(checks.InvalidValue):
    """Two branches that meet with different shapes."""

    def __init__(
        self, where: str, names: tuple[str, str], sizes: tuple[list[int], list[int]], fix: str
    ) -> None:
        first, second = sizes
        if len(first) != len(second):
            differ = f"{len(first)} dimensions against {len(second)}"
        else:
            position = next(i for i, (a, b) in enumerate(zip(*sizes, strict=True)) if a != b)
            dimension = _DIMENSIONS[position] if len(first) == 4 else f"dimension {position}"
            differ = f"{dimension} {first[position]} against {second[position]}"
        self.where, self.names, self.sizes, self.differ, self.fix = where, names, sizes, differ, fix
        super().__init__(
            f"{where}: branches {names[0]!r} and {names[1]!r} must be of one shape; "
            f"got {first} and {second}: {differ}. {fix}"
        )

    def inside(self, path: str) -> BranchMismatch:
        """The same error with the path of the module where the branches meet."""
        if not path:
            return self
        names = (f"{path}.{self.names[0]}", f"{path}.{self.names[1]}")
        return BranchMismatch(f"{self.where} at {path}", names, self.sizes, self.fix)


def same(
    where: str, names: Sequence[str], tensors: Sequence[torch.Tensor], free: int | None = None
) -> None:
    """Raise BranchMismatch unless all tensors have one shape, but for the dimension `free`."""
    for name, tensor in zip(names[1:], tensors[1:], strict=True):
        first, other = list(tensors[0].shape), list(tensor.shape)
        if len(first) == len(other) and all(
            a == b or i == free for i, (a, b) in enumerate(zip(first, other, strict=True))
        ):
            continue
        shown = [list(first), list(other)]
        if free is not None and len(first) == len(other):
            shown[1][free] = shown[0][free]  # the dimension that may differ is not the mistake
        error = BranchMismatch(
            where, (names[0], name), (shown[0], shown[1]), _fix(names[0], name, first, other, free)
        )
        error.sizes = (first, other)
        raise error


def output(module: nn.Module, *inputs: Sequence[int]) -> Any:
    """What `module` returns for inputs of these shapes, as meta tensors.

    Parameters and buffers are replaced by meta tensors for the one call, so that the module itself
    (and its BatchNorm statistics) stays untouched wherever it lives.

    Example: >>> output(nn.Conv2d(3, 8, 3), [1, 3, 32, 32]).shape
             torch.Size([1, 8, 30, 30])
    """
    state = meta_state(module)
    images = tuple(empty_images(state, shape) for shape in inputs)
    with torch.no_grad():
        return functional_call(module, state, images)


def meta_state(module: nn.Module, device: str = "meta") -> dict[str, torch.Tensor]:
    """Parameters and buffers as empty tensors; shared ones stay shared.

    Inside a FakeTensorMode, with device "cpu", they stand for tensors of that device without bytes.
    """
    twins: dict[int, torch.Tensor] = {}
    state = {}
    for name, tensor in [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]:
        if id(tensor) not in twins:
            twin = torch.empty_strided(
                tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device
            )
            twin.requires_grad_(tensor.requires_grad)
            twins[id(tensor)] = twin
        state[name] = twins[id(tensor)]
    return state


def empty_images(
    state: Mapping[str, torch.Tensor], shape: Sequence[int], device: str = "meta"
) -> torch.Tensor:
    """An empty batch for a model of this state, in the dtype of its weights."""
    dtype = next((t.dtype for t in state.values() if t.is_floating_point()), torch.float32)
    return torch.empty(*shape, device=device, dtype=dtype)


def check(model: nn.Module, *inputs: Sequence[int]) -> Any:
    """Follow inputs of these shapes through the model and return its output, as meta tensors.

    Raises:  BranchMismatch: two branches meet with different shapes; both are named by their path
             ValueError: a layer cannot take what it is given; the layer is named by its path
    Example: >>> check(model, [2, 3, 224, 224]).shape
    """

    def enter(
        path: str, module: nn.Module, given: tuple[Any, ...]
    ) -> tuple[str, nn.Module, list[int] | None]:
        first = given[0] if given and isinstance(given[0], torch.Tensor) else None
        return path, module, None if first is None else list(first.shape)

    with modules_running(model.named_modules(), enter) as inside:
        try:
            return output(model, *inputs)
        except BranchMismatch as error:
            raise error.inside(inside[-1][0]) from None
        except checks.UserMistake:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            path, module, given = inside[-1] if inside else ("", model, None)
            raise checks.invalid(
                "shapes.check",
                f"the input of {path or 'the model'} ({type(module).__name__})",
                "one it can take", given, f"{checks.first_line(error, 1000).rstrip('.')}.",
            ) from error  # fmt: skip


def channels_in(module: nn.Module) -> int | None:
    """The image channels a module takes, where its first layer is a convolution or a norm."""
    for layer in module.modules():
        channels = getattr(layer, "in_channels", None)
        if channels is None and isinstance(layer, nn.modules.batchnorm._BatchNorm):
            channels = layer.num_features
        if isinstance(channels, int):
            return channels
        if isinstance(layer, nn.Linear | nn.LayerNorm | nn.Embedding):
            return None  # a layer over tokens, not over an image
    return None


def probe(module: nn.Module, channels: int) -> list[int]:
    """The shape a module makes of a [2, channels, 64, 64] image."""
    return list(check(module, [2, channels, PROBE_PX, PROBE_PX]).shape)


def _fix(one: str, two: str, first: list[int], other: list[int], free: int | None) -> str:
    if len(first) != len(other):
        return "Make both end with an image, or both with a vector."
    if len(first) == 4 and first[1] != other[1] and free != 1:
        return f"Give {two!r} {first[1]} output channels, or merge by concat."
    for small, large, slow in ((first, other, two), (other, first, one)):
        ratios = {b / a for a, b in zip(small[2:], large[2:], strict=True) if a}
        if len(ratios) == 1 and (ratio := ratios.pop()) > 1 and ratio.is_integer():
            return f"Give {slow!r} the stride {int(ratio)} more, or upsample the other."
    return "Pad both alike: kernel_size // 2 for an odd kernel keeps the size."
