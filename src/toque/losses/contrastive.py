"""The symmetric contrastive loss of CLIP: one matrix of similarities serves both directions.

As two cross-entropies, autograd keeps the N x N similarities four times. Here they are made once,
in one buffer (or, where that is large, twice in chunks of rows), read for both directions, and what
is kept for backward are the finished gradients [N, D].
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
from toque.losses.exponentials import exp_

_KEPT_ELEMENTS = 2**24
"""Similarities that are kept between the two passes; more are made again in the second."""

_CHUNK_ELEMENTS = 2**20
"""Similarities in work at once: about what a core's cache holds."""


def contrastive_loss(first: Tensor, second: Tensor, scale: Tensor | float) -> Tensor:
    """The symmetric contrastive loss of CLIP: each row of one side finds its partner in the other.

    Shape:    first, second [N, D], scale a number or [] -> []
    Dtype:    similarities in the features' dtype, sums in float32
    Gradient: first, second, scale
    Args:     first, second: features of length 1 (F.normalize); scale: 1 / temperature, > 0
    Raises:   ValueError: shapes disagree, no rows, a scale that is a number <= 0
    Source:   Radford 2021, arXiv:2103.00020, figure 3
    Measured: N = 4096, D = 256, CPU: see benchmarks/RESULTS.md, "layers"; most of the time is three
              matrix products, which every way to compute it needs (four above N = 4096)
    """
    where = "contrastive_loss"
    if first.shape != second.shape or first.dim() != 2 or len(first) == 0:
        raise checks.invalid(
            where, "first and second", "of one shape [N, D], N >= 1",
            f"{list(first.shape)} and {list(second.shape)}", "Give one pair per row.",
        )  # fmt: skip
    if not isinstance(scale, Tensor) and not scale > 0:
        raise checks.invalid(where, "scale", "> 0", scale, "Give 1 / temperature.")
    return _contrastive(first * scale, second)


def _reference(scaled: Tensor, second: Tensor) -> Tensor:
    logits = reductions.full_precision(scaled @ second.t())
    partners = torch.arange(len(scaled), device=scaled.device)
    return (F.cross_entropy(logits, partners) + F.cross_entropy(logits.t(), partners)) / 2


class _Similarities:
    """Rows of the matrix scaled @ second.t(), chunk by chunk, in float32 at least."""

    def __init__(self, scaled: Tensor, second: Tensor) -> None:
        self.scaled, self.second = scaled, second
        count = len(scaled)
        self.dtype = torch.promote_types(scaled.dtype, torch.float32)
        self.rows = max(1, min(count, _CHUNK_ELEMENTS // count))
        self.are_kept = count * count <= _KEPT_ELEMENTS
        height = count if self.are_kept else self.rows
        self.buffer = scaled.new_empty(height, count, dtype=self.dtype)
        self.work = scaled.new_empty(self.rows, count, dtype=self.dtype)

    def chunks(self, *, again: bool = False) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Which rows, their similarities, and as much memory to work in; again: a second time."""
        count = len(self.scaled)
        for start in range(0, count, self.rows):
            part = slice(start, min(start + self.rows, count))
            size = part.stop - part.start
            made = self.buffer[part] if self.are_kept else self.buffer[:size]
            if not (again and self.are_kept):
                if self.dtype == self.scaled.dtype:
                    torch.mm(self.scaled[part], self.second.t(), out=made)
                else:
                    made.copy_(self.scaled[part] @ self.second.t())
            yield part, made, self.work[:size]


def _forward(needs: Needs, scaled: Tensor, second: Tensor) -> tuple[Tensor, Residuals]:
    count = len(scaled)
    similarities = _Similarities(scaled, second)
    along_rows = similarities.work.new_empty(count, 1)  # log of the summed exponentials
    highest = similarities.work.new_full((count,), float("-inf"))  # of each column
    summed = similarities.work.new_zeros(count)
    of_partners = similarities.work.new_zeros(())
    for part, values, work in similarities.chunks():
        of_partners += values.diagonal(part.start).sum()
        top = values.amax(1, keepdim=True)
        along_rows[part] = (
            exp_(torch.sub(values, top, out=work)).sum(1, keepdim=True).log_().add_(top)
        )
        higher = torch.maximum(highest, values.amax(0))
        summed.mul_((highest - higher).exp_())
        summed.add_(exp_(torch.sub(values, higher, out=work)).sum(0))
        highest = higher
    along_columns = summed.log_().add_(highest)
    total = (along_rows.sum() + along_columns.sum() - 2 * of_partners) / (2 * count)
    if True not in needs:
        return total, ()
    # d total / d similarities = (softmax along rows + softmax along columns - 2 partners) / 2 N
    to_scaled = scaled.new_empty(scaled.shape) if needs[0] else None
    to_second = similarities.work.new_zeros(second.shape) if needs[1] else None
    for part, values, work in similarities.chunks(again=True):
        slope = exp_(torch.sub(values, along_rows[part], out=work))
        slope.add_(exp_(values.sub_(along_columns)))
        slope.diagonal(part.start).sub_(2)
        lowered = slope.div_(2 * count).to(scaled.dtype)
        if to_scaled is not None:
            torch.mm(lowered, second, out=to_scaled[part])
        if to_second is not None and to_second.dtype == lowered.dtype:
            to_second.addmm_(lowered.t(), scaled[part])
        elif to_second is not None:
            to_second.add_(lowered.t() @ scaled[part])
    return total, tuple(made for made in (to_scaled, to_second) if made is not None)


def _backward(
    needs: Needs, grad: Tensor, inputs: Sequence[Any], residuals: Residuals
) -> tuple[Tensor | None, ...]:
    ready = iter(residuals)
    return tuple(
        (next(ready) * grad.to(given.dtype)).to(given.dtype) if needed else None
        for needed, given in zip(needs, inputs, strict=True)
    )


_contrastive = fused(_reference, _forward, _backward, name="contrastive_loss")
