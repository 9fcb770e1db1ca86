"""A linear layer and cross-entropy over many classes, in chunks of rows: no [N, K] is ever kept.

Shape letters: N rows, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from toque import checks
from toque.layers.fused import Needs, Residuals, fused
from toque.losses import reduction as reductions
from toque.losses import targets as labels
from toque.losses.cross_entropy import check_smoothing
from toque.losses.exponentials import exp_

_CHUNK_ELEMENTS = 2**21
_MIN_ROWS_PER_FEATURE = 0.7
"""Below it the [K, D] gradient is larger than the [N, K] logits that would be spared."""


def linear_cross_entropy(
    features: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
) -> Tensor:
    """cross_entropy(linear(features, weight, bias), targets), the mean over rows not ignored.

    Shape:    features [N, D], weight [K, D], bias [K], targets [N] -> []
    Dtype:    targets integer; logits in the features' dtype, sums in float32
    Gradient: features, weight, bias
    Args:     label_smoothing: share of the target spread evenly over the classes
              ignore_index: class number of rows that count nothing
    Raises:   ValueError: shapes disagree, a class number out of range
    Measured: saves memory from N about 0.7 D on, and is plain below; see benchmarks/RESULTS.md,
              "layers". Time is that of three matrix products, 82 to 94 % of the plain loss's on a
              CPU (benchmarks/layers.py --only parts)
    """
    where = "linear_cross_entropy"
    labels.check_logits(where, features)
    if features.dim() != 2 or weight.dim() != 2 or features.shape[1] != weight.shape[1]:
        raise checks.invalid(
            where, "features and weight", "of shapes [N, D] and [K, D]",
            f"{list(features.shape)} and {list(weight.shape)}", "Flatten the rows.",
        )  # fmt: skip
    check_smoothing(where, label_smoothing)
    like = features[:, :1].expand(-1, weight.shape[0])
    labels.check_targets(where, like, targets, ignore_index)
    numbers, valid, poison = labels.split(targets, weight.shape[0], ignore_index)
    pays = features.shape[0] >= _MIN_ROWS_PER_FEATURE * features.shape[1]
    summed = _summed if pays else _summed.reference
    total = summed(features, weight, bias, numbers, valid, label_smoothing)
    if poison is not None:
        total = total + poison.sum()
    return reductions.share(total, valid.sum().to(total.dtype))


def _reference(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    numbers: Tensor,
    valid: Tensor,
    smoothing: float,
) -> Tensor:
    logits = reductions.full_precision(F.linear(features, weight, bias))
    values = F.cross_entropy(logits, numbers, reduction="none", label_smoothing=smoothing)
    return (values * valid).sum()


def _logits_by_chunk(
    features: Tensor, weight: Tensor, bias: Tensor | None
) -> Iterator[tuple[slice, Tensor]]:
    """Logits [n, K] of the next rows, in float32 at least; each overwrites the one before."""
    rows = max(1, min(len(features), _CHUNK_ELEMENTS // max(1, weight.shape[0])))
    buffer = features.new_empty(rows, weight.shape[0])
    for start in range(0, len(features), rows):
        part = slice(start, min(start + rows, len(features)))
        logits = buffer[: part.stop - part.start]
        if bias is None:
            torch.mm(features[part], weight.t(), out=logits)
        else:
            torch.addmm(bias, features[part], weight.t(), out=logits)
        yield part, reductions.full_precision(logits)


class _Gradients:
    """Sums the gradients of features, weight and bias over the chunks of rows."""

    def __init__(self, needs: Needs, inputs: Sequence[Any]) -> None:
        self.features, self.weight, bias, self.numbers, self.valid, self.smoothing = inputs
        sums = torch.promote_types(self.features.dtype, torch.float32)
        make = self.weight.new_zeros
        self.to_features = torch.empty_like(self.features) if needs[0] else None
        self.to_weight = make(self.weight.shape, dtype=sums) if needs[1] else None
        self.to_bias = make(self.weight.shape[0], dtype=sums) if needs[2] else None
        self.bias = bias

    def add(self, part: slice, probabilities: Tensor) -> None:
        """Rows whose softmax is `probabilities` [n, K], which is overwritten."""
        slope, smoothing = probabilities, self.smoothing
        if smoothing:
            slope.sub_(smoothing / slope.shape[1])
        at = self.numbers[part, None]
        slope.scatter_add_(1, at, slope.new_full((len(slope), 1), smoothing - 1))
        slope.mul_(self.valid[part, None])
        lowered = slope.to(self.features.dtype)
        if self.to_features is not None:
            torch.mm(lowered, self.weight, out=self.to_features[part])
        if self.to_weight is not None and self.to_weight.dtype == lowered.dtype:
            self.to_weight.addmm_(lowered.t(), self.features[part])
        elif self.to_weight is not None:
            self.to_weight.add_(lowered.t() @ self.features[part])
        if self.to_bias is not None:
            self.to_bias.add_(slope.sum(0))

    def scaled(self, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients for one that arrives as the number `grad`."""
        made = (self.to_features, self.to_weight, self.to_bias)
        like = (self.features, self.weight, self.bias)
        return tuple(
            None if m is None else (m * grad.to(m.dtype)).to(t.dtype)
            for m, t in zip(made, like, strict=True)
        )


