"""Colour: operations on each pixel by itself, done exactly as torchvision does them on floats.

Every image has a chain of operations, each a code and a factor, in its own order. The chain runs on
the resampled pixels, in 0 .. 1; Normalize and the change of dtype come after it.

Shape letters: B images, C channels.
"""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, cast, get_args

import numpy as np
import torch

from toque import checks
from toque.augment.arguments import check_gray_or_rgb, check_probability
from toque.augment.transform import Draw, Floats, Integers, Pointwise
from toque.random import Key

GRAY = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green and blue


class Operation(enum.IntEnum):
    """Codes of the colour chain; the kernels share them."""

    NONE = 0
    BRIGHTNESS = 1
    CONTRAST = 2
    SATURATION = 3
    HUE = 4
    GRAYSCALE = 5
    INVERT = 6
    POSTERIZE = 7
    SOLARIZE = 8


Color = Literal["exact", "linear"]
"""exact: each operation as torchvision does it; linear: one 3 x 4 matrix for each image."""


def color(where: str, given: str) -> Color:
    """A checked Color."""
    for name in get_args(Color):
        if given == name:
            return cast(Color, name)
    raise checks.invalid(
        where, "color", "exact or linear", given, checks.nearest(str(given), get_args(Color))
    )


_FIELDS = ("brightness", "contrast", "saturation", "hue")


@dataclass(frozen=True)
class ColorJitter(Pointwise):
    """Brightness, contrast, saturation and hue changed by random amounts in random order.

    Args:    brightness, contrast, saturation: the factor is drawn from max(0, 1 - x) .. 1 + x, or
             from (low, high)
             hue: the turn of the hue is drawn from -x .. x, or from (low, high), in full turns
    Raises:  ValueError: a negative amount, hue outside -0.5 .. 0.5
    Source:  torchvision's float path, exactly: any order, HSV hue, clamped after each operation
    Example: >>> ColorJitter(0.4, 0.4, 0.4, 0.1)
    """

    brightness: float | Sequence[float] | None = None
    contrast: float | Sequence[float] | None = None
    saturation: float | Sequence[float] | None = None
    hue: float | Sequence[float] | None = None

    def __post_init__(self) -> None:
        for name in _FIELDS:
            self._interval(name)

    def _interval(self, name: str) -> tuple[float, float] | None:
        value = getattr(self, name)
        neutral, lowest, highest = (0.0, -0.5, 0.5) if name == "hue" else (1.0, 0.0, math.inf)
        if value is None:
            return None
        if isinstance(value, int | float):
            if not value >= 0:
                raise checks.invalid("ColorJitter", name, ">= 0", value, "Give 0 to switch it off.")
            low, high = neutral - value, neutral + value
            low = low if name == "hue" else max(low, 0.0)
        else:
            low, high = (float(v) for v in value)
        if not lowest <= low <= high <= highest:
            raise checks.invalid(
                "ColorJitter", name, f"an interval in {lowest} .. {highest}", value,
                "Give one amount, or (low, high).",
            )  # fmt: skip
        return None if low == high == neutral else (low, high)

    @functools.cached_property
    def _active(self) -> tuple[Integers, Floats, Floats]:
        """Code and limits of each operation that changes anything."""
        pairs = [(Operation[name.upper()], self._interval(name)) for name in _FIELDS]
        active = [(operation, *interval) for operation, interval in pairs if interval is not None]
        codes, low, high = np.array(active).reshape(-1, 3).T
        return codes.astype(np.int32), low, high

    @property
    def num_numbers(self) -> int:
        return 2 * self.num_operations

    @property
    def num_operations(self) -> int:
        return len(self._active[0])

    def draw(self, numbers: Floats, key: Key) -> Draw:
        codes, low, high = self._active
        order = np.argsort(numbers[:, : len(codes)], axis=1, kind="stable")
        factors = low + numbers[:, len(codes) :].astype(np.float64) * (high - low)
        return {"order": torch.from_numpy(order), "factor": torch.from_numpy(factors)}

    def operations(self, draw: Draw) -> tuple[Integers, Floats]:
        order = draw["order"].numpy()
        images = np.arange(len(order))[:, None]
        return self._active[0][order], draw["factor"].numpy()[images, order]

    def check_channels(self, channels: int) -> None:
        check_gray_or_rgb("ColorJitter", channels)

    def describe(self, draw: Draw, image: int, size: tuple[int, int] | None) -> str:
        codes, factors = self.operations(draw)
        return ", ".join(
            f"{Operation(code).name.lower()} {factor:+.2f}"
            if code == Operation.HUE
            else f"{Operation(code).name.lower()} ×{factor:.2f}"
            for code, factor in zip(codes[image], factors[image], strict=True)
        )


@dataclass(frozen=True)
class RandomGrayscale(Pointwise):
    """All colours replaced by their gray, with probability p; the number of channels stays."""

    p: float = 0.1

    def __post_init__(self) -> None:
        check_probability("RandomGrayscale", self.p)

    @property
    def num_numbers(self) -> int:
        return 1

    def draw(self, numbers: Floats, key: Key) -> Draw:
        return {"gray": torch.from_numpy(numbers[:, 0] < self.p)}

    def operations(self, draw: Draw) -> tuple[Integers, Floats]:
        return _some(draw["gray"], Operation.GRAYSCALE, 0.0)

    def check_channels(self, channels: int) -> None:
        check_gray_or_rgb("RandomGrayscale", channels)

    def describe(self, draw: Draw, image: int, size: tuple[int, int] | None) -> str:
        return "gray" if draw["gray"][image] else ""


