"""Losses on numbers and boxes: Huber, quantile, generalised and complete IoU."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from toque import checks
from toque.losses import reduction as reductions
from toque.losses.reduction import Reduction


def huber(
    predictions: Tensor, targets: Tensor, *, delta: float = 1.0, reduction: Reduction = "mean"
) -> Tensor:
    """Squared error up to delta, absolute beyond; 0 for no predictions at all.

    Shape:  predictions, targets [...] -> [] or [...]
    Args:   delta: > 0; a large one is half of the squared error
    Raises: ValueError: shapes disagree, delta <= 0
    """
    _check("huber", predictions, targets)
    if not delta > 0:
        raise checks.invalid("huber", "delta", "> 0", delta, "1 is usual.")
    reductions.check("huber", reduction)
    values = F.huber_loss(
        reductions.full_precision(predictions), targets.float()
        if predictions.dtype != torch.float64 else targets, reduction="none", delta=delta,
    )  # fmt: skip
    return reductions.reduce(values, reduction)


def quantile(
    predictions: Tensor, targets: Tensor, *, level: float = 0.5, reduction: Reduction = "mean"
) -> Tensor:
    """Pinball loss: its best constant prediction is the quantile of the targets at `level`.

    Shape:  predictions, targets [...] -> [] or [...]
    Args:   level: 0 to 1 exclusive; 0.5 is half of the absolute error
    Raises: ValueError: shapes disagree, level outside
    Source: Koenker & Bassett 1978, "Regression quantiles"
    """
    _check("quantile", predictions, targets)
    if not 0 < level < 1:
        raise checks.invalid("quantile", "level", "between 0 and 1", level, "0.5 is the median.")
    reductions.check("quantile", reduction)
    error = targets - reductions.full_precision(predictions)
    return reductions.reduce(torch.maximum(level * error, (level - 1) * error), reduction)


def giou(boxes: Tensor, targets: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """1 - generalised IoU of pairs of boxes.

    Shape:  boxes, targets [N, 4] as (x1, y1, x2, y2), x1 <= x2 and y1 <= y2 -> [] or [N]
    Units:  0 (equal) to 2
    Raises: ValueError: shapes disagree
    Source: Rezatofighi 2019, arXiv:1902.09630, algorithm 1
    """
    _check_boxes("giou", boxes, targets)
    reductions.check("giou", reduction)
    pair = _Pair(boxes, targets)
    around = (pair.around[..., 2:] - pair.around[..., :2]).prod(-1)
    values = 1 - pair.iou + reductions.share(around - pair.union, around)
    return reductions.reduce(values, reduction)


def ciou(boxes: Tensor, targets: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """1 - complete IoU of pairs of boxes: overlap, distance of the centres, shape.

    Shape:  boxes, targets [N, 4] as (x1, y1, x2, y2), x1 <= x2 and y1 <= y2 -> [] or [N]
    Raises: ValueError: shapes disagree
    Source: Zheng 2020, arXiv:1911.08287, eq. 8 to 11; the weight of the shape has no gradient
    """
    _check_boxes("ciou", boxes, targets)
    reductions.check("ciou", reduction)
    pair = _Pair(boxes, targets)
    diagonal = (pair.around[..., 2:] - pair.around[..., :2]).square().sum(-1)
    centres = [(b[..., :2] + b[..., 2:]) / 2 for b in (pair.boxes, pair.targets)]
    distance = reductions.share((centres[0] - centres[1]).square().sum(-1), diagonal)
    sizes = [(b[..., 2:] - b[..., :2]).unbind(-1) for b in (pair.boxes, pair.targets)]
    angles = [torch.atan2(width, height) for width, height in sizes]
    shape = 4 / math.pi**2 * (angles[1] - angles[0]).square()
    with torch.no_grad():
        weight = reductions.share(shape, 1 - pair.iou + shape)
    return reductions.reduce(1 - pair.iou + distance + weight * shape, reduction)


class _Pair:
    """Intersection over union of each pair, and the smallest box around both."""

    def __init__(self, boxes: Tensor, targets: Tensor) -> None:
        self.boxes = reductions.full_precision(boxes)
        self.targets = targets.to(self.boxes.dtype)
        low = torch.maximum(self.boxes[..., :2], self.targets[..., :2])
        high = torch.minimum(self.boxes[..., 2:], self.targets[..., 2:])
        shared = (high - low).clamp(min=0).prod(-1)
        areas = [(b[..., 2:] - b[..., :2]).prod(-1) for b in (self.boxes, self.targets)]
        self.union = areas[0] + areas[1] - shared
        self.iou = reductions.share(shared, self.union)
        self.around = torch.cat(
            [
                torch.minimum(self.boxes[..., :2], self.targets[..., :2]),
                torch.maximum(self.boxes[..., 2:], self.targets[..., 2:]),
            ],
            -1,
        )


def _check(where: str, predictions: Tensor, targets: Tensor) -> None:
    if not predictions.is_floating_point():
        raise checks.invalid_type(
            where, "predictions", "floating", predictions.dtype, "Give the model's output."
        )
    if predictions.shape != targets.shape:
        raise checks.invalid(
            where, "targets", f"of the predictions' shape {list(predictions.shape)}",
            list(targets.shape), "A [B, 1] against a [B] would broadcast to [B, B]: squeeze one.",
        )  # fmt: skip


def _check_boxes(where: str, boxes: Tensor, targets: Tensor) -> None:
    _check(where, boxes, targets)
    if boxes.shape[-1:] != (4,):
        raise checks.invalid(
            where, "boxes", "of shape [N, 4]", list(boxes.shape), "Give x1, y1, x2, y2."
        )
