"""Source pixels: three channels in 0 .. 1, or the same one three times."""

# mypy: ignore-errors
# ruff: noqa: N803, N806, SIM300

import triton
import triton.language as tl

from toque.augment.kernels.triton_pass.names import (
    CHANNEL,
    MATRIX,
    NEAREST,
    OUT_H,
    OUT_W,
    PIXEL,
    ROW,
    SOURCE_H,
    SOURCE_W,
    VISIBLE,
)
from toque.augment.kernels.triton_pass.taps import weigh


@triton.jit
def as_row(tile):
    """A tile [h, w] as [h * w], so that neighbouring threads have neighbours in x. Of two axes of
    which neither is contiguous, Triton 3.6 gives threads the first: a warp would touch 32 rows."""
    SIZE: tl.constexpr = tile.shape[0] * tile.shape[1]
    return tl.reshape(tile, [SIZE])


@triton.jit
def load_floats(pointers):
    """What lies at pointers [h, w], as floats."""
    return tl.reshape(tl.load(as_row(pointers)), pointers.shape).to(tl.float32)


@triton.jit
def load_pixels(base, offset, channel, RGB: tl.constexpr, TYPE: tl.constexpr):
    """Whole pixels as floats; bytes are still in 0 .. 255."""
    red = load_floats(base + offset)
    green, blue = red, red
    if RGB:
        green = load_floats(base + offset + channel)
        blue = load_floats(base + offset + 2 * channel)
    return red, green, blue


@triton.jit
def read_axes(
    base, row, numbers, taps, y, x, longest, fill_r, fill_g, fill_b,
    RGB: tl.constexpr, TYPE: tl.constexpr, RESAMPLE: tl.constexpr,
):  # fmt: skip
    """A tile through the tables: rows y [h, 1], columns x [1, w]."""
    first_of, count_of, start_of, inverse_of = taps
    out_h, out_w = tl.load(row + OUT_H).to(tl.int32), tl.load(row + OUT_W).to(tl.int32)
    last_v = tl.load(row + SOURCE_H).to(tl.int32) - 1
    last_u = tl.load(row + SOURCE_W).to(tl.int32) - 1
    row_step, pixel = tl.load(row + ROW).to(tl.int32), tl.load(row + PIXEL).to(tl.int32)
    channel = tl.load(row + CHANNEL).to(tl.int32)
    down, across = y, longest + x
    in_y, in_x = y < out_h, x < out_w
    v0, num_v = tl.load(first_of + down, in_y, 0), tl.load(count_of + down, in_y, 0)
    u0, num_u = tl.load(first_of + across, in_x, 0), tl.load(count_of + across, in_x, 0)
    start_v, scale_v = tl.load(start_of + down, in_y, 0.0), tl.load(inverse_of + down, in_y, 0.0)
    start_u, scale_u = (
        tl.load(start_of + across, in_x, 0.0),
        tl.load(inverse_of + across, in_x, 0.0),
    )
    step_v, step_u = 1.0, 1.0
    if RESAMPLE != NEAREST:
        step_v = 1 / tl.maximum(tl.abs(tl.load(numbers + MATRIX + 4)), 1).to(tl.float32)
        step_u = 1 / tl.maximum(tl.abs(tl.load(numbers + MATRIX)), 1).to(tl.float32)
    scale = scale_v * scale_u
    red, green, blue = scale * 0, scale * 0, scale * 0
    for k in range(tl.max(num_v)):
        weight_v = tl.where(k < num_v, weigh(start_v + k * step_v, RESAMPLE), 0)
        along = tl.minimum(v0 + k, last_v) * row_step
        r, g, b = scale * 0, scale * 0, scale * 0
        for j in range(tl.max(num_u)):
            weight = tl.where(j < num_u, weigh(start_u + j * step_u, RESAMPLE), 0)
            offset = along + tl.minimum(u0 + j, last_u) * pixel
            pr, pg, pb = load_pixels(base, offset, channel, RGB, TYPE)
            r += weight * pr
            g += weight * pg
            b += weight * pb
        red += weight_v * r
        green += weight_v * g
        blue += weight_v * b
    if TYPE == tl.uint8:
        scale = scale * (1.0 / 255)
    shown = scale != 0
    red = tl.where(shown, red * scale, fill_r)
    green = tl.where(shown, green * scale, fill_g)
    blue = tl.where(shown, blue * scale, fill_b)
    return red, green, blue


