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
    p, numbers, valid = _probabilities("lovasz", logits, targets, ignore_index)
    yes = _one_hot(p, numbers)
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
    """Probabilities [B, K, ...], safe class numbers, and which positions count [B, ...]."""
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
    return scores.sigmoid() if binary else scores.softmax(1), numbers, valid


def _one_hot(p: Tensor, numbers: Tensor) -> Tensor:
    """1 at the class of each position, as the probabilities are shaped; K = 1 asks for class 1."""
    if p.shape[1] == 1:
        return (numbers[:, None] == 1).to(p.dtype)
    return torch.zeros_like(p).scatter(1, numbers[:, None], 1.0)


def _overlaps(
    where: str, logits: Tensor, targets: Tensor, ignore_index: int, per_image: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Probabilities, and shared, found and true sizes of each class: [K], or [B, K] per image."""
    p, numbers, valid = _probabilities(where, logits, targets, ignore_index)
    counts = valid.to(p.dtype)
    found = _sums(p * counts[:, None], per_image)
    if p.shape[1] == 1 or p.device.type != "cpu":
        # On a GPU sums by class number are added in any order: the bits would change.
        yes = _one_hot(p, numbers) * counts[:, None]
        return p, _sums(p * yes, per_image), found, _sums(yes, per_image)
    # Without the one-hot tensor: half the memory and time.
    at_label = p.gather(1, numbers[:, None]).squeeze(1) * counts
    classes = p.shape[1]
    shared, true = (_by_class(each, numbers, classes, per_image) for each in (at_label, counts))
    return p, shared, found, true


def _sums(values: Tensor, per_image: bool) -> Tensor:
    """The sum of each class: [B, K, ...] -> [K], or [B, K] per image."""
    each = values.flatten(2).sum(2) if values.dim() > 2 else values
    return each if per_image else each.sum(0)


def _by_class(values: Tensor, numbers: Tensor, classes: int, per_image: bool) -> Tensor:
    """The sum of the values at each class number: [B, ...] -> [K], or [B, K] per image."""
    if not per_image:
        return values.new_zeros(classes).index_add(0, numbers.flatten(), values.flatten())
    rows = values.new_zeros(len(values), classes)
    return rows.scatter_add(1, numbers.flatten(1), values.flatten(1))
