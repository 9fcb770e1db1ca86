"""Rotation, affine and perspective: each a matrix, read with everything before it in one resample.

Shape letters: B images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch

from toque import checks
from toque.augment import canvas as canvases
from toque.augment.arguments import check_probability, check_warp_interpolation
from toque.augment.canvas import Canvas, Counts, Interpolation, Kind, Matrices, Padding
from toque.augment.transform import Draw, Floats, Geometric
from toque.random import Key


def _interval(
    where: str, argument: str, value: float | Sequence[float], num: tuple[int, ...] = (2,)
) -> tuple[float, ...]:
    """One number as (-number, number), or the numbers themselves, in ascending pairs."""
    if isinstance(value, int | float):
        if not value >= 0:
            raise checks.invalid(
                where, argument, ">= 0 as a single number", value, "Give (low, high) instead."
            )
        return -float(value), float(value)
    numbers = tuple(float(number) for number in value)
    ordered = all(low <= high for low, high in zip(numbers[::2], numbers[1::2], strict=False))
    if len(numbers) not in num or not ordered:
        raise checks.invalid(
            where, argument, f"1 or {' or '.join(map(str, num))} numbers, low before high", value,
            "Give (low, high).",
        )  # fmt: skip
    return numbers


def _about(canvas: Canvas, linear: Matrices, center: Sequence[float] | None) -> Matrices:
    """A matrix [B, 3, 3] made to act about a point (x, y): the middle unless given."""
    if center is None:
        x, y = canvas.width / 2, canvas.height / 2
    else:
        x, y = np.full(len(canvas), center[0]), np.full(len(canvas), center[1])
    result = linear.copy()
    result[:, 0, 2] += x - linear[:, 0, 0] * x - linear[:, 0, 1] * y
    result[:, 1, 2] += y - linear[:, 1, 0] * x - linear[:, 1, 1] * y
    return result


@dataclass(frozen=True)
class RandomRotation(Geometric):
    """The picture turned counter-clockwise by a random angle.

    Args:    degrees: the angle is drawn from -x .. x, or from (low, high)
             interpolation: "nearest" as in torchvision, or "bilinear"; where a resize shares the
             pass, the resample is bilinear in any case
             expand: enlarge the result until nothing is cut off
             center: (x, y) in pixels, the middle unless given
             fill: of the corners, on the scale 0 .. 255
    Raises:  ValueError: a negative single angle, bicubic interpolation
    Example: >>> RandomRotation(15, interpolation="bilinear")
    """

    degrees: float | Sequence[float]
    interpolation: object = "nearest"
    expand: bool = False
    center: Sequence[float] | None = None
    fill: float | tuple[float, ...] = 0
    kind: ClassVar[Kind] = "warp"

    def __post_init__(self) -> None:
        _interval("RandomRotation", "degrees", self.degrees)
        check_warp_interpolation("RandomRotation", self.interpolation)

    @property
    def num_numbers(self) -> int:
        return 1

    @cached_property
    def _resample(self) -> Interpolation:
        return canvases.interpolation("RandomRotation", self.interpolation)

    @cached_property
    def outside(self) -> Padding | None:
        return canvases.padding("RandomRotation", "constant", self.fill)

    def draw(self, numbers: Floats, key: Key) -> Draw:
        low, high = _interval("RandomRotation", "degrees", self.degrees)
        return {"degrees": torch.from_numpy(low + numbers[:, 0].astype(np.float64) * (high - low))}

    def place(self, canvas: Canvas, draw: Draw) -> Canvas:
        angle = np.deg2rad(draw["degrees"].numpy())
        cosine, sine = np.cos(angle), np.sin(angle)
        linear = _linear(cosine, -sine, sine, cosine)
        step = _about(canvas, linear, self.center)
        height, width = canvas.height, canvas.width
        if self.expand:
            wide = np.abs(cosine) * width + np.abs(sine) * height
            tall = np.abs(sine) * width + np.abs(cosine) * height
            width, height = _covering(width, wide), _covering(height, tall)
            grown = np.stack([(canvas.width - width) / 2, (canvas.height - height) / 2], axis=1)
            step[:, :2, 2] += np.einsum("bij,bj->bi", linear[:, :2, :2], grown)
        return canvas.warp(step, self._resample, height, width)

    def size_after(self, size: tuple[int, int] | None) -> tuple[int, int] | None:
        return None if self.expand else size

    def describe(self, draw: Draw, image: int, size: tuple[int, int] | None) -> str:
        return f"turned {draw['degrees'][image]:+.1f}°"


def _covering(size: Counts, needed: Floats) -> Counts:
    """Whole pixels that cover a length laid about the middle of the old size, as torchvision's."""
    # The tolerance keeps a turn by 90 degrees from growing a row of nothing.
    high = np.ceil((size + needed) / 2 - 1e-4)
    low = np.floor((size - needed) / 2 + 1e-4)
    return (high - low).astype(np.int64)


