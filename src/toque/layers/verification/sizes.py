"""The first axis as a batch: none, one, five images; odd images; images that do not mix."""

from __future__ import annotations

import torch
from torch import Tensor

from toque import checks
from toque.layers.verification import compare, gradients
from toque.layers.verification.subject import NotSupported, Subject, Wrong


def empty_batch(subject: Subject) -> str:
    """No images at all: shapes stay right, and parameters get zero gradients, not NaN."""
    batched = batch_positions(subject)
    empty = subject.resized(lambda i, t: t[:0] if i in batched else t)
    try:
        values = empty.values()
        outputs = empty.call(values)
    except Exception as error:
        raise NotSupported(f"an empty batch is refused: {checks.first_line(error)}") from error
    if any(bool(output.isnan().any()) for output in outputs if output.is_floating_point()):
        return "the output is NaN, as of a mean over nothing"
    if not any(output.requires_grad for output in outputs):
        return "the output has no gradient"
    outcome = empty.finish(outputs, values)
    for name, gradient in outcome.gradients.items():
        if gradient is not None and bool(gradient.isnan().any()):
            raise Wrong(
                f"the gradient for `{name}` is NaN on an empty batch: is a mean taken over nothing?"
            )
        if gradient is not None and bool((gradient != 0).any()) and name in _parameters(subject):
            raise Wrong(f"the gradient for `{name}` is not zero on an empty batch")
    return ""


def _parameters(subject: Subject) -> set[str]:
    return {slot.name for slot in subject.slots if slot.is_parameter}


def batch_positions(subject: Subject) -> list[int]:
    """Inputs whose first axis is the batch: those as long there as the first input."""
    inputs = [i for i in subject.input_positions if subject.examples[i].dim()]
    if not inputs:
        return []
    size = subject.examples[inputs[0]].shape[0]
    deepest = max(subject.examples[i].dim() for i in inputs)
    return [
        i
        for i in inputs
        if subject.examples[i].shape[0] == size
        and (i == inputs[0] or not subject.slots[i].is_differentiable
             or subject.examples[i].dim() == deepest)
    ]  # fmt: skip


def odd_sizes(subject: Subject) -> str:
    """Other batch sizes and odd images: the shapes follow, and the gradients hold."""
    batched = batch_positions(subject)
    tried = []
    for batch, side in ((1, None), (5, None), (3, 7)):

        def resize(i: int, t: Tensor, batch: int = batch, side: int | None = side) -> Tensor:
            return _repeated(t, batch, side) if i in batched else t

        try:
            other = subject.resized(resize)
            found = other.run(other.values()).outputs
        except Exception:  # the layer, or a fixed second input, is made for one size
            continue
        if side is None:
            _require_batch_axis(subject, found, batch)
        try:
            gradients.first(other)
        except Wrong as wrong:
            raise Wrong(f"{other.shapes()}: {wrong}") from None
        except NotSupported:
            continue
        tried.append(str(batch) if side is None else f"{batch}x{side}x{side - 2}")
    return f"batch {', '.join(tried)}" if tried else "made for one size"


def _repeated(tensor: Tensor, batch: int, side: int | None) -> Tensor:
    """Rows (and pixels) repeated to a batch of another size; repeated rows are not quite equal."""
    rows = torch.arange(batch, device=tensor.device) % max(tensor.shape[0], 1)
    made = tensor[rows]
    if made.is_floating_point():
        each = torch.arange(batch, device=tensor.device).view(-1, *[1] * (made.dim() - 1))
        made = made * (1 + 0.1 * each)
    if side is not None and made.dim() >= 4:
        made = made[..., torch.arange(side) % made.shape[-2], :]
        made = made[..., torch.arange(side - 2) % made.shape[-1]]
    return made


def _require_batch_axis(subject: Subject, found: list[Tensor], batch: int) -> None:
    batched = batch_positions(subject)
    if not batched:
        return
    size = subject.examples[batched[0]].shape[0]
    for a, b in zip(subject.call(subject.values()), found, strict=False):
        follows = size > 1 and a.dim() > 0 and a.shape[0] == size
        if follows and batch == 1 and b.dim() < a.dim():
            raise Wrong(
                f"a batch of one loses its axis: the output is {list(b.shape)} instead of "
                f"{[1, *a.shape[1:]]}; is .squeeze() called without an axis?"
            )


def images_apart(subject: Subject) -> str:
    """In eval, changing the first image changes no other image's output.

    Whether the first axis is a batch is not known, so a layer that mixes along it is told, not
    failed.
    """
    batched = [i for i in batch_positions(subject) if subject.examples[i].is_floating_point()]
    if not batched or subject.examples[batched[0]].shape[0] < 2:
        return "no batch"
    size = subject.examples[batched[0]].shape[0]
    outputs = subject.call(subject.values())

    def other_first(position: int, tensor: Tensor) -> Tensor:
        if position in batched:
            tensor[0] = 0.7 * tensor[0] + 0.1
        return tensor

    changed = subject.call(subject.values(change=other_first))
    for before, after in zip(outputs, changed, strict=True):
        if not before.dim() or before.shape[0] != size or not before.is_floating_point():
            continue
        if compare.difference(after[1:], before[1:]) > 1e-9:
            raise NotSupported(
                "another first image changes the others' outputs: right for a loss or a sequence "
                "along the first axis, wrong for a batch of images"
            )
    return ""
