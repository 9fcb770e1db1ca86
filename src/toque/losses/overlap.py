"""Overlap losses for segmentation: Dice, generalised Dice, Tversky, Lovasz.

All take scores and class numbers; the classes' probabilities are a softmax over K classes, or a
sigmoid where K is 1 (targets 0 or 1).

Shape letters: B images, K classes, ... positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from toque import checks
from toque.losses import reduction as reductions
from toque.losses import targets as labels


def dice(
    logits: Tensor,
    targets: Tensor,
    *,
    smooth: float = 1.0,
    per_image: bool = False,
    ignore_index: int = -100,
) -> Tensor:
    """1 - Dice coefficient, the mean over classes.

    Shape:  logits [B, K, ...], targets [B, ...] -> []
    Units:  0 (equal) to 1
    Args:   smooth: added above and below, so that a class that is nowhere counts as found
            per_image: overlaps of each image, then their mean; else of the whole batch
            ignore_index: class number of positions that count nothing
    Raises: ValueError: shapes disagree, a class number out of range, smooth < 0
    Source: Milletari 2016, arXiv:1606.04797, with the sum of probabilities below
    """
    return tversky(
        logits, targets, alpha=0.5, beta=0.5, smooth=smooth / 2, per_image=per_image,
        ignore_index=ignore_index,
    )  # fmt: skip


def tversky(
    logits: Tensor,
    targets: Tensor,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    smooth: float = 1.0,
    per_image: bool = False,
    ignore_index: int = -100,
) -> Tensor:
    """1 - Tversky index, the mean over classes: false positives and negatives weigh apart.

    Shape:  logits [B, K, ...], targets [B, ...] -> []
    Units:  0 (equal) to 1
    Args:   alpha: weight of false positives, beta: of false negatives; 0.5 and 0.5 is Dice, 1 and 1
            is the Jaccard index (IoU)
            smooth, per_image, ignore_index: as in dice
    Raises: ValueError: a negative setting, shapes disagree, a class number out of range
    Source: Salehi 2017, arXiv:1706.05721, eq. 2
    """
    for name, value in (("alpha", alpha), ("beta", beta), ("smooth", smooth)):
        if not value >= 0:
            raise checks.invalid("tversky", name, ">= 0", value, "0.5 and 0.5 is Dice.")
    p, shared, found, true = _overlaps("tversky", logits, targets, ignore_index, per_image)
    below = shared + alpha * (found - shared) + beta * (true - shared) + smooth
    index = reductions.share(shared + smooth, below)
    return (1 - index).mean() if p.numel() else p.sum()


def generalised_dice(logits: Tensor, targets: Tensor, *, ignore_index: int = -100) -> Tensor:
    """1 - generalised Dice: classes weigh by the inverse of their squared size in the batch.

    A class that is nowhere in the targets has no weight.

    Shape:  logits [B, K, ...], targets [B, ...] -> []
    Raises: ValueError: shapes disagree, a class number out of range
    Source: Sudre 2017, arXiv:1707.03237, section 2.2
    """
    p, shared, found, true = _overlaps("generalised_dice", logits, targets, ignore_index, False)
    weight = torch.where(true > 0, 1 / true.clamp(min=1).square(), torch.zeros_like(true))
    above, below = (2 * weight * shared).sum(), (weight * (found + true)).sum()
    return 1 - reductions.share(above, below) if p.numel() else p.sum()


def lovasz(
    logits: Tensor, targets: Tensor, *, present_only: bool = True, ignore_index: int = -100
) -> Tensor:
    """Lovasz-Softmax: the convex extension of 1 - IoU, the mean over classes.

    Shape:  logits [B, K, ...], targets [B, ...] -> []
    Args:   present_only: the mean over the classes in the targets alone, as the paper does
            ignore_index: class number of positions that count nothing
    Raises: ValueError: shapes disagree, a class number out of range
    Source: Berman 2018, arXiv:1705.08790, eq. 8 and algorithm 1
    """
    p, yes, valid = _probabilities("lovasz", logits, targets, ignore_index)
    classes = p.shape[1]
    p, yes = (t.movedim(1, 0).reshape(classes, -1) for t in (p, yes))
    counts = valid.reshape(1, -1).to(p.dtype)
    error, order = ((yes - p).abs() * counts).sort(dim=1, descending=True)
    # Positions left out have no error and, being of no class, no part in the sums below.
    hit = (yes * counts).gather(1, order)
    miss = ((1 - yes) * counts).gather(1, order)
    total = hit.sum(1, keepdim=True)
    union = total + miss.cumsum(1)
    jaccard = 1 - reductions.share(total - hit.cumsum(1), union)
    step = torch.diff(jaccard, dim=1, prepend=jaccard.new_zeros(classes, 1))
    values = (error * step).sum(1)
    weight = (total.squeeze(1) > 0).to(values.dtype) if present_only else torch.ones_like(values)
    return reductions.share((values * weight).sum(), weight.sum())


def _probabilities(
    where: str, logits: Tensor, targets: Tensor, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities and one-hot targets [B, K, ...], and which positions count [B, ...]."""
    labels.check_logits(where, logits)
    if labels.are_probabilities(targets):
        raise checks.invalid_type(
            where, "targets", "class numbers", targets.dtype, "Use targets.argmax(1)."
        )
    binary = logits.shape[1] == 1
    like = logits.expand(-1, 2, *logits.shape[2:]) if binary else logits
    labels.check_targets(where, like, targets, ignore_index)
    numbers, valid, poison = labels.split(targets, like.shape[1], ignore_index)
    scores = reductions.full_precision(logits)
    if poison is not None:
        scores = scores + poison[:, None]
    if binary:
        return scores.sigmoid(), (numbers[:, None] == 1).to(scores.dtype), valid
    yes = torch.zeros_like(scores).scatter(1, numbers[:, None], 1.0)
    return scores.softmax(1), yes, valid


def _overlaps(
    where: str, logits: Tensor, targets: Tensor, ignore_index: int, per_image: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Probabilities, and shared, found and true sizes of each class: [K], or [B, K] per image."""
    p, yes, valid = _probabilities(where, logits, targets, ignore_index)
    counts = valid[:, None].to(p.dtype)
    p, yes = p * counts, yes * counts
    axes = [axis for axis in range(p.dim()) if axis != 1 and not (per_image and axis == 0)]
    if not axes:
        return p, p * yes, p, yes
    return p, (p * yes).sum(axes), p.sum(axes), yes.sum(axes)
