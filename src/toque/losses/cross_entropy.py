"""Cross-entropy: class numbers or probabilities, smoothing, class weights, positions left out.

Shape letters: B images, K classes, ... positions (none for images, H, W for segmentation).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from toque import checks
from toque.losses import reduction as reductions
from toque.losses import targets as labels
from toque.losses.reduction import Reduction


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    class_weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """torch's cross-entropy, defined (0, with zero gradient) where every target is ignored.

    A class number out of range is an error on the CPU and a NaN loss on a GPU, never a CUDA assert.

    Shape:    logits [B, K, ...], targets [B, ...] or probabilities [B, K, ...] -> [] or [B, ...]
    Dtype:    logits float, targets integer or float; computed and returned in float32 for half
              logits, in the logits' dtype otherwise
    Units:    nats; "mean" divides by the summed class weight of the targets not ignored (class
              numbers), or by the number of positions (probabilities), as torch does
    Args:     label_smoothing: share of the target spread evenly over the classes, 0 to 1
              ignore_index: class number that counts nothing
              class_weights: [K], weight of each class
    Raises:   ValueError: shapes or devices disagree, class number out of range,
              smoothing outside 0 .. 1
              TypeError: integer logits, boolean targets
    Source:   smoothing of Szegedy 2016, arXiv:1512.00567, section 7
    Example:  >>> cross_entropy(torch.zeros(2, 4), torch.tensor([1, -100])).item()  # log 4
              1.3862943649291992
    """
    if reduction == "mean" and class_weights is None:
        value = _usual(logits, targets, label_smoothing, ignore_index)
        if value is not None:
            return value
    where = "cross_entropy"
    labels.check_logits(where, logits)
    all_count = labels.check_targets(where, logits, targets, ignore_index)
    reductions.check(where, reduction)
    check_smoothing(where, label_smoothing)
    check_class_weights(where, logits, class_weights)
    scores = reductions.full_precision(logits)
    weights = None if class_weights is None else class_weights.to(scores.dtype)

    if all_count and class_weights is None:
        # The usual case, at the price of torch's own: nothing is left out, so nothing can be 0 / 0.
        return F.cross_entropy(
            scores, targets.long(), reduction=reduction, label_smoothing=label_smoothing
        )
    if labels.are_probabilities(targets):
        values = F.cross_entropy(
            scores, targets.to(scores.dtype), weights, reduction="none",
            label_smoothing=label_smoothing,
        )  # fmt: skip
        return reductions.reduce(values, reduction)

    numbers, valid, poison = labels.split(targets, logits.shape[1], ignore_index)
    # The safe numbers carry ignore_index again, so that torch's own kernel leaves them out.
    values = F.cross_entropy(
        scores, numbers.where(valid, ignore_index), weights, ignore_index=ignore_index,
        reduction="none" if reduction == "none" or poison is not None else "sum",
        label_smoothing=label_smoothing,
    )  # fmt: skip
    if poison is not None:
        values = values + poison
    if reduction == "mean":
        counted = valid if weights is None else weights[numbers] * valid
        return reductions.share(values.sum(), counted.to(values.dtype).sum())
    return values.sum() if reduction == "sum" else values


def _usual(
    logits: Tensor, targets: Tensor, label_smoothing: float, ignore_index: int
) -> Tensor | None:
    """The usual case by torch alone, a third of a small step cheaper than with every check.

    On plain CPU tensors torch finds by itself what the checks would. None where it objects, or
    where the loss is no number: nothing counts, or the logits are not; then it is done thoroughly.
    """
    if (
        logits.dim() != 2
        or targets.dtype != torch.int64
        or logits.dtype not in (torch.float32, torch.float64)
        or not 0 <= label_smoothing <= 1
        or not labels.is_readable(targets, logits)
    ):
        return None
    try:
        value = F.cross_entropy(
            logits, targets, ignore_index=ignore_index, label_smoothing=label_smoothing
        )
    except (IndexError, RuntimeError, ValueError):
        return None
    number = value.item()
    return value if number == number else None


def check_smoothing(where: str, label_smoothing: float) -> None:
    """Raises ValueError when label_smoothing is outside 0 .. 1."""
    if not 0.0 <= label_smoothing <= 1.0:
        raise checks.invalid(
            where, "label_smoothing", "in 0 .. 1", label_smoothing, "0.1 is usual, 0 is none."
        )


def check_class_weights(where: str, logits: Tensor, class_weights: Tensor | None) -> None:
    if class_weights is not None and tuple(class_weights.shape) != (logits.shape[1],):
        raise checks.invalid(
            where, "class_weights", f"of shape [{logits.shape[1]}]", list(class_weights.shape),
            "Give one weight per class.",
        )  # fmt: skip
