"""Where each pixel of a picture comes from: the state that geometric transforms hand on.

Coordinates are continuous: pixel i covers i .. i + 1 and its centre is i + 0.5. A matrix takes
(x, y, 1) of the picture so far to the source image. So crops, flips, resizes and warps compose by
multiplication, in float64, and the pixels are read once, at the end.

Shape letters: B images.
"""

from __future__ import annotations

from dataclasses import dataclass
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
        return self._some(images)

    def take(self, rows: npt.NDArray[np.int64]) -> Canvas:
        """The canvas of the images of some numbers."""
        return self._some(rows)

    def _some(self, images: slice | npt.NDArray[np.int64]) -> Canvas:
        return self._with(
            height=self.height[images],
            width=self.width[images],
            matrix=self.matrix[images],
            visible=self.visible[images],
            readable=self.readable[images],
        )

    def _with(self, **changed: object) -> Canvas:
        """What dataclasses.replace gives, in a fraction of its time: a canvas is made at every
        step of every batch, of columns so short that they cost no more than that."""
        result = object.__new__(Canvas)
        vars(result).update(vars(self), **changed)
        return result

    @classmethod
    def of(cls, sizes: Counts, stored: Counts | None = None) -> Canvas:
        """The canvas of untouched images: sizes [B, 2] (height, width).

        Args: stored: sizes of the images as they lie in memory, where a decoder reduced them
        """
        columns, whole = np.zeros((9, len(sizes))), np.zeros((4, len(sizes)))
        columns[::4] = 1.0
        whole[2:] = sizes.T
        kind: Kind = "shift"
        if stored is not None:
            scale = _reduction(sizes, stored).T
            columns[4::-4] = scale
            whole[2:] *= scale
            kind = "resize"
        return cls(sizes[:, 0], sizes[:, 1], _matrices(columns), whole.T, whole.T, kind)

    def bordered(self, padding: Padding | None) -> Canvas:
        """The same pictures with another padding, of which nothing is shown yet."""
        return self._with(padding=padding)

    def _moved(
        self, height: Counts, width: Counts, offset: Pair = (0, 0), scale: Pair = (1, 1)
    ) -> Canvas:
        """A step that keeps the axes: point p of the new picture was scale * p + offset so far."""
        if self.kind == "warp":
            step = _identity(len(self))
            step[:, 0, 0], step[:, 1, 1] = scale
            step[:, 0, 2], step[:, 1, 2] = offset
            return self._with(matrix=self.matrix @ step, height=height, width=width)
        # The same product, of the four elements that are not 0 or 1: ten times as fast for a batch.
        columns = np.array(_columns(self.matrix), order="C")
        for axis, (moved, factor) in enumerate(zip(offset, scale, strict=True)):
            if not _is(moved, 0):
                columns[3 * axis + 2] += columns[4 * axis] * moved
            if not _is(factor, 1):
                columns[4 * axis] *= factor
        return self._with(matrix=_matrices(columns), height=height, width=width)

    def shown(self) -> Matrices:
        """The rectangle of the source that the picture covers: top left bottom right, [B, 4]."""
        columns, shown = _columns(self.matrix), np.empty((4, len(self)))
        for axis, size in enumerate((self.width, self.height)):
            near = columns[3 * axis + 2]  # x or y of the first corner
            far = near + columns[4 * axis] * size
            np.minimum(near, far, out=shown[1 - axis])
            np.maximum(near, far, out=shown[3 - axis])
        return shown.T

    def read(self) -> Matrices:
        """The rectangle of the source that the picture is made of, [B, 4]; for pictures that keep
        the axes and show no mirrored border. It may reach beyond the source.

        A filter reads beyond what is shown as far as it is long, inside the readable part. Two
        pixels more on each side, of those a decoder may have reduced the image to.
        """
        step = np.maximum(np.abs(self.matrix[:, [1, 0], [1, 0]]), 1.0)
        outward = np.concatenate([-step, step], axis=1)
        seen = self.shown() + _REACH[self.resample] * outward
        read: Matrices = _common(seen, self.readable) + 2 * outward
        return read

    def crop(self, top: Counts, left: Counts, height: Counts, width: Counts) -> Canvas:
        """Keep height x width pixels from (top, left); what lies outside the picture is padding."""
        moved = self._moved(height, width, (left, top))
        if self.kind == "warp":
            return moved
        return moved._with(visible=_common(self.visible, moved.shown()))

    def pad(self, left: Count, top: Count, right: Count, bottom: Count) -> Canvas:
        """Add columns and rows around the picture."""
        grown = self._moved(
            self.height + (top + bottom), self.width + (left + right), (-left, -top)
        )
        # What a mirrored border is a mirror of, also after a crop of the padded picture.
        return grown._with(readable=self.visible) if self.kind == "shift" else grown

    def resize(self, height: Counts, width: Counts, resample: Interpolation) -> Canvas:
        """Stretch the picture to a size."""
        scale = self.width / np.maximum(width, 1), self.height / np.maximum(height, 1)
        moved = self._moved(height, width, scale=scale)
        if self.kind == "warp":
            return moved._with(resample=_finer(self.resample, resample))
        return moved._with(kind="resize", resample=resample, readable=self.visible)

    def flip(self, which: npt.NDArray[np.bool_], axis: Literal["x", "y"]) -> Canvas:
        """Mirror the images in which [B] left to right (x) or top to bottom (y)."""
        sign = np.where(which, -1.0, 1.0)
        if axis == "x":
            return self._moved(self.height, self.width, (which * self.width, 0), (sign, 1))
        return self._moved(self.height, self.width, (0, which * self.height), (1, sign))

    def warp(
        self, step: Matrices, resample: Interpolation, height: Counts, width: Counts
    ) -> Canvas:
        """Show the picture through a matrix, new -> old coordinates, [B, 3, 3]."""
        finer = resample if self.kind == "shift" else _finer(self.resample, resample)
        plain: Interpolation = "bilinear" if finer == "bicubic" else finer
        return self._with(
            matrix=self.matrix @ step, height=height, width=width, kind="warp", resample=plain
        )


def _common(first: Matrices, second: Matrices) -> Matrices:
    """What two rectangles, top left bottom right, have in common: [B, 4]."""
    common = np.empty((4, len(first)))
    np.maximum(first.T[:2], second.T[:2], out=common[:2])
    np.minimum(first.T[2:], second.T[2:], out=common[2:])
    return common.T


def _columns(matrix: Matrices) -> npt.NDArray[np.float64]:
    """Matrices [B, 3, 3] as [9, B], the numbers of a column together in memory where they are so
    kept: what NumPy goes through fastest, as B is the long axis."""
    return matrix.reshape(-1, 9).T


def _matrices(columns: npt.NDArray[np.float64]) -> Matrices:
    """What `_columns` took apart, the same memory seen as [B, 3, 3]."""
    return columns.T.reshape(-1, 3, 3)


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
