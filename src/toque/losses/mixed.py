"""Cross-entropy of mixed images (MixUp, CutMix): two labels and a share, without a one-hot."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from toque import checks
from toque.layers.fused import Needs, Residuals, fused
from toque.losses import reduction as reductions
from toque.losses import targets as labels
from toque.losses.cross_entropy import check_smoothing
from toque.losses.exponentials import exp_
from toque.losses.reduction import Reduction


def mixup_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    other_targets: Tensor,
    share: Tensor | float,
    *,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """share * cross_entropy(targets) + (1 - share) * cross_entropy(other_targets), in one pass.

    Shape:    logits [B, K], targets and other_targets [B], share a number or [B] -> [] or [B]
    Dtype:    targets integer; computed and returned in float32 for half logits
    Gradient: logits only
    Args:     share: of the first label, 0 to 1, one for all images or one each
              label_smoothing: share of the target spread evenly over the classes
    Raises:   ValueError: shapes disagree, a class number out of range, smoothing outside 0 .. 1
    Source:   Zhang 2018, arXiv:1710.09412, section 2
    Measured: half the saved bytes and 0.5 to 0.7 of the time of soft targets, CPU
              (benchmarks/layers.py)
    """
    where = "mixup_cross_entropy"
    labels.check_logits(where, logits)
    if logits.dim() != 2:
        raise checks.invalid(
            where, "logits", "of shape [B, K]", list(logits.shape), "Give image scores."
        )
    for given in (targets, other_targets):
        labels.check_targets(where, logits, given, None)
        if labels.are_probabilities(given):
            raise checks.invalid_type(
                where, "targets", "class numbers", given.dtype,
                "Give probabilities to cross_entropy.",
            )  # fmt: skip
    reductions.check(where, reduction)
    check_smoothing(where, label_smoothing)
    first, _, poison = labels.split(targets, logits.shape[1], None)
    second, _, other_poison = labels.split(other_targets, logits.shape[1], None)
    scores = reductions.full_precision(logits)
    shares = torch.as_tensor(share, dtype=scores.dtype, device=scores.device)
    if shares.dim() > 1 or shares.numel() not in (1, len(targets)):
        raise checks.invalid(
            where, "share", f"one number or of shape [{len(targets)}]", list(shares.shape),
            "Give one share for all images, or one each.",
        )  # fmt: skip
    values = _mixed(scores, first, second, shares.expand(len(targets)), label_smoothing)
    if poison is not None and other_poison is not None:
        values = values + poison + other_poison
    return reductions.reduce(values, reduction)


def _reference(
    logits: Tensor, first: Tensor, second: Tensor, share: Tensor, smoothing: float
) -> Tensor:
    log_p = F.log_softmax(logits, 1)
    return -_mean_of_labels(log_p, first, second, share, smoothing)


def _mean_of_labels(
    values: Tensor, first: Tensor, second: Tensor, share: Tensor, smoothing: float
) -> Tensor:
    """The expectation of `values` [B, K] under the mixed, smoothed labels: [B]."""
    one, other = (values.gather(1, label[:, None]).squeeze(1) for label in (first, second))
    expected = (1 - smoothing) * (share * one + (1 - share) * other)
    return expected + smoothing * values.mean(1) if smoothing else expected


def _forward(
    needs: Needs, logits: Tensor, first: Tensor, second: Tensor, share: Tensor, smoothing: float
) -> tuple[Tensor, Residuals]:
    highest = logits.amax(1, keepdim=True)
    risen = exp_(logits - highest)
    total = risen.sum(1, keepdim=True)
    log_sum = total.log().add_(highest).squeeze(1)
    return log_sum - _mean_of_labels(logits, first, second, share, smoothing), (risen, total)


def _backward(
    needs: Needs, grad: Tensor, inputs: Sequence[Tensor], residuals: Residuals
) -> tuple[Tensor, None, None, None, None]:
    _, first, second, share, smoothing = inputs
    risen, total = residuals
    column = grad[:, None]
    slope = risen * (column / total)  # softmax, minus the labels
    if smoothing:
        slope.sub_(column * (smoothing / risen.shape[1]))
    for label, part in ((first, share), (second, 1 - share)):
        slope.scatter_add_(1, label[:, None], ((smoothing - 1) * part * grad)[:, None])
    return slope, None, None, None, None


_mixed = fused(_reference, _forward, _backward, autocast="float32", name="mixup_cross_entropy")