@dataclass(frozen=True)
class RandomInvert(Pointwise):
    """Each value v replaced by 1 - v, with probability p."""

    p: float = 0.5

    def __post_init__(self) -> None:
        check_probability("RandomInvert", self.p)

    @property
    def num_numbers(self) -> int:
        return 1

    def draw(self, numbers: Floats, key: Key) -> Draw:
        return {"invert": torch.from_numpy(numbers[:, 0] < self.p)}

    def operations(self, draw: Draw) -> tuple[Integers, Floats]:
        return _some(draw["invert"], Operation.INVERT, 0.0)

    def describe(self, draw: Draw, image: int, size: tuple[int, int] | None) -> str:
        return "inverted" if draw["invert"][image] else ""


@dataclass(frozen=True)
class RandomPosterize(Pointwise):
    """Only the highest bits of each value kept, with probability p.

    Args: bits: 0 .. 8, how many are kept
    """

    bits: int
    p: float = 0.5
    has_matrix: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_probability("RandomPosterize", self.p)
        if not 0 <= self.bits <= 8:
            raise checks.invalid("RandomPosterize", "bits", "in 0 .. 8", self.bits, "Give 4.")

    @property
    def num_numbers(self) -> int:
        return 1

    def draw(self, numbers: Floats, key: Key) -> Draw:
        return {"posterize": torch.from_numpy(numbers[:, 0] < self.p)}

    def operations(self, draw: Draw) -> tuple[Integers, Floats]:
        return _some(draw["posterize"], Operation.POSTERIZE, float(2**self.bits))

    def describe(self, draw: Draw, image: int, size: tuple[int, int] | None) -> str:
        return f"posterized to {self.bits} bits" if draw["posterize"][image] else ""


@dataclass(frozen=True)
class RandomSolarize(Pointwise):
    """Values at or above a threshold inverted, with probability p.

    Args: threshold: on the scale 0 .. 255
    """

    threshold: float
    p: float = 0.5
    has_matrix: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_probability("RandomSolarize", self.p)
        if not 0 <= self.threshold <= 255:
            raise checks.invalid(
                "RandomSolarize", "threshold", "in 0 .. 255", self.threshold, "Give 128."
            )

    @property
    def num_numbers(self) -> int:
        return 1

    def draw(self, numbers: Floats, key: Key) -> Draw:
        return {"solarize": torch.from_numpy(numbers[:, 0] < self.p)}

    def operations(self, draw: Draw) -> tuple[Integers, Floats]:
        return _some(draw["solarize"], Operation.SOLARIZE, self.threshold / 255)

    def describe(self, draw: Draw, image: int, size: tuple[int, int] | None) -> str:
        return f"solarized above {self.threshold:g}" if draw["solarize"][image] else ""


def _some(which: torch.Tensor, code: Operation, factor: float) -> tuple[Integers, Floats]:
    codes = np.where(which.numpy(), int(code), int(Operation.NONE)).astype(np.int32)
    return codes[:, None], np.full((len(codes), 1), factor)


@functools.lru_cache(maxsize=64)
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], channels: int
) -> tuple[Floats, Floats]:
    scale = np.broadcast_to(1 / np.array(std, dtype=np.float64), channels)
    shift = np.broadcast_to(-np.array(mean, dtype=np.float64) / np.array(std), channels)
    return scale, shift


@dataclass(frozen=True)
class Normalize:
    """(value - mean) / std for each channel, of values in 0 .. 1.

    Args:    mean, std: one number, or one per channel
    Raises:  ValueError: a std that is not above 0
    Example: >>> Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    """

    mean: Sequence[float]
    std: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not len(self.mean):
            raise checks.invalid(
                "Normalize", "mean and std", "of the same length, at least 1",
                f"{len(self.mean)} and {len(self.std)}", "Give one of each per channel.",
            )  # fmt: skip
        if not all(0 < value < math.inf for value in self.std):
            raise checks.invalid(
                "Normalize", "std", "above 0", tuple(self.std), "Give 1 to leave a channel's scale."
            )

    def scale_and_shift(self, channels: int) -> tuple[Floats, Floats]:
        """What a value in 0 .. 1 is multiplied by and what is then added: [C] each."""
        if len(self.mean) not in (1, channels):
            raise checks.invalid(
                "Normalize", "mean", f"1 or {channels} numbers, as the images have {channels} "
                "channels", len(self.mean), "Give one mean and one std per channel.",
            )  # fmt: skip
        return _scale_and_shift(tuple(self.mean), tuple(self.std), channels)


@dataclass(frozen=True)
class ToDtype:
    """The dtype of the result, written as in torchvision, always with scale=True.

    Example: >>> ToDtype(torch.float32, scale=True)
    """

    dtype: torch.dtype
    scale: bool = False

    def __post_init__(self) -> None:
        if not self.scale:
            raise checks.invalid(
                "ToDtype", "scale", "True (floats are in 0 .. 1, uint8 in 0 .. 255)", self.scale,
                "Write ToDtype(dtype, scale=True).",
            )  # fmt: skip
