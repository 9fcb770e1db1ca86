"""Crops, resizes and padding: what keeps the axes, and is no flip.

Shape letters: B images, H W image height and width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch

from toque import checks
from toque.augment import canvas as canvases
from toque.augment.canvas import Canvas, Counts, Interpolation, Kind, Padding
from toque.augment.parts import parts
from toque.augment.transform import Draw, Floats, Geometric
from toque.random import Key

_TRIES = 10  # of RandomResizedCrop, as in torchvision


def _pair(where: str, argument: str, value: int | Sequence[int]) -> tuple[int, int]:
    numbers = [value] if isinstance(value, int) else list(value)
    if len(numbers) not in (1, 2) or any(not isinstance(n, int) or n < 1 for n in numbers):
        raise checks.invalid(
            where, argument, "a whole number >= 1 or (height, width)", value,
            "Give a size in pixels.",
        )  # fmt: skip
    return numbers[0], numbers[-1]


def _range(where: str, argument: str, value: Sequence[float]) -> tuple[float, float]:
    numbers = tuple(float(v) for v in value)
    if len(numbers) != 2 or not 0 < numbers[0] <= numbers[1] < math.inf:
        raise checks.invalid(
            where, argument, "(low, high) with 0 < low <= high", value, "Give two positive numbers."
        )
    return numbers[0], numbers[1]


def _all(canvas: Canvas, size: tuple[int, int]) -> tuple[Counts, Counts]:
    """The same height and width for each picture."""
    height, width = np.empty((2, len(canvas)), dtype=np.int64)
    height[:], width[:] = size
    return height, width


@dataclass(frozen=True)
class RandomResizedCrop(Geometric):
    """A random part of the image, of random area and aspect ratio, resized.

    Args:    size: of the result, a number or (height, width)
             scale: area of the part relative to the image's
             ratio: width / height of the part, drawn evenly on a logarithmic scale
    Raises:  ValueError: a size < 1, an empty or negative range
    Source:  Szegedy 2014, arXiv:1409.4842, section 6; torchvision's sampling: ten tries, then the
             largest part of allowed ratio in the centre
    Example: >>> Compose([RandomResizedCrop(224, scale=(0.35, 1.0))])
    """

    size: int | Sequence[int]
    scale: Sequence[float] = (0.08, 1.0)
    ratio: Sequence[float] = (3 / 4, 4 / 3)
    interpolation: object = "bilinear"
    antialias: bool = True
    kind: ClassVar[Kind] = "resize"

    def __post_init__(self) -> None:
        _pair("RandomResizedCrop", "size", self.size)
        _range("RandomResizedCrop", "scale", self.scale)
        _range("RandomResizedCrop", "ratio", self.ratio)
        canvases.interpolation("RandomResizedCrop", self.interpolation)
        _only_antialiased("RandomResizedCrop", self.antialias)

    @cached_property
    def _fixed(self) -> tuple[int, int]:
        return _pair("RandomResizedCrop", "size", self.size)

    @cached_property
    def _resample(self) -> Interpolation:
        return canvases.interpolation("RandomResizedCrop", self.interpolation)

    @property
    def num_numbers(self) -> int:
        return 2 * _TRIES + 2

    def draw(self, numbers: Floats, key: Key) -> Draw:
        low, high = self.scale
        log_low, log_high = math.log(self.ratio[0]), math.log(self.ratio[1])
        drawn = numbers.astype(np.float64)
        ratio = np.exp(log_low + drawn[:, _TRIES : 2 * _TRIES] * (log_high - log_low))
        return {
            "area": torch.from_numpy(low + drawn[:, :_TRIES] * (high - low)),
            "ratio": torch.from_numpy(ratio),
            "position": torch.from_numpy(drawn[:, 2 * _TRIES :]),
        }

    def box(self, draw: Draw, height: Counts, width: Counts) -> Counts:
        """Top, left, height, width of the part in images of those sizes: [B, 4]."""
        box = parts(draw, None, height, width, least=1, tall=False)
        if box[:, 2].all():
            return box
        none = np.flatnonzero(box[:, 2] == 0)
        height, width = height[none], width[none]
        h, w = self._central(height, width)
        box[none] = np.stack([(height - h) // 2, (width - w) // 2, h, w], axis=1)
        return box

    def _central(self, height: Counts, width: Counts) -> tuple[Counts, Counts]:
        narrowest, widest = self.ratio
        ratio = width / np.maximum(height, 1)
        h = np.where(ratio < narrowest, np.rint(width / narrowest).astype(np.int64), height)
        w = np.where(ratio > widest, np.rint(height * widest).astype(np.int64), width)
        # An image one pixel thin can round to nothing.
        return np.clip(h, 1, height), np.clip(w, 1, width)

    def describe(self, draw: Draw, image: int, size: tuple[int, int] | None) -> str:
        if size is None:
            return f"crop of {draw['area'][image, 0]:.0%}"
        one = {name: values[image : image + 1] for name, values in draw.items()}
        top, left, height, width = self.box(one, np.array([size[0]]), np.array([size[1]]))[0]
        return f"crop {left},{top} {width}×{height}"

    def place(self, canvas: Canvas, draw: Draw) -> Canvas:
        box = self.box(draw, canvas.height, canvas.width)
        part = canvas.crop(box[:, 0], box[:, 1], box[:, 2], box[:, 3])
        return part.resize(*_all(canvas, self._fixed), self._resample)

    def size_after(self, size: tuple[int, int] | None) -> tuple[int, int] | None:
        return self._fixed


def _only_antialiased(where: str, antialias: bool | None) -> None:
    if antialias is False:
        raise checks.invalid(
            where, "antialias", "True", antialias, 'Use interpolation="nearest" for plain sampling.'
        )


@dataclass(frozen=True)
class Resize(Geometric):
    """The whole image at another size, anti-aliased.

    Args:    size: a number for the shorter side (the ratio is kept), or (height, width)
             max_size: with one number, the most the longer side may have
    Raises:  ValueError: a size < 1, max_size <= size
    Example: >>> Compose([Resize(256), CenterCrop(224)])
    """

    size: int | Sequence[int]
    interpolation: object = "bilinear"
    max_size: int | None = None
    antialias: bool = True
    kind: ClassVar[Kind] = "resize"

    def __post_init__(self) -> None:
        _pair("Resize", "size", self.size)
        canvases.interpolation("Resize", self.interpolation)
        _only_antialiased("Resize", self.antialias)
        if self.max_size is not None and not (
            isinstance(self.size, int) and self.max_size > self.size
        ):
            raise checks.invalid(
                "Resize", "max_size", "above size, and size one number", self.max_size,
                "Leave max_size out, or raise it.",
            )  # fmt: skip

    @cached_property
    def _fixed(self) -> tuple[int, int]:
        return _pair("Resize", "size", self.size)

    @cached_property
    def _resample(self) -> Interpolation:
        return canvases.interpolation("Resize", self.interpolation)

    def place(self, canvas: Canvas, draw: Draw) -> Canvas:
        if isinstance(self.size, int) or len(self.size) == 1:
            short = np.minimum(canvas.height, canvas.width)
            long = np.maximum(canvas.height, canvas.width)
            # Whole-number division as int(size * long / short) does it in torchvision.
            new_short = np.full_like(short, self._fixed[0])
            new_long = (new_short * long / np.maximum(short, 1)).astype(np.int64)
            if self.max_size is not None:
                over = new_long > self.max_size
                shrunk = (self.max_size * new_short / np.maximum(new_long, 1)).astype(np.int64)
                new_short = np.where(over, np.maximum(shrunk, 1), new_short)
                new_long = np.where(over, self.max_size, new_long)
            tall = canvas.height >= canvas.width
            height, width = np.where(tall, new_long, new_short), np.where(tall, new_short, new_long)
        else:
            height, width = _all(canvas, self._fixed)
        return canvas.resize(height, width, self._resample)

    def size_after(self, size: tuple[int, int] | None) -> tuple[int, int] | None:
        if not isinstance(self.size, int) and len(self.size) == 2:
            return self._fixed
        if size is None:
            return None
        after = self.place(Canvas.of(np.array([size], dtype=np.int64)), {})
        return int(after.height[0]), int(after.width[0])


@dataclass(frozen=True)
class CenterCrop(Geometric):
    """The middle of the image; where it is too small, with a border of zeros.

    Example: >>> CenterCrop(224)
    """

    size: int | Sequence[int]

    def __post_init__(self) -> None:
        _pair("CenterCrop", "size", self.size)

    @cached_property
    def _fixed(self) -> tuple[int, int]:
        return _pair("CenterCrop", "size", self.size)

    @cached_property
    def outside(self) -> Padding | None:
        return Padding()

    def place(self, canvas: Canvas, draw: Draw) -> Canvas:
        height, width = self._fixed
        top, left = _middle(canvas.height, height), _middle(canvas.width, width)
        return canvas.crop(top, left, *_all(canvas, self._fixed))

    def size_after(self, size: tuple[int, int] | None) -> tuple[int, int] | None:
        return self._fixed


def _middle(size: Counts, part: int) -> Counts:
    # As torchvision: half rounds to even where the part is smaller, and where it is larger the
    # lesser half of the border comes first.
    inside = np.rint((size - part) / 2).astype(np.int64)
    return np.where(size < part, -((part - size) // 2), inside)


@dataclass(frozen=True)
class RandomCrop(Geometric):
    """A part of fixed size at a random place, of the image with an optional border.

    Args:    size: of the part, a number or (height, width)
             padding: border added first: one number, (left and right, top and bottom) or
             (left, top, right, bottom)
             pad_if_needed: widen the border until the part fits
             fill: of a constant border, on the scale 0 .. 255
             padding_mode: "constant", "edge", "reflect" or "symmetric"
    Raises:  ValueError: a part larger than the image with its border
    Example: >>> RandomCrop(32, padding=4)
    """

    size: int | Sequence[int]
    padding: int | Sequence[int] | None = None
    pad_if_needed: bool = False
    fill: float | tuple[float, ...] = 0
    padding_mode: str = "constant"

    def __post_init__(self) -> None:
        _pair("RandomCrop", "size", self.size)
        _sides("RandomCrop", self.padding)
        canvases.padding("RandomCrop", self.padding_mode, self.fill)

    @cached_property
    def _fixed(self) -> tuple[int, int]:
        return _pair("RandomCrop", "size", self.size)

    @cached_property
    def _border(self) -> tuple[int, int, int, int]:
        return _sides("RandomCrop", self.padding)

    @property
    def num_numbers(self) -> int:
        return 2

    @cached_property
    def outside(self) -> Padding | None:
        if self.padding is None and not self.pad_if_needed:
            return None
        return canvases.padding("RandomCrop", self.padding_mode, self.fill)

    def draw(self, numbers: Floats, key: Key) -> Draw:
        return {"position": torch.from_numpy(numbers.astype(np.float64))}

    def place(self, canvas: Canvas, draw: Draw) -> Canvas:
        height, width = self._fixed
        left, top, right, bottom = self._border
        if self.pad_if_needed:
            down = np.maximum(height - (canvas.height + top + bottom), 0)
            across = np.maximum(width - (canvas.width + left + right), 0)
            padded = canvas.pad(left + across, top + down, right + across, bottom + down)
        else:
            padded = canvas.pad(left, top, right, bottom)
        room = np.empty((2, len(canvas)), dtype=np.int64)  # places of the corner, down and across
        room[0], room[1] = padded.height - (height - 1), padded.width - (width - 1)
        if (room < 1).any():
            first = int((room < 1).any(0).argmax())
            raise checks.invalid(
                "RandomCrop", "size", "at most the size of each image with its padding",
                f"{height} x {width} for {padded.height[first]} x {padded.width[first]}",
                "Give pad_if_needed=True or a larger padding, or put Resize before it.",
            )  # fmt: skip
        down, across = (draw["position"].numpy().T * room).astype(np.int64)
        return padded.crop(down, across, *_all(canvas, self._fixed))

    def size_after(self, size: tuple[int, int] | None) -> tuple[int, int] | None:
        return self._fixed

    def describe(self, draw: Draw, image: int, size: tuple[int, int] | None) -> str:
        across, down = draw["position"][image, 1], draw["position"][image, 0]
        return f"crop at {across:.0%} across, {down:.0%} down"


def _sides(where: str, value: int | Sequence[int] | None) -> tuple[int, int, int, int]:
    numbers = [0] if value is None else [value] if isinstance(value, int) else list(value)
    if len(numbers) not in (1, 2, 4) or any(not isinstance(n, int) or n < 0 for n in numbers):
        raise checks.invalid(
            where, "padding", "1, 2 or 4 whole numbers >= 0", value,
            "Give one number for all sides, or (left, top, right, bottom).",
        )  # fmt: skip
    left, top = numbers[0], numbers[1 % len(numbers)]
    return left, top, numbers[2 % len(numbers)], numbers[3 % len(numbers)]


@dataclass(frozen=True)
class PadTo(Geometric):
    """A border that brings the image to a size, the image in the middle; a larger side stays.

    Example: >>> PadTo(256)
    """

    size: int | Sequence[int]
    fill: float | tuple[float, ...] = 0
    padding_mode: str = "constant"

    def __post_init__(self) -> None:
        _pair("PadTo", "size", self.size)
        canvases.padding("PadTo", self.padding_mode, self.fill)

    @cached_property
    def _fixed(self) -> tuple[int, int]:
        return _pair("PadTo", "size", self.size)

    @cached_property
    def outside(self) -> Padding | None:
        return canvases.padding("PadTo", self.padding_mode, self.fill)

    def place(self, canvas: Canvas, draw: Draw) -> Canvas:
        height, width = self._fixed
        down = np.maximum(height - canvas.height, 0)
        across = np.maximum(width - canvas.width, 0)
        return canvas.pad(across // 2, down // 2, across - across // 2, down - down // 2)

    def size_after(self, size: tuple[int, int] | None) -> tuple[int, int] | None:
        if size is None:
            return None
        height, width = self._fixed
        return max(height, size[0]), max(width, size[1])
