"""Focal losses: cross-entropy that down-weights what is already classified well.

Shape letters: B images (or anchors), K classes, ... positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from toque import checks
from toque.layers.fused import Needs, Residuals, fused
from toque.losses import reduction as reductions
from toque.losses import targets as labels
from toque.losses.cross_entropy import check_class_weights, cross_entropy
from toque.losses.exponentials import softplus
from toque.losses.reduction import Reduction

BACKGROUND = -1
"""The target of a position that is of no class."""


def focal(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma: float = 2.0,
    ignore_index: int = -100,
    class_weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Softmax focal loss: (1 - p)^gamma times cross-entropy, p the probability of the target.

    Shape:  logits [B, K, ...], targets [B, ...] -> [] or [B, ...]
    Units:  nats; "mean" divides as cross_entropy does
    Args:   gamma: focus, >= 0; 0 is exactly cross_entropy
    Raises: ValueError: gamma < 0, shapes disagree, a class number out of range, class_weights that
            are not [K]
            TypeError: probabilities as targets
    Source: Lin 2017, arXiv:1708.02002, eq. 4, with softmax
    """
    _check_gamma("focal", gamma)
    reductions.check("focal", reduction)
    check_class_weights("focal", logits, class_weights)
    if labels.are_probabilities(targets):
        raise checks.invalid_type(
            "focal", "targets", "class numbers", targets.dtype, "Use cross_entropy for these."
        )
    plain = cross_entropy(logits, targets, ignore_index=ignore_index, reduction="none")
    values = plain if gamma == 0 else plain * (-torch.expm1(-plain)).clamp_min(0).pow(gamma)
    counted = (targets != ignore_index).to(values.dtype)
    if class_weights is not None:
        numbers, valid, _ = labels.split(targets, logits.shape[1], ignore_index)
        counted = class_weights.to(values.dtype)[numbers] * valid
        values = values * counted
    return reductions.reduce(values, reduction, counted)


