"""The pass in plain torch: the definition that every other kernel is tested against.

It runs on any device. Everything is elementwise or a gather, so an image's pixels do not depend on
which batch it is in.

Shape letters: B images, C channels, H W source height and width, h w result height and width,
K taps of the resampling filter.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from toque.augment.canvas import Canvas, Interpolation, Padding
from toque.augment.kernels.colors import moved, recolor
from toque.augment.kernels.linear import GRID, mix, mixing
from toque.augment.kernels.resolved import Resolved

_Doubles = npt.NDArray[np.float64]
_SUPPORT: dict[Interpolation, float] = {"nearest": 0.5, "bilinear": 1.0, "bicubic": 2.0}


def run(images: torch.Tensor, resolved: Resolved, out: torch.Tensor) -> None:
    """Images of one size, uint8 or float [B, C, H, W] -> out [B, C, h, w]."""
    if out.numel() == 0:
        return
    pixels = read(images, resolved.canvas)
    if resolved.linear:
        pixels = mix(pixels, mixing(sample_grid(images, resolved.canvas), resolved))
    else:
        pixels = recolor(pixels, resolved.codes, resolved.factors)
    scale, shift = (
        torch.from_numpy(values).to(out.device)[:, None, None]
        for values in (resolved.scale, resolved.shift)
    )
    erase(pixels.mul_(scale).add_(shift), resolved)
    if out.dtype == torch.uint8:
        pixels = pixels.mul_(255).round_().clamp_(0, 255)
    out.copy_(pixels)


def read(images: torch.Tensor, canvas: Canvas) -> torch.Tensor:
    """The geometry: a new float32 tensor in 0 .. 1."""
    if images.dtype != torch.uint8:
        images = images.to(torch.float32)
    if canvas.kind == "shift":
        return in_unit_range(_shift(images, canvas))
    if canvas.kind == "resize":
        return _resize(in_unit_range(images), canvas)
    return _warp(images, canvas)


def in_unit_range(images: torch.Tensor) -> torch.Tensor:
    """A float32 copy in 0 .. 1."""
    if images.dtype == torch.uint8:
        return images.to(torch.float32).mul_(1 / 255)
    return images.to(torch.float32, copy=True)


def _size(canvas: Canvas) -> tuple[int, int]:
    return int(canvas.height[0]), int(canvas.width[0])


def _centres(canvas: Canvas, axis: int, size: int) -> _Doubles:
    """Source coordinate of the centre of each result row (axis 1) or column (axis 0): [B, size]."""
    matrix = canvas.matrix
    steps = np.arange(size) + 0.5
    return matrix[:, axis, axis, None] * steps + matrix[:, axis, 2, None]


def _fill(padding: Padding | None, images: torch.Tensor) -> torch.Tensor:
    """The constant that stands outside, in the images' dtype and range: [C or 1, 1, 1]."""
    values = torch.tensor(padding.fill if padding else (0.0,), dtype=torch.float64)
    if images.dtype != torch.uint8:
        values = values / 255
    return values.to(images.device, images.dtype)[:, None, None]


def _shift(images: torch.Tensor, canvas: Canvas) -> torch.Tensor:
    """Whole pixels only: one gather for the whole batch."""
    height, width = _size(canvas)
    batch, channels, source_h, source_w = images.shape
    rows, rows_in = _indices(np.floor(_centres(canvas, 1, height)), canvas, 1, source_h)
    columns, columns_in = _indices(np.floor(_centres(canvas, 0, width)), canvas, 0, source_w)
    index = moved(rows[:, :, None] * source_w + columns[:, None, :], images)
    index = index.view(batch, 1, height * width).expand(-1, channels, -1)
    pixels = images.reshape(batch, channels, -1).gather(2, index)
    pixels = pixels.view(batch, channels, height, width)
    if not (rows_in.all() and columns_in.all()):
        inside = moved(rows_in[:, None, :, None] & columns_in[:, None, None, :], images)
        pixels = torch.where(inside, pixels, _fill(canvas.padding, images))
    return pixels


