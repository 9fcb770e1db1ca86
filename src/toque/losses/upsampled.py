"""Upsampling and cross-entropy in one pass over bands of rows: the large image is never whole.

Segmentation heads predict at a quarter or an eighth of the image and enlarge. Written as two steps,
autograd keeps K numbers for each pixel of the large image, twice. Here a band of rows is enlarged,
its loss and gradient are taken, and it is dropped; the gradient is kept at the small size. On a GPU
two Triton kernels do the same without any band (upsampled_cuda.py).
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from toque import checks
from toque.layers.fused import Needs, Residuals, fused
from toque.losses import reduction as reductions
from toque.losses import targets as labels
from toque.losses.reduction import Reduction

_BAND_ELEMENTS = 2**19
"""Enlarged logits in work at once: about what a core's cache holds."""

_BAND_ROWS = 16
"""Rows of the large image in work at once: of more, most of their matrix would be 0."""

_SMALLEST_SUM = 2.0**-60
"""Of exponentials, where classes of two neighbouring pixels differ by more than float32 holds."""

_BLOCK_COLUMNS = 64
"""Columns of the large image that are interpolated by one matrix product."""


def upsample_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    """cross_entropy(interpolate(logits, targets' size, "bilinear"), targets).

    Shape:    logits [B, K, h, w], targets [B, H, W] -> [] ("mean", "sum") or [B, H, W] ("none")
    Dtype:    targets integer; computed and returned in float32 for half logits
    Units:    nats; "mean" divides by the pixels not ignored, 0 where there are none
    Gradient: logits only
    Args:     ignore_index: class number of pixels that count nothing
    Raises:   ValueError: shapes disagree, an empty image, a class number out of range
    Measured: 150 classes, 128 to 512 px, batch 2, CPU: see benchmarks/RESULTS.md, "layers"
    """
    where = "upsample_cross_entropy"
    labels.check_logits(where, logits)
    if logits.dim() != 4 or targets.dim() != 3 or logits.shape[0] != targets.shape[0]:
        raise checks.invalid(
            where, "logits and targets", "of shapes [B, K, h, w] and [B, H, W]",
            f"{list(logits.shape)} and {list(targets.shape)}", "Give one class number per pixel.",
        )  # fmt: skip
    if 0 in logits.shape[2:] or 0 in targets.shape[1:]:
        raise checks.invalid(
            where, "height and width", ">= 1", f"{list(logits.shape)}", "Leave out empty images."
        )
    if labels.are_probabilities(targets):
        raise checks.invalid_type(
            where, "targets", "class numbers", targets.dtype, "Enlarge the logits for these."
        )
    reductions.check(where, reduction)
    labels.check_targets(where, logits[..., :1, :1].expand(
        -1, -1, *targets.shape[1:]), targets, ignore_index)  # fmt: skip
    numbers, valid, poison = labels.split(targets, logits.shape[1], ignore_index)
    scores = reductions.full_precision(logits)
    if reduction == "none":
        values = _pixelwise(scores, numbers, valid)
        return values if poison is None else values + poison
    total = _total(scores, numbers, valid)
    if poison is not None:
        total = total + poison.sum()
    return total if reduction == "sum" else reductions.share(total, valid.sum().to(total.dtype))


def _pixelwise(logits: Tensor, numbers: Tensor, valid: Tensor) -> Tensor:
    large = F.interpolate(logits, size=numbers.shape[-2:], mode="bilinear", align_corners=False)
    return F.cross_entropy(large, numbers, reduction="none") * valid


def _reference(logits: Tensor, numbers: Tensor, valid: Tensor) -> Tensor:
    return _pixelwise(logits, numbers, valid).sum()


def _weights(small: int, large: int, like: Tensor) -> Tensor:
    """The matrix [large, small] of bilinear interpolation with half-pixel centres."""
    at = (torch.arange(large, device=like.device, dtype=torch.float64) + 0.5) * (small / large)
    at = (at - 0.5).clamp_(min=0)
    low = at.floor().clamp_(max=small - 1)
    part = (at - low).to(like.dtype)
    low = low.long()
    high = (low + 1).clamp_(max=small - 1)
    matrix = torch.zeros(large, small, device=like.device, dtype=like.dtype)
    rows = torch.arange(large, device=like.device)
    matrix.index_put_((rows, low), 1 - part, accumulate=True)
    return matrix.index_put_((rows, high), part, accumulate=True)


def _forward(
    needs: Needs, logits: Tensor, numbers: Tensor, valid: Tensor
) -> tuple[Tensor, Residuals]:
    if _on_triton(logits):
        from toque.losses.upsampled_cuda import total_and_slopes

        total, slope = total_and_slopes(logits, numbers, valid, slopes=needs[0])
        return total, () if slope is None else (slope,)
    return _by_bands(needs, logits, numbers, valid)


def _on_triton(logits: Tensor) -> bool:
    """Whether the kernels for a GPU can be used: float32, of sizes that grid and int32 hold."""
    batch, classes = logits.shape[:2]
    return (
        logits.is_cuda
        and logits.dtype == torch.float32
        and logits[:1].numel() < 2**31
        and batch * math.ceil(classes / 8) < 2**16
        and importlib.util.find_spec("triton") is not None
    )