@triton.jit
def read_warp(
    base, row, numbers, y, x, fill_r, fill_g, fill_b,
    RGB: tl.constexpr, TYPE: tl.constexpr, RESAMPLE: tl.constexpr,
):  # fmt: skip
    """A tile through the matrix: the nearest pixel, or four; those not visible give the fill."""
    last_v = tl.load(row + SOURCE_H).to(tl.int32) - 1
    last_u = tl.load(row + SOURCE_W).to(tl.int32) - 1
    row_step, pixel = tl.load(row + ROW).to(tl.int32), tl.load(row + PIXEL).to(tl.int32)
    channel = tl.load(row + CHANNEL).to(tl.int32)
    top = tl.ceil(tl.load(numbers + VISIBLE) - 0.5).to(tl.float32)
    left = tl.ceil(tl.load(numbers + VISIBLE + 1) - 0.5).to(tl.float32)
    bottom = tl.ceil(tl.load(numbers + VISIBLE + 2) - 0.5).to(tl.float32)
    right = tl.ceil(tl.load(numbers + VISIBLE + 3) - 0.5).to(tl.float32)
    m0, m1 = tl.load(numbers).to(tl.float32), tl.load(numbers + 1).to(tl.float32)
    m2, m3 = tl.load(numbers + 2).to(tl.float32), tl.load(numbers + 3).to(tl.float32)
    m4, m5 = tl.load(numbers + 4).to(tl.float32), tl.load(numbers + 5).to(tl.float32)
    m6, m7 = tl.load(numbers + 6).to(tl.float32), tl.load(numbers + 7).to(tl.float32)
    m8 = tl.load(numbers + 8).to(tl.float32)
    across, down = x.to(tl.float32) + 0.5, y.to(tl.float32) + 0.5
    depth = m6 * across + (m7 * down + m8)
    u = (m0 * across + (m1 * down + m2)) / depth
    v = (m3 * across + (m4 * down + m5)) / depth
    if RESAMPLE != NEAREST:
        u, v = u - 0.5, v - 0.5
    # Clamped as floats first: an integer made of a coordinate far outside would be undefined.
    # What is no number, on the horizon of a perspective, stands for a place outside.
    u = tl.minimum(tl.maximum(tl.where(u == u, u, -2.0), -2.0), last_u + 1.0)
    v = tl.minimum(tl.maximum(tl.where(v == v, v, -2.0), -2.0), last_v + 1.0)
    u0, v0 = tl.floor(u), tl.floor(v)
    part_u, part_v = u - u0, v - v0
    red, green, blue = u * 0, u * 0, u * 0
    unit = 1.0 / 255 if TYPE == tl.uint8 else 1.0
    TAPS: tl.constexpr = 1 if RESAMPLE == NEAREST else 2
    for k in tl.static_range(TAPS):
        vk = v0 + k
        weight_v = part_v * 0 + 1 if TAPS == 1 else (1 - part_v if k == 0 else part_v)
        at_v = tl.minimum(tl.maximum(vk.to(tl.int32), 0), last_v) * row_step
        for j in tl.static_range(TAPS):
            uj = u0 + j
            weight = weight_v if TAPS == 1 else weight_v * (1 - part_u if j == 0 else part_u)
            at = at_v + tl.minimum(tl.maximum(uj.to(tl.int32), 0), last_u) * pixel
            inside = (vk >= top) & (vk < bottom) & (uj >= left) & (uj < right)
            r, g, b = load_pixels(base, at, channel, RGB, TYPE)
            red += weight * tl.where(inside, r * unit, fill_r)
            green += weight * tl.where(inside, g * unit, fill_g)
            blue += weight * tl.where(inside, b * unit, fill_b)
    return red, green, blue