def nearest(
    canvas: Canvas, axis: int, size: int, source_size: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The source row (axis 1) or column (axis 0) nearest to each of the result, and whether it is
    visible: [B, size] each; for canvases that keep the axes."""
    centre = _centres(canvas, axis, size)
    if canvas.kind == "shift":
        return _indices(np.floor(centre), canvas, axis, source_size)
    low, high = (canvas.readable[:, edge - axis, None] for edge in (1, 3))
    index = np.clip(np.floor(centre + 1e-9), np.floor(low + 1e-6), np.ceil(high - 1e-6) - 1)
    shown = canvas.visible[:, [1 - axis, 3 - axis]]
    visible: npt.NDArray[np.bool_] = np.asarray((centre > shown[:, :1]) & (centre < shown[:, 1:]))
    return np.clip(index, 0, source_size - 1).astype(np.int64), visible


def _indices(
    at: _Doubles, canvas: Canvas, axis: int, size: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Source rows or columns, brought inside by the padding mode, and which need no fill."""
    mode = canvas.padding.mode if canvas.padding else "constant"
    shown = canvas.visible if mode == "constant" else canvas.readable
    low = np.rint(shown[:, 1 - axis, None]).astype(np.int64)
    high = np.rint(shown[:, 3 - axis, None]).astype(np.int64)
    index: npt.NDArray[np.int64] = at.astype(np.int64)
    inside: npt.NDArray[np.bool_] = np.asarray((index >= low) & (index < high))
    if mode == "constant":
        return np.clip(index, 0, size - 1), inside
    length = high - low
    if mode == "edge":
        index = np.clip(index, low, high - 1)
    elif mode == "symmetric":  # ... 1 0 | 0 1 2 | 2 1 ...
        turn = (index - low) % (2 * length)
        index = low + np.minimum(turn, 2 * length - 1 - turn)
    else:  # reflect: ... 2 1 | 0 1 2 | 1 0 ...
        period = np.maximum(2 * length - 2, 1)
        turn = (index - low) % period
        index = low + np.minimum(turn, period - turn) * (length > 1)
    return index, np.ones_like(inside)


def _resize(images: torch.Tensor, canvas: Canvas) -> torch.Tensor:
    """Separable and anti-aliased: rows first, then columns."""
    height, width = _size(canvas)
    batch, channels, source_h, source_w = images.shape
    first = torch.arange(batch * channels, device=images.device).view(batch, channels, 1) * source_h
    flat = images.reshape(-1, source_w)
    rows, row_weights = taps(canvas, 1, height, source_h)
    tall: torch.Tensor | None = None
    for tap in range(rows.shape[2]):
        index = (first + moved(rows[:, None, :, tap], images)).flatten()
        part = flat.index_select(0, index).view(batch, channels, height, source_w)
        part *= moved(row_weights[:, None, :, tap, None], images)
        tall = part if tall is None else tall.add_(part)
    columns, column_weights = taps(canvas, 0, width, source_w)
    pixels: torch.Tensor | None = None
    for tap in range(columns.shape[2]):
        index = moved(columns[:, None, None, :, tap], images).expand(-1, channels, height, -1)
        part = cast(torch.Tensor, tall).gather(3, index)
        part *= moved(column_weights[:, None, None, :, tap], images)
        pixels = part if pixels is None else pixels.add_(part)
    pixels = cast(torch.Tensor, pixels)
    rows_in: npt.NDArray[np.bool_] = np.any(row_weights, axis=2)
    columns_in: npt.NDArray[np.bool_] = np.any(column_weights, axis=2)
    if not (rows_in.all() and columns_in.all()):
        inside = moved(rows_in[:, None, :, None] & columns_in[:, None, None, :], images)
        pixels = torch.where(inside, pixels, _fill(canvas.padding, images))
    return pixels


def taps(
    canvas: Canvas, axis: int, size: int, source_size: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Which source rows (axis 1) or columns (axis 0) make up each of the result, and their weights.

    The filter is stretched by the scale where the image shrinks; what falls outside the readable
    part is left out and the rest made to sum to 1. A centre that is not visible has no weights.

    Shape:  -> int64 and float32 [B, size, K]
    Source: the anti-aliased resize of torch (aten/native/cpu/UpSampleKernel.cpp), after Pillow's
    """
    centre = _centres(canvas, axis, size)
    scale = np.abs(canvas.matrix[:, axis, axis])
    stretch = np.maximum(scale, 1.0) if canvas.resample != "nearest" else np.ones_like(scale)
    low = np.floor(canvas.readable[:, 1 - axis] + 1e-6)[:, None]
    high = np.ceil(canvas.readable[:, 3 - axis] - 1e-6)[:, None]
    support = (_SUPPORT[canvas.resample] * stretch)[:, None]
    if canvas.resample == "nearest":
        first = last = np.floor(centre + 1e-9)
        first, last = np.clip(first, low, high - 1), np.clip(last, low, high - 1) + 1
    else:
        first = np.maximum(np.floor(centre - support + 0.5), low)
        last = np.minimum(np.floor(centre + support + 0.5), high)
    count = max(int((last - first).max(initial=1)), 1)
    at = first[:, :, None] + np.arange(count)
    distance = (at + 0.5 - centre[:, :, None]) / stretch[:, None, None]
    weights = _filter(distance, canvas.resample) * (at < last[:, :, None])
    shown = canvas.visible[:, [1 - axis, 3 - axis]]
    visible = (centre > shown[:, :1]) & (centre < shown[:, 1:])
    total = weights.sum(2, keepdims=True)
    weights = np.where(visible[:, :, None] & (total != 0), weights / np.where(total, total, 1), 0.0)
    return np.clip(at, 0, source_size - 1).astype(np.int64), weights.astype(np.float32)


def _filter(distance: _Doubles, resample: Interpolation) -> _Doubles:
    away: _Doubles = np.abs(distance)
    if resample == "nearest":
        return np.ones_like(away)
    if resample == "bilinear":
        return np.maximum(1 - away, 0)
    a = -0.5  # Keys 1981, the value of the anti-aliased resizes of torch and Pillow
    near = ((a + 2) * away - (a + 3)) * away * away + 1
    far = (((away - 5) * away + 8) * away - 4) * a
    return np.select([away < 1, away < 2], [near, far], 0.0)


# A bilinear warp reads 2 x 2 pixels: enough down to this scale; beyond it a resize comes first.
LARGEST_STEP = 1.15


def _warp(images: torch.Tensor, canvas: Canvas) -> torch.Tensor:
    """Any matrix: images that shrink much are reduced first, the rest go together."""
    factors = reduction(canvas)
    if len(canvas) > 1 and (factors > 1).any():
        parts = [_warp(images[n : n + 1], canvas[n : n + 1]) for n in range(len(canvas))]
        return torch.cat(parts)
    if (factors > 1).any():
        smaller, canvas = reduced(canvas, factors)
        images = _resize(in_unit_range(images), smaller)
    return _sample(images, canvas)


def reduction(canvas: Canvas) -> _Doubles:
    """By how much each axis of the source is reduced before a warp: y, x [B, 2], 1 for not at all.

    Both the resize and the bilinear warp after it blur with a triangle; reducing by scale / sqrt(2)
    gives the two together the variance of one triangle as wide as the scale.
    """
    if canvas.resample == "nearest":
        return np.ones((len(canvas), 2))
    jacobian = _jacobian(canvas)
    scale = np.sqrt((jacobian**2).sum(2))[:, ::-1]
    return np.where(scale > LARGEST_STEP, np.maximum(scale / np.sqrt(2), 1.0), 1.0)


def _jacobian(canvas: Canvas) -> _Doubles:
    """d source / d result in the middle of the picture: [B, 2, 2]."""
    middle = np.stack([canvas.width / 2, canvas.height / 2, np.ones(len(canvas))], axis=1)
    at = np.einsum("bij,bj->bi", canvas.matrix, middle)
    # On the horizon of a perspective nothing has a size; any number will do.
    depth = np.where(np.abs(at[:, 2:]) < 1e-6, 1.0, at[:, 2:])
    where = at[:, :2] / depth
    slope = canvas.matrix[:, :2, :2] - where[:, :, None] * canvas.matrix[:, 2:, :2]
    return np.asarray(slope / depth[:, :, None])


def reduced(canvas: Canvas, factors: _Doubles) -> tuple[Canvas, Canvas]:
    """The canvas that reduces the visible part by whole factors or parts of them, and the rest."""
    low, high = np.floor(canvas.visible[:, :2]), np.ceil(canvas.visible[:, 2:])
    extent = np.maximum(high - low, 1)  # also where nothing is visible: its matrix has an inverse
    size = np.maximum(np.ceil(extent / factors - 1e-9), 1).astype(np.int64)
    step = extent / size
    matrix = np.zeros((len(canvas), 3, 3))
    matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, 2, 2] = step[:, 1], step[:, 0], 1
    matrix[:, 0, 2], matrix[:, 1, 2] = low[:, 1], low[:, 0]
    seen = np.concatenate([low, high], axis=1)
    first = Canvas(size[:, 0], size[:, 1], matrix, seen, seen, "resize")
    whole = np.concatenate([np.zeros_like(low), size], axis=1)
    rest = np.linalg.inv(matrix) @ canvas.matrix
    return first, replace(canvas, matrix=rest, visible=whole, readable=whole)


def _sample(images: torch.Tensor, canvas: Canvas) -> torch.Tensor:
    """Through the matrix, nearest or bilinear; each tap that is not visible gives the fill."""
    height, width = _size(canvas)
    batch, channels, source_h, source_w = images.shape
    matrix = moved(canvas.matrix.astype(np.float32), images)[:, :, :, None, None]
    across = torch.arange(width, device=images.device, dtype=torch.float32)[None, None, :] + 0.5
    down = torch.arange(height, device=images.device, dtype=torch.float32)[None, :, None] + 0.5
    x, y, w = (
        matrix[:, row, 0] * across + (matrix[:, row, 1] * down + matrix[:, row, 2])
        for row in range(3)
    )
    # On the horizon of a perspective lies nothing: no number stands for a place outside.
    x, y = (at.nan_to_num(nan=-9.0, posinf=1e9, neginf=-1e9) for at in (x / w, y / w))
    shown = np.concatenate(
        [np.ceil(canvas.visible[:, :2] - 0.5), np.ceil(canvas.visible[:, 2:] - 0.5)], axis=1
    )
    top, left, bottom, right = moved(shown.astype(np.int64), images)[:, :, None, None].unbind(1)
    fill = _fill(canvas.padding, torch.empty(0, device=images.device))
    flat = images.reshape(batch, channels, -1)
    if canvas.resample == "nearest":
        taps_of = [(x.floor(), y.floor(), torch.ones_like(x))]
    else:
        x, y = x - 0.5, y - 0.5
        x0, y0 = x.floor(), y.floor()
        x_part, y_part = x - x0, y - y0
        taps_of = [
            (x0, y0, (1 - x_part) * (1 - y_part)),
            (x0 + 1, y0, x_part * (1 - y_part)),
            (x0, y0 + 1, (1 - x_part) * y_part),
            (x0 + 1, y0 + 1, x_part * y_part),
        ]
    result: torch.Tensor | None = None
    for column, row, weight in taps_of:
        # Clamped as floats: an integer made of a coordinate far outside would be undefined.
        column = column.clamp(-1, source_w).long()
        row = row.clamp(-1, source_h).long()
        inside = (row >= top) & (row < bottom) & (column >= left) & (column < right)
        index = row.clamp(0, source_h - 1) * source_w + column.clamp(0, source_w - 1)
        index = index.view(batch, 1, -1).expand(-1, channels, -1)
        part = in_unit_range(flat.gather(2, index)).view(batch, channels, height, width)
        part = torch.where(inside[:, None], part, fill) * weight[:, None]
        result = part if result is None else result.add_(part)
    return cast(torch.Tensor, result)


def sample_grid(images: torch.Tensor, canvas: Canvas) -> torch.Tensor:
    """The source pixels under a grid over the result: float32 [B, C, GRID * GRID] in 0 .. 1."""
    height, width = _size(canvas)
    batch, channels, source_h, source_w = images.shape
    steps = (np.arange(GRID) + 0.5) / GRID
    down, across = np.meshgrid(steps * height, steps * width, indexing="ij")
    at = np.stack([across.ravel(), down.ravel(), np.ones(GRID * GRID)])
    found = canvas.matrix @ at
    depth = np.where(found[:, 2:] == 0, 1.0, found[:, 2:])
    where = np.nan_to_num(np.floor(found[:, :2] / depth + 1e-6))
    seen = canvas.visible
    low = np.clip(np.floor(seen[:, 1::-1]), 0, [source_w - 1, source_h - 1])
    high = np.clip(np.ceil(seen[:, :1:-1]), low + 1, [source_w, source_h])
    u, v = np.clip(where, low[:, :, None], high[:, :, None] - 1).astype(np.int64).swapaxes(0, 1)
    index = moved(v * source_w + u, images)[:, None].expand(-1, channels, -1)
    return in_unit_range(images.reshape(batch, channels, -1).gather(2, index))


def erase(pixels: torch.Tensor, resolved: Resolved) -> None:
    """Overwrites the rectangles, in place."""
    height, width = pixels.shape[2:]
    rows = torch.arange(height, device=pixels.device)[:, None]
    columns = torch.arange(width, device=pixels.device)[None, :]
    for number in range(resolved.rectangles.shape[1]):
        box = moved(resolved.rectangles[:, number], pixels)[:, :, None, None]
        top, left, tall, wide = box.unbind(1)
        covered = (rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)
        fill = moved(resolved.fills[number], pixels)[:, None, None]
        pixels.copy_(torch.where(covered[:, None], fill, pixels))
