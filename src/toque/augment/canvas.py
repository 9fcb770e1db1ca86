"""Where each pixel of a picture comes from: the state that geometric transforms hand on.

Coordinates are continuous: pixel i covers i .. i + 1 and its centre is i + 0.5. A matrix takes
(x, y, 1) of the picture so far to the source image. So crops, flips, resizes and warps compose by
multiplication, in float64, and the pixels are read once, at the end.

Shape letters: B images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from toque import checks

Kind = Literal["shift", "resize", "warp"]
"""shift: whole pixels and flips; resize: axis-aligned, anti-aliased; warp: any matrix."""

Interpolation = Literal["nearest", "bilinear", "bicubic"]
PaddingMode = Literal["constant", "edge", "reflect", "symmetric"]

_KINDS: tuple[Kind, ...] = ("shift", "resize", "warp")
_INTERPOLATIONS: tuple[Interpolation, ...] = ("nearest", "bilinear", "bicubic")
_REACH = {"nearest": 0.0, "bilinear": 1.0, "bicubic": 2.0}
_PADDING_MODES: tuple[PaddingMode, ...] = ("constant", "edge", "reflect", "symmetric")

Matrices = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Count = Counts | int
"""One number for each image, or one for all."""
Pair = tuple[Matrices | Counts | float, Matrices | Counts | float]
"""Of x and of y, each for every image or one for all."""


@dataclass(frozen=True)
class Padding:
    """What stands outside an image: a mode of torchvision's Pad and, for "constant", the fill.

    Args:    fill: on the scale of the pixels in a uint8 image (0 .. 255), one number or one per
             channel
    """

    mode: PaddingMode = "constant"
    fill: tuple[float, ...] = (0.0,)


def padding(where: str, mode: str, fill: float | tuple[float, ...] | list[float]) -> Padding:
    """A checked Padding."""
    if mode not in _PADDING_MODES:
        raise checks.invalid(
            where, "padding_mode", f"one of {', '.join(_PADDING_MODES)}", mode,
            checks.nearest(str(mode), _PADDING_MODES),
        )  # fmt: skip
    values = tuple(float(v) for v in fill) if isinstance(fill, tuple | list) else (float(fill),)
    return Padding(mode, values)


def interpolation(where: str, given: object) -> Interpolation:
    """The name of an interpolation, given as a name or as torchvision's InterpolationMode."""
    name = getattr(given, "value", given)
    if name not in _INTERPOLATIONS:
        raise checks.invalid(
            where, "interpolation", f"one of {', '.join(_INTERPOLATIONS)}", given,
            checks.nearest(str(name), _INTERPOLATIONS),
        )  # fmt: skip
    return name


