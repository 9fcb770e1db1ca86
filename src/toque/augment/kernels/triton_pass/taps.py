"""Which source rows or columns make up each row or column of the result."""

# mypy: ignore-errors
# ruff: noqa: N803

import triton
import triton.language as tl

from toque.augment.kernels.triton_pass.names import (
    BICUBIC,
    BILINEAR,
    CONSTANT,
    EDGE,
    MATRIX,
    NEAREST,
    NUM_DOUBLES,
    NUM_INTS,
    OUT_H,
    READABLE,
    SHIFT,
    SOURCE_H,
    SYMMETRIC,
    VISIBLE,
)


@triton.jit
def weigh(distance, RESAMPLE: tl.constexpr):
    """The resampling filter."""
    away = tl.abs(distance)
    if RESAMPLE == NEAREST:
        weight = away * 0 + 1
    elif RESAMPLE == BILINEAR:
        weight = tl.maximum(1 - away, 0)
    else:
        near = (1.5 * away - 2.5) * away * away + 1
        far = ((2.5 - 0.5 * away) * away - 4) * away + 2
        weight = tl.where(away < 1, near, tl.where(away < 2, far, 0))
    return weight


@triton.jit(do_not_specialize=["longest"])
def make_taps(
    ints, doubles, first_of, count_of, start_of, inverse_of, longest,
    KIND: tl.constexpr, RESAMPLE: tl.constexpr, MODE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """For each row (axis 0) and column (axis 1): the first source index, how many, where the first
    lies in the filter, and what the weights are multiplied by: 0 where nothing is visible."""
    n, axis = tl.program_id(0), tl.program_id(1)
    row = ints + n.to(tl.int64) * NUM_INTS
    numbers = doubles + n.to(tl.int64) * NUM_DOUBLES
    num = tl.load(row + OUT_H + axis).to(tl.int32)
    size = tl.load(row + SOURCE_H + axis).to(tl.int32)
    step = tl.load(numbers + MATRIX + 4 - 4 * axis)
    origin = tl.load(numbers + MATRIX + 5 - 3 * axis)
    shown_low = tl.load(numbers + VISIBLE + axis)
    shown_high = tl.load(numbers + VISIBLE + axis + 2)
    read_low = tl.load(numbers + READABLE + axis)
    read_high = tl.load(numbers + READABLE + axis + 2)
    i = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    centre = step * (i.to(tl.float64) + 0.5) + origin
    if KIND == SHIFT:
        low = tl.floor((shown_low if MODE == CONSTANT else read_low) + 0.5)
        high = tl.floor((shown_high if MODE == CONSTANT else read_high) + 0.5)
        at = tl.floor(centre)
        inverse = centre * 0 + 1
        if MODE == CONSTANT:
            inverse = tl.where((at >= low) & (at < high), inverse, 0)
        elif MODE == EDGE:
            at = tl.minimum(tl.maximum(at, low), high - 1)
        else:
            length = high - low
            period = 2 * length if MODE == SYMMETRIC else tl.maximum(2 * length - 2, 1)
            turn = (at - low) - period * tl.floor((at - low) / period)
            back = period - 1 - turn if MODE == SYMMETRIC else period - turn
            at = low + tl.where(length > 1, tl.minimum(turn, back), 0)
        first, last, start = at, at + 1, centre * 0
    else:
        low, high = tl.floor(read_low + 1e-6), tl.ceil(read_high - 1e-6)
        stretch = tl.abs(step) * 0 + 1 if RESAMPLE == NEAREST else tl.maximum(tl.abs(step), 1)
        if RESAMPLE == NEAREST:
            first = tl.minimum(tl.maximum(tl.floor(centre + 1e-9), low), high - 1)
            last = first + 1
        else:
            support = stretch * 2 if RESAMPLE == BICUBIC else stretch
            first = tl.maximum(tl.floor(centre - support + 0.5), low)
            last = tl.minimum(tl.floor(centre + support + 0.5), high)
        start = (first + 0.5 - centre) / stretch
        total = centre * 0
        most = tl.max(tl.minimum(tl.maximum(last - first, 0), size.to(tl.float64)))
        for k in range(most.to(tl.int32)):
            total += tl.where(first + k < last, weigh(start + k / stretch, RESAMPLE), 0)
        shown = (centre > shown_low) & (centre < shown_high) & (total != 0)
        inverse = tl.where(shown, 1 / tl.where(total != 0, total, 1), 0)
    count = tl.minimum(tl.maximum(last - first, 0), size.to(tl.float64))
    begin = tl.minimum(tl.maximum(first, 0), (size - 1).to(tl.float64)).to(tl.int32)
    to = (n.to(tl.int64) * 2 + axis) * longest + i
    fits = i < num
    tl.store(first_of + to, tl.minimum(tl.maximum(begin, 0), size - 1), mask=fits)
    tl.store(count_of + to, tl.where(inverse != 0, count, 0).to(tl.int32), mask=fits)
    tl.store(start_of + to, start.to(tl.float32), mask=fits)
    tl.store(inverse_of + to, inverse.to(tl.float32), mask=fits)
