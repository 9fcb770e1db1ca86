"""The pass as Triton kernels: what runs on the GPU. cuda.py makes the tables and launches them.

A program makes one tile of one picture, from its source pixels to the finished values. Rows and
columns of a crop, flip or resize are looked up in tables that make_taps computes once for each
picture, in float64; a warp reads 2 x 2 pixels at coordinates of its own.

Nothing is read outside the images: every index is clamped as an integer before it is used.

Letters: B pictures, C channels, N colour operations, E rectangles, y x in the result, v u in the
source.
"""

# mypy: ignore-errors
# ruff: noqa: N803, N806, SIM300

import triton
import triton.language as tl

# Columns of the tables `ints` (int64) and `doubles` (float64), a row for each picture.
ADDRESS, OUT, SOURCE_H, SOURCE_W, CHANNEL, ROW, PIXEL, OUT_ROW, OUT_H, OUT_W = map(
    tl.constexpr, range(10)
)
NUM_INTS = tl.constexpr(10)
MATRIX, VISIBLE, READABLE = map(tl.constexpr, (0, 9, 13))
NUM_DOUBLES = tl.constexpr(17)

# The numbers that cuda.py, reference.py and toque.augment.color give these names.
SHIFT, RESIZE, WARP = map(tl.constexpr, range(3))
NEAREST, BILINEAR, BICUBIC = map(tl.constexpr, range(3))
CONSTANT, EDGE, REFLECT, SYMMETRIC = map(tl.constexpr, range(4))
BRIGHTNESS, CONTRAST, SATURATION, HUE, GRAYSCALE, INVERT, POSTERIZE, SOLARIZE = map(
    tl.constexpr, range(1, 9)
)
RED, GREEN, BLUE = map(tl.constexpr, (0.2989, 0.587, 0.114))

GRID = tl.constexpr(16)
SAMPLES = tl.constexpr(256)
RIDGE = tl.constexpr(1e-3)


# ---- Tables: which source rows or columns make up each row or column of the result. ----


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


# ---- Reading: three channels in 0 .. 1, or the same one three times. ----


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


# ---- Colour. ----


@triton.jit
def unit_range(value):
    """Into 0 .. 1."""
    return tl.minimum(tl.maximum(value, 0.0), 1.0)


@triton.jit
def hue_channel(hue, most, chroma, n):
    """One channel of HSV back to RGB, hue in sixths of a turn: colors._turn_hue."""
    k = hue + n
    k = k - 6 * tl.floor(k * (1.0 / 6))
    return most - chroma * unit_range(tl.minimum(k, 4 - k))


@triton.jit
def turn_hue(r, g, b, turns):
    """The hue of HSV turned; value and saturation stay."""
    most, least = tl.maximum(tl.maximum(r, g), b), tl.minimum(tl.minimum(r, g), b)
    chroma = most - least
    inverse = tl.where(chroma > 0, 1 / tl.where(chroma > 0, chroma, 1.0), 0.0)
    from_green, from_blue = 2 + (b - r) * inverse, 4 + (r - g) * inverse
    hue = tl.where(most == r, (g - b) * inverse, tl.where(most == g, from_green, from_blue))
    hue += 6 * turns
    return (
        hue_channel(hue, most, chroma, 5),
        hue_channel(hue, most, chroma, 3),
        hue_channel(hue, most, chroma, 1),
    )


@triton.jit
def posterize(value, levels):
    """Only so many levels."""
    level = tl.minimum(tl.floor(value * levels + 1e-5), levels - 1)
    return tl.maximum(level / levels, 0.0)


@triton.jit
def recolor(r, g, b, code, factor, mean, RGB: tl.constexpr):
    """One operation of the chain."""
    if code == BRIGHTNESS:
        r, g, b = unit_range(factor * r), unit_range(factor * g), unit_range(factor * b)
    elif code == CONTRAST:
        offset = (1 - factor) * mean
        r = unit_range(factor * r + offset)
        g = unit_range(factor * g + offset)
        b = unit_range(factor * b + offset)
    elif code == INVERT:
        r, g, b = 1 - r, 1 - g, 1 - b
    elif code == POSTERIZE:
        r, g, b = posterize(r, factor), posterize(g, factor), posterize(b, factor)
    elif code == SOLARIZE:
        r = tl.where(r >= factor, 1 - r, r)
        g = tl.where(g >= factor, 1 - g, g)
        b = tl.where(b >= factor, 1 - b, b)
    if RGB:
        if code == SATURATION:
            gray = (1 - factor) * (RED * r + GREEN * g + BLUE * b)
            r = unit_range(factor * r + gray)
            g = unit_range(factor * g + gray)
            b = unit_range(factor * b + gray)
        elif code == GRAYSCALE:
            gray = RED * r + GREEN * g + BLUE * b
            r, g, b = gray, gray, gray
        elif code == HUE:
            r, g, b = turn_hue(r, g, b, factor)
    return r, g, b


# ---- Writing. ----


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


# ---- The pass. ----


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


# ---- Colour as one matrix: linear.mixing. ----


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
