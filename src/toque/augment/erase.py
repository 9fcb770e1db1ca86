"""Rectangles overwritten in the result: RandomErasing and Cutout.

Shape letters: B images, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from toque import checks
from toque.augment import noise
from toque.augment.arguments import check_probability
from toque.augment.parts import parts
from toque.augment.transform import Draw, Erasing, Floats, Integers
from toque.random import Key

_TRIES = 10  # as in torchvision


@dataclass(frozen=True)
class RandomErasing(Erasing):
    """A rectangle of random area and aspect ratio overwritten, with probability p.

    Args:    scale: area of the rectangle relative to the image's
             ratio: height / width, drawn evenly on a logarithmic scale
             value: a number, one per channel, or "random" for normal noise in each pixel. It is
             written at this place of the pipeline: after Normalize, 0 is the mean
    Source:  Zhong 2017, arXiv:1708.04896; torchvision's sampling: ten tries, then nothing is erased
    Example: >>> RandomErasing(p=0.25)
    """

    p: float = 0.5
    scale: Sequence[float] = (0.02, 0.33)
    ratio: Sequence[float] = (0.3, 3.3)
    value: float | Sequence[float] | str = 0.0

    def __post_init__(self) -> None:
        check_probability("RandomErasing", self.p)
        if not 0 <= self.scale[0] <= self.scale[1] <= 1:
            raise checks.invalid(
                "RandomErasing", "scale", "(low, high) in 0 .. 1", self.scale, "Give (0.02, 0.33)."
            )
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise checks.invalid(
                "RandomErasing", "ratio", "(low, high) above 0", self.ratio, "Give (0.3, 3.3)."
            )
        if isinstance(self.value, str) and self.value != "random":
            raise checks.invalid(
                "RandomErasing", "value", 'a number, one per channel, or "random"', self.value,
                "Give 0.",
            )  # fmt: skip

    @property
    def num_numbers(self) -> int:
        return 2 * _TRIES + 4 + 2 * (self.value == "random")

    @property
    def fill(self) -> tuple[float, ...] | None:
        if isinstance(self.value, str):
            return None
        return _values(self.value)

    def draw(self, numbers: Floats, key: Key) -> Draw:
        drawn = numbers.astype(np.float64)
        (low, high), (thin, thick) = self.scale, self.ratio
        log_low, log_high = math.log(thin), math.log(thick)
        ratio = np.exp(log_low + drawn[:, _TRIES : 2 * _TRIES] * (log_high - log_low))
        result = {
            "area": torch.from_numpy(low + drawn[:, :_TRIES] * (high - low)),
            "ratio": torch.from_numpy(ratio),
            "position": torch.from_numpy(drawn[:, 2 * _TRIES : 2 * _TRIES + 2]),
            "erase": torch.from_numpy(drawn[:, 2 * _TRIES + 2] < self.p),
        }
        if self.value == "random":
            result["noise"] = noise.seeds(torch.from_numpy(drawn[:, -2:].copy()))
        return result

    def rectangles(self, draw: Draw, height: Integers, width: Integers) -> Integers:
        return parts(draw, draw["erase"].numpy(), height, width, least=0, tall=True)

    def describe(self, draw: Draw, image: int, size: tuple[int, int] | None) -> str:
        return "erased" if draw["erase"][image] else ""


@dataclass(frozen=True)
class Cutout(Erasing):
    """A square of fixed size overwritten, its centre anywhere in the image.

    Args:    size: side in pixels; the part outside the image is lost, as in the paper
             value: a number or one per channel
    Source:  DeVries 2017, arXiv:1708.04552
    Example: >>> Cutout(8)
    """

    size: int
    value: float | Sequence[float] = 0.0
    p: float = 1.0

    def __post_init__(self) -> None:
        check_probability("Cutout", self.p)
        if self.size < 1:
            raise checks.invalid("Cutout", "size", ">= 1", self.size, "Give a side in pixels.")

    @property
    def num_numbers(self) -> int:
        return 3

    @property
    def fill(self) -> tuple[float, ...] | None:
        return _values(self.value)

    def draw(self, numbers: Floats, key: Key) -> Draw:
        drawn = numbers.astype(np.float64)
        return {
            "centre": torch.from_numpy(drawn[:, :2]),
            "erase": torch.from_numpy(drawn[:, 2] < self.p),
        }

    def rectangles(self, draw: Draw, height: Integers, width: Integers) -> Integers:
        size, box = np.array((height, width)), np.empty((4, len(height)), dtype=np.int64)
        low = (draw["centre"].numpy().T * size).astype(np.int64) - self.size // 2
        high = np.minimum(low + self.size, size)
        np.maximum(low, 0, out=box[:2])
        np.multiply(high - box[:2], draw["erase"].numpy(), out=box[2:])
        return box.T

    def describe(self, draw: Draw, image: int, size: tuple[int, int] | None) -> str:
        return "cut out" if draw["erase"][image] else ""


def _values(value: float | Sequence[float]) -> tuple[float, ...]:
    return tuple(value) if isinstance(value, Sequence) else (float(value),)
