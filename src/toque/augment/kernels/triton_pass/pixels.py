"""The pass: a tile of a picture, from its source pixels to the finished values."""

# mypy: ignore-errors
# ruff: noqa: N803, N806, SIM300

import triton
import triton.language as tl

from toque.augment.kernels.triton_pass.names import (
    ADDRESS,
    BLUE,
    CHANNEL,
    CONTRAST,
    GREEN,
    NUM_DOUBLES,
    NUM_INTS,
    OUT,
    OUT_H,
    OUT_ROW,
    OUT_W,
    RED,
    WARP,
)
from toque.augment.kernels.triton_pass.reading import as_row, read_axes, read_warp
from toque.augment.kernels.triton_pass.recolor import recolor, unit_range


@triton.jit
def cast(value, TYPE: tl.constexpr):
    """Into the dtype of the result; bytes are rounded to the nearest, a half to even."""
    if TYPE == tl.uint8:
        value = tl.minimum(tl.maximum(value * 255, 0.0), 255.0)
        whole = tl.floor(value)
        part = value - whole
        odd = whole - 2 * tl.floor(whole * 0.5)
        up = (part > 0.5) | ((part == 0.5) & (odd == 1))
        result = tl.where(up, whole + 1, whole).to(tl.int32).to(tl.uint8)
    else:
        result = value.to(TYPE)
    return result


@triton.jit(
    do_not_specialize=[
        "longest",
        "num_operations",
        "num_sums",
        "num_rectangles",
        "channels",
        "tiles_x",
        "num_tiles",
    ]
)
def run_pass(
    ints, doubles, first_of, count_of, start_of, inverse_of, longest,
    codes, factors, until, num_operations, mixing, sums, num_sums, padding, scale, shift,
    rectangles, fills, num_rectangles, out, out_channel, out_pixel, channels, tiles_x, num_tiles,
    KIND: tl.constexpr, RESAMPLE: tl.constexpr, RGB: tl.constexpr, TYPE: tl.constexpr,
    LINEAR: tl.constexpr, SWEEP: tl.constexpr, MOST_TILES: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr,
):  # fmt: skip
    """A tile of a picture. SWEEP >= 0: only its gray before that contrast, summed into `sums`."""
    n = tl.program_id(0) // num_tiles
    tile = tl.program_id(0) % num_tiles
    c = tl.program_id(1)
    last = num_operations
    if SWEEP >= 0:
        last = tl.load(until + n * num_sums + SWEEP)
    if last >= 0:
        row = ints + n.to(tl.int64) * NUM_INTS
        numbers = doubles + n.to(tl.int64) * NUM_DOUBLES
        y = (tile // tiles_x) * TILE_H + tl.arange(0, TILE_H)[:, None]
        x = (tile % tiles_x) * TILE_W + tl.arange(0, TILE_W)[None, :]
        base = tl.load(row + ADDRESS).to(tl.pointer_type(TYPE))
        base += c * tl.load(row + CHANNEL)
        fill_r = tl.load(padding + c)
        fill_g, fill_b = fill_r, fill_r
        if RGB:
            fill_g, fill_b = tl.load(padding + 1), tl.load(padding + 2)
        if KIND == WARP:
            r, g, b = read_warp(
                base, row, numbers, y, x, fill_r, fill_g, fill_b, RGB, TYPE, RESAMPLE
            )
        else:
            at = n.to(tl.int64) * 2 * longest
            taps = (first_of + at, count_of + at, start_of + at, inverse_of + at)
            r, g, b = read_axes(
                base, row, numbers, taps, y, x, longest, fill_r, fill_g, fill_b,
                RGB, TYPE, RESAMPLE,
            )  # fmt: skip
        out_h, out_w = tl.load(row + OUT_H).to(tl.int32), tl.load(row + OUT_W).to(tl.int32)
        fits = (y < out_h) & (x < out_w)
        if LINEAR:
            m = mixing + n * 12
            if RGB:
                red = tl.load(m) * r + tl.load(m + 1) * g + tl.load(m + 2) * b + tl.load(m + 3)
                green = tl.load(m + 4) * r + tl.load(m + 5) * g + tl.load(m + 6) * b
                green += tl.load(m + 7)
                blue = tl.load(m + 8) * r + tl.load(m + 9) * g + tl.load(m + 10) * b
                blue += tl.load(m + 11)
                r, g, b = unit_range(red), unit_range(green), unit_range(blue)
            else:
                r = unit_range(tl.load(m) * r + tl.load(m + 3))
        else:
            passed = 0
            for k in range(last):
                code = tl.load(codes + n * num_operations + k)
                factor = tl.load(factors + n * num_operations + k)
                mean = 0.0
                if code == CONTRAST:
                    which = tl.arange(0, MOST_TILES)
                    at_sum = sums + (n * num_sums + passed) * num_tiles + which
                    mean = tl.sum(tl.load(at_sum, which < num_tiles, 0.0)) / (out_h * out_w)
                    passed += 1
                r, g, b = recolor(r, g, b, code, factor, mean, RGB)
        if SWEEP >= 0:
            gray = RED * r + GREEN * g + BLUE * b if RGB else r
            total = tl.sum(tl.where(fits, gray, 0.0))
            tl.store(sums + (n * num_sums + SWEEP) * num_tiles + tile, total)
        else:
            r = r * tl.load(scale + c) + tl.load(shift + c)
            if RGB:
                g = g * tl.load(scale + 1) + tl.load(shift + 1)
                b = b * tl.load(scale + 2) + tl.load(shift + 2)
            for e in range(num_rectangles):
                box = rectangles + (n * num_rectangles + e) * 4
                top, left = tl.load(box), tl.load(box + 1)
                inside = (y >= top) & (y < top + tl.load(box + 2))
                inside = inside & (x >= left) & (x < left + tl.load(box + 3))
                fill = fills + e * channels + c
                r = tl.where(inside, tl.load(fill), r)
                if RGB:
                    g = tl.where(inside, tl.load(fill + 1), g)
                    b = tl.where(inside, tl.load(fill + 2), b)
            to = out + tl.load(row + OUT) + c * out_channel
            to += y * tl.load(row + OUT_ROW).to(tl.int32) + x * out_pixel
            OUT_TYPE: tl.constexpr = out.dtype.element_ty
            to, fits = as_row(to), as_row(fits)
            tl.store(to, as_row(cast(r, OUT_TYPE)), mask=fits)
            if RGB:
                tl.store(to + out_channel, as_row(cast(g, OUT_TYPE)), mask=fits)
                tl.store(to + 2 * out_channel, as_row(cast(b, OUT_TYPE)), mask=fits)