def _keeps_gradients(features: Tensor, weight: Tensor) -> bool:
    """True where the finished gradients are less than half of the logits.

    They are then made in forward, which spares one matrix product of four; else backward makes the
    logits again.
    """
    (rows, size), classes = features.shape, weight.shape[0]
    return rows * classes > 2 * (rows + classes) * size


def _forward(
    needs: Needs,
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    numbers: Tensor,
    valid: Tensor,
    smoothing: float,
) -> tuple[Tensor, Residuals]:
    sums = torch.promote_types(features.dtype, torch.float32)
    total = torch.zeros((), dtype=sums, device=features.device)
    log_sums = torch.empty(len(features), 1, dtype=sums, device=features.device)
    gradients = None
    if True in needs and _keeps_gradients(features, weight):
        gradients = _Gradients(needs, (features, weight, bias, numbers, valid, smoothing))
    for part, logits in _logits_by_chunk(features, weight, bias):
        chosen = logits.gather(1, numbers[part, None])
        expected = (1 - smoothing) * chosen
        if smoothing:
            expected = expected + smoothing * logits.mean(1, keepdim=True)
        highest = logits.amax(1, keepdim=True)
        summed = exp_(logits.sub_(highest)).sum(1, keepdim=True)
        log_sums[part] = summed.log().add_(highest)
        total += ((log_sums[part] - expected) * valid[part, None]).sum()
        if gradients is not None:
            gradients.add(part, logits.div_(summed))
    if gradients is None:
        return total, (log_sums,)
    made = (gradients.to_features, gradients.to_weight, gradients.to_bias)
    return total, tuple(m for m in made if m is not None)


def _backward(
    needs: Needs, grad: Tensor, inputs: Sequence[Any], residuals: Residuals
) -> tuple[Tensor | None, ...]:
    features, weight, bias, *_ = inputs
    if _keeps_gradients(features, weight):
        ready = iter(residuals)
        like = (features, weight, bias)
        made = (
            (next(ready) * grad.to(features.dtype)).to(t.dtype) if needed else None
            for needed, t in zip(needs[:3], like, strict=True)
        )
        return (*made, None, None, None)
    (log_sums,) = residuals
    gradients = _Gradients(needs, inputs)
    for part, logits in _logits_by_chunk(features, weight, bias):
        gradients.add(part, exp_(logits.sub_(log_sums[part])))
    return (*gradients.scaled(grad), None, None, None)


_summed = fused(_reference, _forward, _backward, name="linear_cross_entropy")
