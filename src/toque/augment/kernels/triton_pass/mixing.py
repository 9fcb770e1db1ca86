"""Colour as one matrix of each picture: what linear.mixing makes on the host."""

# mypy: ignore-errors
# ruff: noqa: N803, SIM300

import triton
import triton.language as tl

from toque.augment.kernels.triton_pass.names import (
    ADDRESS,
    BLUE,
    BRIGHTNESS,
    CHANNEL,
    CONTRAST,
    GRAYSCALE,
    GREEN,
    GRID,
    HUE,
    INVERT,
    NUM_DOUBLES,
    NUM_INTS,
    OUT_H,
    OUT_W,
    PIXEL,
    RED,
    RIDGE,
    ROW,
    SAMPLES,
    SATURATION,
    SOURCE_H,
    SOURCE_W,
    VISIBLE,
)
from toque.augment.kernels.triton_pass.reading import load_pixels
from toque.augment.kernels.triton_pass.recolor import recolor


@triton.jit
def append(m, a0, a1, a2, b0, b1, b2, c0, c1, c2, da, db, dc):
    """Rows a, b, c and constants d of one more operation, after the matrix m (twelve numbers)."""
    return (
        a0 * m[0] + a1 * m[4] + a2 * m[8],
        a0 * m[1] + a1 * m[5] + a2 * m[9],
        a0 * m[2] + a1 * m[6] + a2 * m[10],
        a0 * m[3] + a1 * m[7] + a2 * m[11] + da,
        b0 * m[0] + b1 * m[4] + b2 * m[8],
        b0 * m[1] + b1 * m[5] + b2 * m[9],
        b0 * m[2] + b1 * m[6] + b2 * m[10],
        b0 * m[3] + b1 * m[7] + b2 * m[11] + db,
        c0 * m[0] + c1 * m[4] + c2 * m[8],
        c0 * m[1] + c1 * m[5] + c2 * m[9],
        c0 * m[2] + c1 * m[6] + c2 * m[10],
        c0 * m[3] + c1 * m[7] + c2 * m[11] + dc,
    )


@triton.jit
def fit_row(r, g, b, to, lower, usual_r, usual_g, usual_b):
    """One row of the least-squares matrix: what gives `to` from the colours r, g, b and 1.

    lower: the factors of the triangular decomposition of their products, from decompose."""
    l10, l20, l21, l30, l31, l32, d0, d1, d2, d3 = lower
    ridge = RIDGE * SAMPLES
    y0 = tl.sum(to * r) + ridge * usual_r
    y1 = tl.sum(to * g) + ridge * usual_g - l10 * y0
    y2 = tl.sum(to * b) + ridge * usual_b - l20 * y0 - l21 * y1
    y3 = tl.sum(to) - l30 * y0 - l31 * y1 - l32 * y2
    x3 = y3 / d3
    x2 = y2 / d2 - l32 * x3
    x1 = y1 / d1 - l21 * x2 - l31 * x3
    x0 = y0 / d0 - l10 * x1 - l20 * x2 - l30 * x3
    return x0, x1, x2, x3


@triton.jit
def decompose(r, g, b):
    """L D L' of the products of (r, g, b, 1) with themselves and the ridge: positive definite."""
    ridge = RIDGE * SAMPLES
    d0 = tl.sum(r * r) + ridge
    s10, s20, s30 = tl.sum(g * r), tl.sum(b * r), tl.sum(r)
    l10, l20, l30 = s10 / d0, s20 / d0, s30 / d0
    d1 = tl.sum(g * g) + ridge - l10 * s10
    s21, s31 = tl.sum(b * g) - l20 * s10, tl.sum(g) - l30 * s10
    l21, l31 = s21 / d1, s31 / d1
    d2 = tl.sum(b * b) + ridge - l20 * s20 - l21 * s21
    s32 = tl.sum(b) - l30 * s20 - l31 * s21
    l32 = s32 / d2
    d3 = SAMPLES + ridge - l30 * s30 - l31 * s31 - l32 * s32
    return l10, l20, l21, l30, l31, l32, d0, d1, d2, d3


