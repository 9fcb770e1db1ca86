"""Upsampling and cross-entropy on a GPU: two Triton kernels, and no enlarged logit is stored.

The first gives every pixel of the large image its log-sum-exp and its loss, class after class from
four taps of the small image. The second owns the small image: each of its elements gathers the
softmax of the large pixels that it is a tap of, so nothing is added by atomics and the bits are the
same every time.

Floor: the logits are read twice and their gradient is written once at the small size, and two
numbers a pixel at the large one. For 16 x 150 classes, 128 to 512 px, that is 0.5 GB, 0.16 ms at
3 TB/s, where the two steps move 26 GB. What binds is arithmetic: an exponential for each enlarged
logit in the first kernel and four in the second, 3.1e9 in all, about 0.9 ms of an H100's special
function units (16 a clock and SM, 132 SMs, 1.7 GHz). Timed on no GPU yet: `python
benchmarks/layers.py --only gpu` does it.

Shape letters: B images, K classes, h, w the small size, H, W the large one.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK_X = 128  # large pixels of a row in one program of the first kernel
_BLOCK_K, _BLOCK_COLUMNS = 8, 32  # elements of the small image in one program of the second


@functools.lru_cache(maxsize=32)
def _taps(small: int, large: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, int]:
    """Bilinear interpolation with half-pixel centres along one axis, read from both ends.

    Shape: -> low int32 [large] and part float32 [large]: a large pixel is (1 - part) of the small
           one at low and part of the next; first int32 [small], the first large pixel that a small
           one is a tap of, and for how many at most
    """
    at = (torch.arange(large, dtype=torch.float64) + 0.5) * (small / large) - 0.5
    at = at.clamp_(min=0)
    low = at.floor().clamp_(max=small - 1)
    part = at - low
    positions = torch.arange(small, dtype=torch.float64)
    first = torch.searchsorted(low, positions - 1)
    count = int((torch.searchsorted(low, positions, right=True) - first).max())
    return (
        low.to(torch.int32).to(device),
        part.float().to(device),
        first.to(torch.int32).to(device),
        count,
    )


@triton.jit
def _enlarged(plane, top, bottom, part_y, left, right, part_x, step_y, step_x, wanted):  # type: ignore[no-untyped-def]
    """Logits of large pixels from their four taps."""
    upper_left = tl.load(plane + top * step_y + left * step_x, wanted, 0.0)
    upper_right = tl.load(plane + top * step_y + right * step_x, wanted, 0.0)
    lower_left = tl.load(plane + bottom * step_y + left * step_x, wanted, 0.0)
    lower_right = tl.load(plane + bottom * step_y + right * step_x, wanted, 0.0)
    upper = upper_left * (1 - part_x) + upper_right * part_x
    lower = lower_left * (1 - part_x) + lower_right * part_x
    return upper * (1 - part_y) + lower * part_y


@triton.jit  # type: ignore[untyped-decorator]
def _pixels(  # type: ignore[no-untyped-def]
    logits, numbers, valid, low_y, part_y, low_x, part_x, log_sums, losses,
    num_classes, small_height, small_width, height, width,
    step_b, step_k, step_y, step_x,
    block: tl.constexpr,
):  # fmt: skip
    """Log-sum-exp of block large pixels of one row, and the sum of their losses."""
    x = tl.program_id(0) * block + tl.arange(0, block)
    y = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    inside = x < width
    top = tl.load(low_y + y)
    bottom = tl.minimum(top + 1, small_height - 1)
    fraction_y = tl.load(part_y + y)
    left = tl.load(low_x + x, inside, 0)
    right = tl.minimum(left + 1, small_width - 1)
    fraction_x = tl.load(part_x + x, inside, 0.0)
    pixel = (image * height + y) * width + x
    label = tl.load(numbers + pixel, inside, 0)
    counts = tl.load(valid + pixel, inside, 0)

    plane = logits + image * step_b
    # The lowest finite number: -inf less -inf would be NaN where a logit is -inf.
    highest = tl.full([block], -3.4028234663852886e38, tl.float32)
    summed = tl.zeros([block], tl.float32)
    chosen = tl.zeros([block], tl.float32)
    for k in range(num_classes):
        z = _enlarged(
            plane + k * step_k, top, bottom, fraction_y, left, right, fraction_x, step_y, step_x,
            inside,
        )  # fmt: skip
        higher = tl.maximum(highest, z)
        summed = summed * tl.exp(highest - higher) + tl.exp(z - higher)
        highest = higher
        chosen = tl.where(label == k, z, chosen)
    log_sum = highest + tl.log(summed)
    tl.store(log_sums + pixel, log_sum, inside)
    loss = tl.sum(tl.where(inside & (counts != 0), log_sum - chosen, 0.0))
    program = (image * height + y) * tl.num_programs(0) + tl.program_id(0)
    tl.store(losses + program, loss)


@triton.jit  # type: ignore[untyped-decorator]
def _slopes(  # type: ignore[no-untyped-def]
    logits, numbers, valid, low_y, part_y, low_x, part_x, first_y, first_x, log_sums, slopes,
    num_classes, small_height, small_width, height, width, num_rows, num_columns,
    step_b, step_k, step_y, step_x,
    block_k: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Gradient of the summed losses at block_k classes of block small pixels of one row."""
    x = tl.program_id(0) * block + tl.arange(0, block)
    y = tl.program_id(1)
    blocks_k = tl.cdiv(num_classes, block_k)
    image = (tl.program_id(2) // blocks_k).to(tl.int64)
    k = (tl.program_id(2) % blocks_k) * block_k + tl.arange(0, block_k)
    wanted = (k < num_classes)[:, None] & (x < small_width)[None, :]
    plane = logits + image * step_b + k[:, None] * step_k
    from_x = tl.load(first_x + x, x < small_width, 0)
    from_y = tl.load(first_y + y)
    gathered = tl.zeros([block_k, block], tl.float32)
    for row in range(num_rows):
        # Past the last large row there is nothing: its weight is 0, whichever row stands in.
        large_y = tl.minimum(from_y + row, height - 1)
        top = tl.load(low_y + large_y)
        bottom = tl.minimum(top + 1, small_height - 1)
        fraction_y = tl.load(part_y + large_y)
        weight_y = tl.where(top == y, 1 - fraction_y, 0.0) + tl.where(bottom == y, fraction_y, 0.0)
        weight_y = tl.where(from_y + row < height, weight_y, 0.0)
        for column in range(num_columns):
            large_x = from_x + column
            inside = (large_x < width) & (x < small_width)
            left = tl.load(low_x + large_x, inside, 0)
            right = tl.minimum(left + 1, small_width - 1)
            fraction_x = tl.load(part_x + large_x, inside, 0.0)
            weight_x = tl.where(left == x, 1 - fraction_x, 0.0)
            weight_x += tl.where(right == x, fraction_x, 0.0)
            pixel = (image * height + large_y) * width + large_x
            counts = tl.load(valid + pixel, inside, 0)
            weight = tl.where(inside & (counts != 0), weight_x * weight_y, 0.0)
            label = tl.load(numbers + pixel, inside, -1)
            log_sum = tl.load(log_sums + pixel, inside, 0.0)
            z = _enlarged(
                plane, top, bottom, fraction_y, left[None, :], right[None, :], fraction_x[None, :],
                step_y, step_x, wanted,
            )  # fmt: skip
            softmax = tl.exp(z - log_sum[None, :])
            slope = softmax - tl.where(label[None, :] == k[:, None], 1.0, 0.0)
            # Chosen, not multiplied: where nothing counts, infinite logits must not give 0 * inf.
            gathered += tl.where(weight[None, :] != 0.0, slope * weight[None, :], 0.0)
    at = image * step_b + k[:, None] * step_k + y * step_y + x[None, :] * step_x
    tl.store(slopes + at, gathered, wanted)


def total_and_slopes(
    logits: Tensor, numbers: Tensor, valid: Tensor, *, slopes: bool
) -> tuple[Tensor, Tensor | None]:
    """The summed cross-entropy of the enlarged logits, and its gradient if `slopes`.

    Shape: logits [B, K, h, w] of any strides, numbers and valid [B, H, W] -> [] and [B, K, h, w]
    Dtype: logits float32, numbers int64, valid bool
    """
    batch, classes, small_height, small_width = logits.shape
    height, width = numbers.shape[-2:]
    if batch == 0:
        return logits.sum(), torch.empty_like(logits) if slopes else None
    if not _is_dense(logits):
        logits = logits.contiguous()
    numbers, valid = numbers.contiguous(), valid.contiguous()
    low_y, part_y, first_y, num_rows = _taps(small_height, height, logits.device)
    low_x, part_x, first_x, num_columns = _taps(small_width, width, logits.device)
    log_sums = logits.new_empty(numbers.shape)
    blocks = triton.cdiv(width, _BLOCK_X)
    losses = logits.new_empty(batch * height * blocks)
    sizes = (classes, small_height, small_width, height, width)
    # Triton 3.9 asks for it to be said whether a*b + c may be one rounding: its default changes.
    _pixels[(blocks, height, batch)](
        logits, numbers, valid.view(torch.uint8), low_y, part_y, low_x, part_x, log_sums, losses,
        *sizes, *logits.stride(), block=_BLOCK_X, enable_fp_fusion=True,
    )  # fmt: skip
    total = losses.sum()
    if not slopes:
        return total, None
    found = torch.empty_like(logits)  # with the strides of the logits
    columns = triton.cdiv(small_width, _BLOCK_COLUMNS)
    _slopes[(columns, small_height, batch * triton.cdiv(classes, _BLOCK_K))](
        logits, numbers, valid.view(torch.uint8), low_y, part_y, low_x, part_x, first_y, first_x,
        log_sums, found, *sizes, num_rows, num_columns, *logits.stride(),
        block_k=_BLOCK_K, block=_BLOCK_COLUMNS, enable_fp_fusion=True,
    )  # fmt: skip
    return total, found


def _is_dense(logits: Tensor) -> bool:
    return logits.is_contiguous() or logits.is_contiguous(memory_format=torch.channels_last)