def _linear(xx: Floats, xy: Floats, yx: Floats, yy: Floats) -> Matrices:
    matrix = np.zeros((len(xx), 3, 3))
    matrix[:, 0, 0], matrix[:, 0, 1], matrix[:, 1, 0], matrix[:, 1, 1] = xx, xy, yx, yy
    matrix[:, 2, 2] = 1
    return matrix


@dataclass(frozen=True)
class RandomAffine(Geometric):
    """Rotation, translation, scale and shear, each drawn for itself.

    Args:    degrees: of rotation, clockwise as in torchvision; one number or (low, high)
             translate: largest shift as parts of width and height
             scale: (low, high) of the magnification
             shear: degrees along x, one number or (low, high), and along y with four numbers
             interpolation, fill, center: as in RandomRotation
    Raises:  ValueError: a translation outside [0, 1], a scale not above 0
    Example: >>> RandomAffine(10, translate=(0.1, 0.1), interpolation="bilinear")
    """

    degrees: float | Sequence[float]
    translate: Sequence[float] | None = None
    scale: Sequence[float] | None = None
    shear: float | Sequence[float] | None = None
    interpolation: object = "nearest"
    fill: float | tuple[float, ...] = 0
    center: Sequence[float] | None = None
    kind: ClassVar[Kind] = "warp"

    def __post_init__(self) -> None:
        _interval("RandomAffine", "degrees", self.degrees)
        check_warp_interpolation("RandomAffine", self.interpolation)
        self._shears()
        if self.translate is not None and not (
            len(self.translate) == 2 and all(0 <= part <= 1 for part in self.translate)
        ):
            raise checks.invalid(
                "RandomAffine", "translate", "two parts in [0, 1]", self.translate,
                "Give (0.1, 0.1) for a tenth of width and height.",
            )  # fmt: skip
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1]:
            raise checks.invalid(
                "RandomAffine", "scale", "(low, high) above 0", self.scale, "Give (0.9, 1.1)."
            )

    def _shears(self) -> tuple[float, float, float, float]:
        if self.shear is None:
            return 0.0, 0.0, 0.0, 0.0
        low, high, *rest = _interval("RandomAffine", "shear", self.shear, (2, 4))
        return (low, high, rest[0], rest[1]) if rest else (low, high, 0.0, 0.0)

    @property
    def num_numbers(self) -> int:
        return 6

    @cached_property
    def _resample(self) -> Interpolation:
        return canvases.interpolation("RandomAffine", self.interpolation)

    @cached_property
    def outside(self) -> Padding | None:
        return canvases.padding("RandomAffine", "constant", self.fill)

    def draw(self, numbers: Floats, key: Key) -> Draw:
        low, high = _interval("RandomAffine", "degrees", self.degrees)
        across, down = self.translate or (0.0, 0.0)
        small, large = self.scale or (1.0, 1.0)
        shears = self._shears()
        limits = np.array(
            [(low, high), (-across, across), (-down, down), (small, large), shears[:2], shears[2:]]
        )
        values = limits[:, 0] + numbers.astype(np.float64) * (limits[:, 1] - limits[:, 0])
        return {
            "degrees": torch.from_numpy(values[:, 0]),
            "translate": torch.from_numpy(values[:, 1:3]),
            "scale": torch.from_numpy(values[:, 3]),
            "shear": torch.from_numpy(values[:, 4:6]),
        }

    def place(self, canvas: Canvas, draw: Draw) -> Canvas:
        translate = draw["translate"].numpy()
        step = affine(
            canvas,
            draw["degrees"].numpy(),
            np.rint(translate[:, 0] * canvas.width),
            np.rint(translate[:, 1] * canvas.height),
            draw["scale"].numpy(),
            draw["shear"].numpy(),
            self.center,
        )
        return canvas.warp(step, self._resample, canvas.height, canvas.width)

    def describe(self, draw: Draw, image: int, size: tuple[int, int] | None) -> str:
        x, y = draw["translate"][image].tolist()
        return (
            f"turned {-draw['degrees'][image]:+.1f}°, moved {x:+.0%} {y:+.0%}, "
            f"scaled ×{draw['scale'][image]:.2f}, sheared {draw['shear'][image, 0]:+.1f}°"
        )


