"""The colour chain of a pixel."""

# mypy: ignore-errors
# ruff: noqa: N803

import triton
import triton.language as tl

from toque.augment.kernels.triton_pass.names import (
    BLUE,
    BRIGHTNESS,
    CONTRAST,
    GRAYSCALE,
    GREEN,
    HUE,
    INVERT,
    POSTERIZE,
    RED,
    SATURATION,
    SOLARIZE,
)


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