def sigmoid_focal(
    logits: Tensor,
    targets: Tensor,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Sigmoid focal loss from class numbers, without their one-hot; every class is yes or no.

    Shape:    logits [B, K, ...], targets [B, ...]: class numbers, or -1 for background; or
              probabilities of the logits' shape -> [] or [B, K, ...] ("none")
    Dtype:    computed and returned in float32 for half logits
    Units:    nats; "mean" divides by the number of logits, as torchvision does
    Gradient: logits only
    Args:     alpha: weight of yes, 1 - alpha of no; gamma: focus, >= 0. alpha 0.5 and gamma 0 is
              half of binary_cross_entropy_with_logits
    Raises:   ValueError: gamma < 0, alpha outside 0 .. 1, shapes disagree, class out of range
    Source:   Lin 2017, arXiv:1708.02002, eq. 5
    Measured: against torchvision's on one-hot targets: benchmarks/RESULTS.md, "layers"
    """
    where = "sigmoid_focal"
    _check_gamma(where, gamma)
    if not 0 <= alpha <= 1:
        raise checks.invalid(where, "alpha", "in 0 .. 1", alpha, "0.25 is usual.")
    labels.check_logits(where, logits)
    labels.check_targets(where, logits, targets, BACKGROUND)
    reductions.check(where, reduction)
    scores = reductions.full_precision(logits)
    if labels.are_probabilities(targets):
        values = _values(scores, targets.to(scores.dtype), alpha, gamma)
        return reductions.reduce(values, reduction)
    numbers, is_object, poison = labels.split(targets, logits.shape[1], BACKGROUND)
    if reduction == "none":
        return _values(scores, _one_hot(scores, numbers, is_object), alpha, gamma)
    total = _total(scores, numbers, is_object, alpha, gamma)
    if poison is not None:
        total = total + poison.sum()
    return total if reduction == "sum" else total / max(scores.numel(), 1)


def _check_gamma(where: str, gamma: float) -> None:
    if not gamma >= 0:
        raise checks.invalid(where, "gamma", ">= 0", gamma, "2 is usual, 0 is no focus.")


def _values(logits: Tensor, yes: Tensor, alpha: float, gamma: float) -> Tensor:
    p = logits.sigmoid()
    wrong = p * (1 - yes) + (1 - p) * yes
    weight = alpha * yes + (1 - alpha) * (1 - yes)
    plain = F.binary_cross_entropy_with_logits(logits, yes, reduction="none")
    return weight * plain if gamma == 0 else weight * wrong.pow(gamma) * plain


def _one_hot(logits: Tensor, numbers: Tensor, is_object: Tensor) -> Tensor:
    yes = torch.zeros_like(logits)
    return yes.scatter(1, numbers[:, None], is_object[:, None].to(yes.dtype))


def _reference(
    logits: Tensor, numbers: Tensor, is_object: Tensor, alpha: float, gamma: float
) -> Tensor:
    return _values(logits, _one_hot(logits, numbers, is_object), alpha, gamma).sum()


def _power(base: Tensor, gamma: float) -> Tensor:
    return base.square() if gamma == 2 else base.pow(gamma)


def _forward(
    needs: Needs, logits: Tensor, numbers: Tensor, is_object: Tensor, alpha: float, gamma: float
) -> tuple[Tensor, Residuals]:
    # Every logit as a "no", then the few that are "yes" corrected.
    total = (1 - alpha) * _power(logits.sigmoid(), gamma).mul_(softplus(logits)).sum()
    chosen = logits.gather(1, numbers[:, None])
    p = chosen.sigmoid()
    as_no = (1 - alpha) * _power(p, gamma) * softplus(chosen)
    as_yes = alpha * _power(1 - p, gamma) * softplus(-chosen)
    return total + ((as_yes - as_no) * is_object[:, None]).sum(), ()


def _backward(
    needs: Needs, grad: Tensor, inputs: Sequence[Any], residuals: Residuals
) -> tuple[Tensor, None, None, None, None]:
    logits, numbers, is_object, alpha, gamma = inputs
    p = logits.sigmoid()
    # d/dx of p^gamma softplus(x) is p^gamma (gamma (1 - p) softplus(x) + p).
    slope = softplus(logits).mul_(1 - p).mul_(gamma).add_(p)
    slope.mul_(p.square_() if gamma == 2 else p.pow_(gamma)).mul_(grad * (1 - alpha))
    at = numbers[:, None]
    chosen = logits.gather(1, at)
    p = chosen.sigmoid()
    as_yes = -_power(1 - p, gamma) * (gamma * p * softplus(-chosen) + (1 - p))
    yes_slope = torch.where(is_object[:, None], grad * alpha * as_yes, slope.gather(1, at))
    return slope.scatter_(1, at, yes_slope), None, None, None, None


_total = fused(_reference, _forward, _backward, autocast="float32", name="sigmoid_focal")


def asymmetric(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma_positive: float = 1.0,
    gamma_negative: float = 4.0,
    clip: float = 0.05,
    reduction: Reduction = "mean",
) -> Tensor:
    """Multi-label loss that lets easy negatives go: another focus for yes and for no.

    Shape:  logits, targets (0 to 1) [B, K, ...] -> [] or [B, K, ...]
    Dtype:  computed and returned in float32 for half logits
    Units:  nats; "mean" divides by the number of logits (the paper sums)
    Args:   gamma_positive, gamma_negative: focus, >= 0; clip: a negative's probability below it
            counts as 0. All three 0 is exactly binary_cross_entropy_with_logits
    Raises: ValueError: a negative setting, shapes disagree
    Source: Ridnik 2021, arXiv:2009.14119, eq. 7
    """
    where = "asymmetric"
    for name, value in (("gamma_positive", gamma_positive), ("gamma_negative", gamma_negative)):
        if not value >= 0:
            raise checks.invalid(where, name, ">= 0", value, "0 is no focus.")
    if not 0 <= clip < 1:
        raise checks.invalid(where, "clip", "in 0 .. 1", clip, "0.05 is usual, 0 is none.")
    labels.check_logits(where, logits)
    labels.check_targets(where, logits, targets.to(logits.dtype), None)
    reductions.check(where, reduction)
    scores = reductions.full_precision(logits)
    yes = targets.to(scores.dtype)
    p = scores.sigmoid()
    log_no = F.logsigmoid(-scores)
    p_no = p
    if clip > 0:
        p_no = (p - clip).clamp(min=0)
        log_no = torch.log1p(-p_no)
    positive = -yes * F.logsigmoid(scores)
    negative = -(1 - yes) * log_no
    if gamma_positive > 0:
        positive = positive * (1 - p).pow(gamma_positive)
    if gamma_negative > 0:
        negative = negative * p_no.pow(gamma_negative)
    return reductions.reduce(positive + negative, reduction)
