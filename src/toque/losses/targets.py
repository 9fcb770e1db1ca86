"""What every classification loss asks of its logits and targets, said in one sentence when not so.

Shapes and dtypes are checked on every call. Class numbers are values, so they are read only where
that costs nothing (plain CPU tensors). Elsewhere a number out of range makes its loss NaN instead
of a CUDA assert, which would end the process: the run finds the NaN and `explain` names the number.

Shape letters: B images, K classes, ... positions (none for images, H, W for segmentation).
"""

from __future__ import annotations

import torch
from torch import Tensor

from toque import checks

_PLAIN = (Tensor, torch.nn.Parameter)
_is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor


def check_logits(where: str, logits: Tensor) -> None:
    """Logits are floating and have a class axis: [B, K, ...].

    Raises: TypeError: integer logits
            ValueError: fewer than two axes
    """
    if not logits.is_floating_point():
        raise checks.invalid_type(
            where, "logits", "floating", logits.dtype, "Give the model's output, before argmax."
        )
    if logits.dim() < 2:
        raise checks.invalid(
            where, "logits", "of shape [B, K, ...]", list(logits.shape),
            "Give one row of K class scores per image.",
        )  # fmt: skip


def are_probabilities(targets: Tensor) -> bool:
    """True when targets are class probabilities (floating), False when they are class numbers."""
    return targets.is_floating_point()


def check_targets(where: str, logits: Tensor, targets: Tensor, ignore_index: int | None) -> bool:
    """Targets fit the logits [B, K, ...]: class numbers [B, ...], or probabilities of their shape.

    True when the values were read and every one is a class that counts: none out of range, none
    ignored. False says nothing.

    Raises: TypeError: boolean targets
            ValueError: shapes or devices disagree, a class number out of range (read on CPU only)
    """
    if targets.device != logits.device:
        raise checks.invalid(
            where, "targets", f"on {logits.device} like the logits", targets.device,
            f"Move them: targets.to({str(logits.device)!r}).",
        )  # fmt: skip
    if are_probabilities(targets):
        if targets.shape != logits.shape:
            raise checks.invalid(
                where, "targets (probabilities)", f"of the logits' shape {list(logits.shape)}",
                list(targets.shape), "Give integers for class numbers.",
            )  # fmt: skip
        return False
    if targets.dtype == torch.bool:
        raise checks.invalid_type(
            where, "targets", "class numbers or probabilities", "torch.bool", "Use targets.long()."
        )
    expected = logits.shape[:1] + logits.shape[2:]
    if targets.shape != expected:
        raise checks.invalid(
            where, "targets", f"of shape {list(expected)} for logits {list(logits.shape)}",
            list(targets.shape), "Give one class number per position.",
        )  # fmt: skip
    if targets.numel() == 0 or not is_readable(targets):
        return False
    num_classes = logits.shape[1]
    low, high = torch.aminmax(targets)
    if int(low) >= 0 and int(high) < num_classes:
        return ignore_index is None or not 0 <= ignore_index < num_classes
    sentence = explain(where, targets, num_classes, ignore_index)
    if sentence is not None:
        raise checks.InvalidValue(sentence)
    return False


def is_readable(*tensors: Tensor) -> bool:
    """True when reading values costs no synchronisation and breaks no trace: plain CPU tensors."""
    if torch.compiler.is_compiling():
        return False
    for tensor in tensors:
        if type(tensor) not in _PLAIN or not tensor.is_cpu or _is_wrapped(tensor):
            return False
    return True


def explain(where: str, targets: Tensor, num_classes: int, ignore_index: int | None) -> str | None:
    """The sentence that names a class number out of range, or None. It reads values (synchronises).

    Example: >>> explain("cross_entropy", torch.tensor([0, 7]), 5, None)
             'cross_entropy: targets must be in 0 .. 4; got 7. Check the number of classes.'
    """
    if are_probabilities(targets) or targets.numel() == 0:
        return None
    outside = targets[(targets < 0) | (targets >= num_classes)]
    if ignore_index is not None:
        outside = outside[outside != ignore_index]
    if outside.numel() == 0:
        return None
    first = int(outside.flatten()[0])
    also = "" if ignore_index is None else f", or {ignore_index} to ignore"
    fix = (
        "A mark of its own for 'ignore' is set with ignore_index."
        if first in (-1, 255)
        else "Check the number of classes."
    )
    return checks.sentence(where, "targets", f"in 0 .. {num_classes - 1}{also}", first, fix)


def split(
    targets: Tensor, num_classes: int, ignore_index: int | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Class numbers made safe to index with, which of them count, and NaN where out of range.

    Shape: targets [B, ...] -> safe int64 [B, ...], valid bool [B, ...], poison float32 [B, ...]
           that is 0 or NaN, to be added to the loss of the position (None where values were read
           by check_targets already)
    """
    numbers = targets.long()
    if ignore_index is None:
        valid = torch.ones_like(numbers, dtype=torch.bool)
    else:
        valid = numbers != ignore_index
    if is_readable(targets):
        return numbers.where(valid, 0), valid, None
    outside = (numbers < 0) | (numbers >= num_classes)
    poison = torch.zeros(numbers.shape, device=numbers.device)
    poison = poison.masked_fill(outside & valid, float("nan"))
    return numbers.masked_fill(outside, 0).where(valid, 0), valid, poison