@dataclass(frozen=True, eq=False)
class Canvas:
    """B pictures as their sizes, their matrices to the source, and what of the source they show.

    Args:    height, width: int64 [B], the size so far
             matrix: float64 [B, 3, 3], picture -> source
             visible: float64 [B, 4], top left bottom right in the source; padding stands outside
             readable: float64 [B, 4], what a resize may read (a crop that is resized does not look
             beyond its edges, a resize that is cropped does) and what padding continues
             kind: the least general way of reading that serves
             resample: the interpolation of a resize or warp
             padding: what stands outside, None where nothing looks there
    """

    height: Counts
    width: Counts
    matrix: Matrices
    visible: Matrices
    readable: Matrices
    kind: Kind = "shift"
    resample: Interpolation = "bilinear"
    padding: Padding | None = None

    def __len__(self) -> int:
        return len(self.height)

    def __getitem__(self, images: slice) -> Canvas:
        """The canvas of some of the images."""
        return replace(
            self,
            height=self.height[images],
            width=self.width[images],
            matrix=self.matrix[images],
            visible=self.visible[images],
            readable=self.readable[images],
        )

    def take(self, rows: npt.NDArray[np.int64]) -> Canvas:
        """The canvas of the images of some numbers."""
        return replace(
            self,
            height=self.height[rows],
            width=self.width[rows],
            matrix=self.matrix[rows],
            visible=self.visible[rows],
            readable=self.readable[rows],
        )

    @classmethod
    def of(cls, sizes: Counts, stored: Counts | None = None) -> Canvas:
        """The canvas of untouched images: sizes [B, 2] (height, width).

        Args: stored: sizes of the images as they lie in memory, where a decoder reduced them
        """
        num = len(sizes)
        flat, whole = np.zeros((num, 9)), np.zeros((num, 4))
        flat[:, ::4] = 1.0
        whole[:, 2:] = sizes
        if stored is None:
            return cls(sizes[:, 0], sizes[:, 1], flat.reshape(num, 3, 3), whole, whole)
        scale = _reduction(sizes, stored)
        flat[:, 4::-4] = scale
        whole[:, 2:] *= scale
        return cls(sizes[:, 0], sizes[:, 1], flat.reshape(num, 3, 3), whole, whole, "resize")

    def _moved(
        self, height: Counts, width: Counts, offset: Pair = (0, 0), scale: Pair = (1, 1)
    ) -> Canvas:
        """A step that keeps the axes: point p of the new picture was scale * p + offset so far."""
        if self.kind == "warp":
            step = _identity(len(self))
            step[:, 0, 0], step[:, 1, 1] = scale
            step[:, 0, 2], step[:, 1, 2] = offset
            return replace(self, matrix=self.matrix @ step, height=height, width=width)
        # The same product, of the four elements that are not 0 or 1: ten times as fast for a batch.
        matrix = self.matrix.copy()
        flat = matrix.reshape(-1, 9)
        for axis, (moved, factor) in enumerate(zip(offset, scale, strict=True)):
            if not _is(moved, 0):
                flat[:, 3 * axis + 2] += flat[:, 4 * axis] * moved
            if not _is(factor, 1):
                flat[:, 4 * axis] = flat[:, 4 * axis] * factor
        return replace(self, matrix=matrix, height=height, width=width)

    def shown(self) -> Matrices:
        """The rectangle of the source that the picture covers: top left bottom right, [B, 4]."""
        flat = self.matrix.reshape(-1, 9)
        near = flat[:, 5::-3]  # y and x of the first corner
        far = np.empty((len(self), 2))
        far[:, 0] = near[:, 0] + flat[:, 4] * self.height
        far[:, 1] = near[:, 1] + flat[:, 0] * self.width
        return np.concatenate([np.minimum(near, far), np.maximum(near, far)], axis=1)

    def read(self) -> Matrices:
        """The rectangle of the source that the picture is made of, [B, 4]; for pictures that keep
        the axes and show no mirrored border. It may reach beyond the source.

        A filter reads beyond what is shown as far as it is long, inside the readable part. Two
        pixels more on each side, of those a decoder may have reduced the image to.
        """
        step = np.maximum(np.abs(self.matrix[:, [1, 0], [1, 0]]), 1.0)
        outward = np.concatenate([-step, step], axis=1)
        seen = self.shown() + _REACH[self.resample] * outward
        low = np.maximum(seen[:, :2], self.readable[:, :2])
        high = np.minimum(seen[:, 2:], self.readable[:, 2:])
        read: Matrices = np.concatenate([low, high], axis=1) + 2 * outward
        return read

    def crop(self, top: Counts, left: Counts, height: Counts, width: Counts) -> Canvas:
        """Keep height x width pixels from (top, left); what lies outside the picture is padding."""
        moved = self._moved(height, width, (left, top))
        if self.kind == "warp":
            return moved
        shown = moved.shown()
        low = np.maximum(self.visible[:, :2], shown[:, :2])
        high = np.minimum(self.visible[:, 2:], shown[:, 2:])
        return replace(moved, visible=np.concatenate([low, high], axis=1))

    def pad(self, left: Count, top: Count, right: Count, bottom: Count) -> Canvas:
        """Add columns and rows around the picture."""
        grown = self._moved(
            self.height + (top + bottom), self.width + (left + right), (-left, -top)
        )
        # What a mirrored border is a mirror of, also after a crop of the padded picture.
        return replace(grown, readable=self.visible) if self.kind == "shift" else grown

    def resize(self, height: Counts, width: Counts, resample: Interpolation) -> Canvas:
        """Stretch the picture to a size."""
        scale = self.width / np.maximum(width, 1), self.height / np.maximum(height, 1)
        moved = self._moved(height, width, scale=scale)
        if self.kind == "warp":
            return replace(moved, resample=_finer(self.resample, resample))
        return replace(moved, kind="resize", resample=resample, readable=self.visible)

    def flip(self, which: npt.NDArray[np.bool_], axis: Literal["x", "y"]) -> Canvas:
        """Mirror the images in which [B] left to right (x) or top to bottom (y)."""
        sign = np.where(which, -1.0, 1.0)
        if axis == "x":
            return self._moved(
                self.height, self.width, (np.where(which, self.width, 0), 0), (sign, 1)
            )
        return self._moved(self.height, self.width, (0, np.where(which, self.height, 0)), (1, sign))

    def warp(
        self, step: Matrices, resample: Interpolation, height: Counts, width: Counts
    ) -> Canvas:
        """Show the picture through a matrix, new -> old coordinates, [B, 3, 3]."""
        finer = resample if self.kind == "shift" else _finer(self.resample, resample)
        plain: Interpolation = "bilinear" if finer == "bicubic" else finer
        return replace(
            self, matrix=self.matrix @ step, height=height, width=width, kind="warp", resample=plain
        )


def _reduction(sizes: Counts, stored: Counts) -> Matrices:
    """Stored pixels for each pixel of the image, [B, 2].

    A JPEG decoder that halves 501 pixels gives 251, of which the last stands for one pixel and a
    margin: the scale is 1/2 there, not 251/501.
    """
    scale = stored / np.maximum(sizes, 1)
    for factor in (8, 4, 2, 1):
        scale = np.where(-(-sizes // factor) == stored, 1 / factor, scale)
    return scale


def kind_of(kinds: list[Kind]) -> Kind:
    """The most general of some kinds."""
    return max(kinds, key=_KINDS.index, default="shift")


def _finer(first: Interpolation, second: Interpolation) -> Interpolation:
    return max(first, second, key=_INTERPOLATIONS.index)


def _is(value: Matrices | Counts | float, number: int) -> bool:
    """Whether a value for all images is that number; one for each of them is not looked at."""
    return isinstance(value, int) and value == number


def _identity(num: int) -> Matrices:
    matrix = np.zeros((num, 3, 3))
    matrix[:, [0, 1, 2], [0, 1, 2]] = 1.0
    return matrix
