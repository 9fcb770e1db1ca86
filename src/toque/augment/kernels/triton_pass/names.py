"""What the columns of the tables and the codes of the host are called in the kernels."""

# mypy: ignore-errors

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