@triton.jit(do_not_specialize=["num_operations"])
def fit_colors(
    ints, doubles, codes, factors, num_operations, mixing, RGB: tl.constexpr, TYPE: tl.constexpr
):
    """The colour chain of each picture as one matrix, from a grid of its own pixels."""
    n = tl.program_id(0)
    row = ints + n.to(tl.int64) * NUM_INTS
    numbers = doubles + n.to(tl.int64) * NUM_DOUBLES
    size_h, size_w = tl.load(row + SOURCE_H).to(tl.float64), tl.load(row + SOURCE_W).to(tl.float64)
    low_v = tl.minimum(tl.maximum(tl.floor(tl.load(numbers + VISIBLE)), 0), size_h - 1)
    low_u = tl.minimum(tl.maximum(tl.floor(tl.load(numbers + VISIBLE + 1)), 0), size_w - 1)
    high_v = tl.minimum(tl.maximum(tl.ceil(tl.load(numbers + VISIBLE + 2)), low_v + 1), size_h)
    high_u = tl.minimum(tl.maximum(tl.ceil(tl.load(numbers + VISIBLE + 3)), low_u + 1), size_w)
    i = tl.arange(0, SAMPLES)
    x = ((i % GRID).to(tl.float64) + 0.5) / GRID * tl.load(row + OUT_W).to(tl.float64)
    y = ((i // GRID).to(tl.float64) + 0.5) / GRID * tl.load(row + OUT_H).to(tl.float64)
    depth = tl.load(numbers + 6) * x + tl.load(numbers + 7) * y + tl.load(numbers + 8)
    depth = tl.where(depth == 0, 1, depth)
    u = (tl.load(numbers) * x + tl.load(numbers + 1) * y + tl.load(numbers + 2)) / depth
    v = (tl.load(numbers + 3) * x + tl.load(numbers + 4) * y + tl.load(numbers + 5)) / depth
    u = tl.minimum(tl.maximum(tl.floor(u + 1e-6), low_u), high_u - 1).to(tl.int32)
    v = tl.minimum(tl.maximum(tl.floor(v + 1e-6), low_v), high_v - 1).to(tl.int32)
    u = tl.minimum(tl.maximum(u, 0), size_w.to(tl.int32) - 1)
    v = tl.minimum(tl.maximum(v, 0), size_h.to(tl.int32) - 1)
    base = tl.load(row + ADDRESS).to(tl.pointer_type(TYPE))
    at = v * tl.load(row + ROW).to(tl.int32) + u * tl.load(row + PIXEL).to(tl.int32)
    r, g, b = load_pixels(base, at[None, :], tl.load(row + CHANNEL).to(tl.int32), RGB, TYPE)
    r, g, b = tl.reshape(r, [SAMPLES]), tl.reshape(g, [SAMPLES]), tl.reshape(b, [SAMPLES])
    if TYPE == tl.uint8:
        r, g, b = r * (1.0 / 255), g * (1.0 / 255), b * (1.0 / 255)
    zero = size_h * 0
    one = zero + 1
    m = (one, zero, zero, zero, zero, one, zero, zero, zero, zero, one, zero)
    for k in range(num_operations):
        code = tl.load(codes + n * num_operations + k)
        factor = tl.load(factors + n * num_operations + k)
        f = factor.to(tl.float64)
        gray = RED * r + GREEN * g + BLUE * b if RGB else r
        mean = tl.sum(gray) / SAMPLES
        before_r, before_g, before_b = r.to(tl.float64), g.to(tl.float64), b.to(tl.float64)
        r, g, b = recolor(r, g, b, code, factor, mean, RGB)
        if (code == BRIGHTNESS) | (code == CONTRAST):
            d = tl.where(code == CONTRAST, (1 - f) * mean.to(tl.float64), 0)
            m = append(m, f, zero, zero, zero, f, zero, zero, zero, f, d, d, d)
        elif code == INVERT:
            m = append(m, -one, zero, zero, zero, -one, zero, zero, zero, -one, one, one, one)
        if RGB:
            if (code == SATURATION) | (code == GRAYSCALE):
                f = tl.where(code == GRAYSCALE, 0, f)
                wr, wg, wb = (1 - f) * RED, (1 - f) * GREEN, (1 - f) * BLUE
                m = append(
                    m, wr + f, wg, wb, wr, wg + f, wb, wr, wg, wb + f, zero, zero, zero
                )  # fmt: skip
            elif code == HUE:
                angle = 6.283185307179586 * factor
                cosine, side = tl.cos(angle).to(tl.float64), tl.sin(angle).to(tl.float64)
                third, side = (1 - cosine) / 3, side / 1.7320508075688772
                same, ahead, behind = cosine + third, third - side, third + side
                lower = decompose(before_r, before_g, before_b)
                a0, a1, a2, a3 = fit_row(
                    before_r, before_g, before_b, r.to(tl.float64), lower, same, ahead, behind
                )
                b0, b1, b2, b3 = fit_row(
                    before_r, before_g, before_b, g.to(tl.float64), lower, behind, same, ahead
                )
                c0, c1, c2, c3 = fit_row(
                    before_r, before_g, before_b, b.to(tl.float64), lower, ahead, behind, same
                )
                m = append(m, a0, a1, a2, b0, b1, b2, c0, c1, c2, a3, b3, c3)
    to = mixing + n * 12
    for i in tl.static_range(12):
        tl.store(to + i, m[i].to(tl.float32))