def _by_bands(
    needs: Needs, logits: Tensor, numbers: Tensor, valid: Tensor
) -> tuple[Tensor, Residuals]:
    batch, classes = logits.shape[:2]
    height, width = numbers.shape[-2:]
    tall = _weights(logits.shape[2], height, logits)
    wide = _weights(logits.shape[3], width, logits)
    images = max(1, _BAND_ELEMENTS // max(1, classes * width * min(height, _BAND_ROWS)))
    slope = torch.empty_like(logits, memory_format=torch.contiguous_format) if needs[0] else None
    total = logits.new_zeros(())
    for first in range(0, batch, images):
        part = slice(first, first + images)
        into = None if slope is None else slope[part]
        total += _some_images(logits[part], numbers[part], valid[part], tall, wide, into)
    return total, () if slope is None else (slope,)


def _some_images(
    logits: Tensor,
    numbers: Tensor,
    valid: Tensor,
    tall: Tensor,
    wide: Tensor,
    slope: Tensor | None,
) -> Tensor:
    """The summed loss of some images; their gradient is written into `slope`, like logits.

    Rows come first, [h, B, K, w]: a band is then one product of a small matrix with rows that lie
    one after another, and its gradient adds into theirs by another.
    """
    height, small_height = tall.shape
    # Softmax does not see what is added to all classes of a pixel: less the largest of the small
    # pixel, what is enlarged is <= 0. In units of log 2, for exp2 (see exponentials.py).
    rows_first = logits.permute(2, 0, 1, 3)
    rows_first = (rows_first - rows_first.amax(2, keepdim=True)).mul_(math.log2(math.e))
    widened = _widened(rows_first, wide)  # [h, B, K, W]
    one_row = widened.shape[1:]
    source = widened.view(small_height, -1)
    grown = torch.zeros_like(source) if slope is not None else None
    rows = max(1, min(height, _BAND_ROWS, _BAND_ELEMENTS // max(1, source.shape[1])))
    buffer = source.new_empty(rows, source.shape[1])
    total = logits.new_zeros(())
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        first, last = _source_rows(start, stop, small_height, height)
        weights = tall[start:stop, first:last]
        flat = buffer[: stop - start]
        band = flat.view(-1, *one_row)  # [rows, B, K, W]
        torch.mm(weights, source[first:last], out=flat)
        label = numbers[:, start:stop].movedim(1, 0)[:, :, None]
        counts = valid[:, start:stop].movedim(1, 0)[:, :, None]
        chosen = band.gather(2, label)
        summed = band.exp2_().sum(2, keepdim=True)
        if not labels.is_readable(summed) or bool((summed < _SMALLEST_SUM).any()):
            torch.mm(weights, source[first:last], out=flat)
            highest = band.amax(2, keepdim=True)
            chosen = chosen - highest
            summed = band.sub_(highest).exp2_().sum(2, keepdim=True)
        total += ((summed.log2() - chosen) * counts).sum()
        if grown is not None:
            band.mul_(counts / summed)  # softmax, minus the labels
            band.scatter_add_(2, label, -counts.to(band.dtype))
            grown[first:last].addmm_(weights.t(), flat)
    if slope is not None and grown is not None:
        slope.copy_(_narrowed(grown.view_as(widened), wide).permute(1, 2, 0, 3))
    return total * math.log(2)


def _widened(logits: Tensor, wide: Tensor) -> Tensor:
    """logits [..., w] times wide.t() [w, W], block by block: most of the matrix is 0."""
    large, small = wide.shape
    rows = logits.reshape(-1, small)
    made = rows.new_empty(len(rows), large)
    for start in range(0, large, _BLOCK_COLUMNS):
        stop = min(start + _BLOCK_COLUMNS, large)
        first, last = _source_rows(start, stop, small, large)
        block = wide[start:stop, first:last].t()
        torch.mm(rows[:, first:last], block, out=made[:, start:stop])
    return made.view(*logits.shape[:-1], large)


def _narrowed(slope: Tensor, wide: Tensor) -> Tensor:
    """slope [..., W] times wide [W, w], block by block."""
    large, small = wide.shape
    rows = slope.reshape(-1, large)
    made = rows.new_empty(len(rows), small)
    columns = max(1, _BLOCK_COLUMNS * small // large)
    for start in range(0, small, columns):
        stop = min(start + columns, small)
        # Large columns within one small column of the block, and all beyond the edges.
        first = 0 if start == 0 else math.floor((start - 0.5) * large / small - 0.5)
        last = large if stop == small else math.ceil((stop + 0.5) * large / small + 0.5)
        first, last = max(0, first), min(large, last)
        torch.mm(rows[:, first:last], wide[first:last, start:stop], out=made[:, start:stop])
    return made.view(*slope.shape[:-1], small)


def _source_rows(start: int, stop: int, small: int, large: int) -> tuple[int, int]:
    """The rows of the small image that rows start .. stop - 1 of the large one are made of."""
    scale = small / large
    first = max(0, math.floor((start + 0.5) * scale - 0.5))
    last = max(0, math.floor((stop - 0.5) * scale - 0.5)) + 2
    return min(first, small - 1), min(last, small)


def _backward(
    needs: Needs, grad: Tensor, inputs: Sequence[Any], residuals: Residuals
) -> tuple[Tensor, None, None]:
    return residuals[0] * grad, None, None


_total = fused(_reference, _forward, _backward, autocast="float32", name="upsample_cross_entropy")