def affine(
    canvas: Canvas,
    degrees: Floats,
    across_px: Floats,
    down_px: Floats,
    scale: Floats,
    shear_deg: Floats,
    center: Sequence[float] | None = None,
) -> Matrices:
    """Result -> source matrices [B, 3, 3] of torchvision's affine: shear, then turn, scale, shift.

    Shape:  degrees, across_px, down_px, scale [B]; shear_deg [B, 2]
    """
    turn = np.deg2rad(degrees)
    x, y = np.deg2rad(shear_deg).T
    a = np.cos(turn - y) / np.cos(y)
    b = -np.cos(turn - y) * np.tan(x) / np.cos(y) - np.sin(turn)
    c = np.sin(turn - y) / np.cos(y)
    d = -np.sin(turn - y) * np.tan(x) / np.cos(y) + np.cos(turn)
    step = _about(canvas, _linear(d / scale, -b / scale, -c / scale, a / scale), center)
    step[:, 0, 2] -= step[:, 0, 0] * across_px + step[:, 0, 1] * down_px
    step[:, 1, 2] -= step[:, 1, 0] * across_px + step[:, 1, 1] * down_px
    return step


@dataclass(frozen=True)
class RandomPerspective(Geometric):
    """The four corners moved inwards by random amounts, with probability p.

    Args:    distortion_scale: 0 .. 1, the furthest a corner moves, in halves of the image
             p: probability
             interpolation, fill: as in RandomRotation
    Example: >>> RandomPerspective(0.3)
    """

    distortion_scale: float = 0.5
    p: float = 0.5
    interpolation: object = "bilinear"
    fill: float | tuple[float, ...] = 0
    kind: ClassVar[Kind] = "warp"

    def __post_init__(self) -> None:
        check_probability("RandomPerspective", self.p)
        check_warp_interpolation("RandomPerspective", self.interpolation)
        if not 0 <= self.distortion_scale <= 1:
            raise checks.invalid(
                "RandomPerspective", "distortion_scale", "in [0, 1]", self.distortion_scale,
                "Give 0.5.",
            )  # fmt: skip

    @property
    def num_numbers(self) -> int:
        return 9

    @cached_property
    def _resample(self) -> Interpolation:
        return canvases.interpolation("RandomPerspective", self.interpolation)

    @cached_property
    def outside(self) -> Padding | None:
        return canvases.padding("RandomPerspective", "constant", self.fill)

    def draw(self, numbers: Floats, key: Key) -> Draw:
        drawn = numbers.astype(np.float64)
        return {
            "corners": torch.from_numpy(drawn[:, :8].reshape(-1, 4, 2)),
            "warped": torch.from_numpy(drawn[:, 8] < self.p),
        }

    def place(self, canvas: Canvas, draw: Draw) -> Canvas:
        size = np.stack([canvas.width, canvas.height], axis=1)[:, None, :]
        reach = (self.distortion_scale * (size // 2)).astype(np.int64) + 1
        inwards = np.floor(draw["corners"].numpy() * reach)
        far = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
        starts = far * (size - 1.0)
        ends = starts + np.where(far == 1, -inwards, inwards)
        step = homography(ends, starts)
        step = np.where(draw["warped"].numpy()[:, None, None], step, np.eye(3))
        return canvas.warp(step, self._resample, canvas.height, canvas.width)

    def describe(self, draw: Draw, image: int, size: tuple[int, int] | None) -> str:
        return "in perspective" if draw["warped"][image] else ""


def homography(source: Floats, target: Floats) -> Matrices:
    """The matrices [B, 3, 3] that take four points [B, 4, 2] to four others."""
    x, y = source[..., 0], source[..., 1]
    u, v = target[..., 0], target[..., 1]
    zero, one = np.zeros_like(x), np.ones_like(x)
    across = np.stack([x, y, one, zero, zero, zero, -u * x, -u * y], axis=2)
    down = np.stack([zero, zero, zero, x, y, one, -v * x, -v * y], axis=2)
    system = np.concatenate([across, down], axis=1)
    # Points on one line (an image one pixel high) have no homography; least squares stays finite.
    solved = np.linalg.pinv(system) @ np.concatenate([u, v], axis=1)[:, :, None]
    return np.concatenate([solved[:, :, 0], one[:, :1]], axis=1).reshape(-1, 3, 3)
