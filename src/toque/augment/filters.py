"""Transforms that need a pixel's neighbours or the picture's statistics: each a pass of its own.

They get float32 pictures in 0 .. 1 on any device and are plain torch; each image comes out as by
torchvision's float path.

Shape letters: B images, C channels, H W height and width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from toque import checks
from toque.augment import noise
from toque.augment.arguments import check_probability
from toque.augment.transform import Draw, Filter, Floats
from toque.random import Key


def _some(images: torch.Tensor, which: torch.Tensor, changed: torch.Tensor) -> torch.Tensor:
    """The changed picture where which [B] holds."""
    return torch.where(which.to(images.device)[:, None, None, None], changed, images)


def sharpen(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Between a blurred picture (0), itself (1) and a sharpened one (2): factor [B]; border kept.

    Source: torchvision's adjust_sharpness, the kernel of Pillow's SMOOTH filter
    """
    height, width = images.shape[2:]
    if height <= 2 or width <= 2:
        return images.clone()
    # Sums of shifted views, not a convolution: those take other roads for other batch sizes.
    rows = images[:, :, :-2] + images[:, :, 1:-1]
    rows += images[:, :, 2:]
    blurred = rows[..., :-2] + rows[..., 1:-1]
    blurred += rows[..., 2:]
    blurred.add_(images[:, :, 1:-1, 1:-1], alpha=4)
    weight = factor.to(images)[:, None, None, None]
    result = images.clone()
    result[:, :, 1:-1, 1:-1].mul_(weight).add_(blurred.mul_((1 - weight) / 13))
    return result.clamp_(0, 1)


def autocontrast(images: torch.Tensor) -> torch.Tensor:
    """Each channel stretched so that its least value becomes 0 and its largest 1."""
    # Not torch.aminmax, which takes ten times as long along a dimension (torch 2.14 on a CPU).
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    flat = high == low
    low, span = torch.where(flat, 0.0, low), torch.where(flat, 1.0, high - low)
    return (images - low).div_(span).clamp_(0, 1)


def equalize(images: torch.Tensor) -> torch.Tensor:
    """Each channel's histogram of 256 levels made as even as a mapping of levels can.

    Source: Pillow's and torchvision's equalize: the last non-empty level does not count
    """
    batch, channels, height, width = images.shape
    every = torch.arange(256, device=images.device)
    levels = images.reshape(batch * channels, -1).mul(255).round_().clamp_(0, 255).long()
    counts = torch.zeros(batch * channels, 256, dtype=torch.long, device=images.device)
    one = torch.ones((), dtype=torch.long, device=images.device)
    counts.scatter_add_(1, levels, one.expand_as(levels))
    before = counts.cumsum(1) - counts
    last = counts.ne(0).long().mul(every).argmax(1, keepdim=True)
    step = (height * width - counts.gather(1, last)) // 255
    table = ((before + step // 2) // step.clamp(min=1)).clamp(0, 255)
    table = torch.where(step == 0, every, table).to(images.dtype) / 255
    return table.gather(1, levels).view(images.shape)


def blur(images: torch.Tensor, size: tuple[int, int], sigma: torch.Tensor) -> torch.Tensor:
    """Gaussian blur with a kernel of size (height, width) and sigma [B], borders mirrored."""
    batch, _, height, width = images.shape
    pad_y, pad_x = size[0] // 2, size[1] // 2
    mode = "reflect" if pad_y < height and pad_x < width else "replicate"
    padded = F.pad(images, [pad_x, pad_x, pad_y, pad_y], mode=mode)
    result = padded
    for axis, length, size_after in ((2, size[0], height), (3, size[1], width)):
        half = (length - 1) / 2
        at = torch.linspace(-half, half, length, dtype=images.dtype, device=images.device)
        weights = torch.exp(-0.5 * (at / sigma.to(images)[:, None]) ** 2)
        weights = (weights / weights.sum(1, keepdim=True)).view(batch, 1, 1, 1, length)
        # Weighted sum of shifted views, so that each image's result is its own alone.
        blurred = result.narrow(axis, 0, size_after) * weights[..., 0]
        for k in range(1, length):
            blurred += result.narrow(axis, k, size_after) * weights[..., k]
        result = blurred
    return result


@dataclass(frozen=True)
class RandomAdjustSharpness(Filter):
    """Sharpened (factor above 1) or blurred (below 1), with probability p.

    Example: >>> RandomAdjustSharpness(2)
    """

    sharpness_factor: float
    p: float = 0.5

    def __post_init__(self) -> None:
        check_probability("RandomAdjustSharpness", self.p)
        if not 0 <= self.sharpness_factor < math.inf:
            raise checks.invalid(
                "RandomAdjustSharpness", "sharpness_factor", ">= 0", self.sharpness_factor,
                "Give 2 to sharpen or 0 to blur.",
            )  # fmt: skip

    @property
    def num_numbers(self) -> int:
        return 1

    def draw(self, numbers: Floats, key: Key) -> Draw:
        return {"sharpen": torch.from_numpy(numbers[:, 0] < self.p)}

    def filter(self, images: torch.Tensor, draw: Draw) -> torch.Tensor:
        factor = torch.full((len(images),), float(self.sharpness_factor))
        return _some(images, draw["sharpen"], sharpen(images, factor))

    def describe(self, draw: Draw, image: int, size: tuple[int, int] | None) -> str:
        return f"sharpness ×{self.sharpness_factor:g}" if draw["sharpen"][image] else ""


@dataclass(frozen=True)
class RandomAutocontrast(Filter):
    """Each channel stretched over the whole range, with probability p."""

    p: float = 0.5

    def __post_init__(self) -> None:
        check_probability("RandomAutocontrast", self.p)

    @property
    def num_numbers(self) -> int:
        return 1

    def draw(self, numbers: Floats, key: Key) -> Draw:
        return {"stretch": torch.from_numpy(numbers[:, 0] < self.p)}

    def filter(self, images: torch.Tensor, draw: Draw) -> torch.Tensor:
        return _some(images, draw["stretch"], autocontrast(images))

    def describe(self, draw: Draw, image: int, size: tuple[int, int] | None) -> str:
        return "contrast stretched" if draw["stretch"][image] else ""


@dataclass(frozen=True)
class RandomEqualize(Filter):
    """The histogram of each channel evened out, with probability p."""

    p: float = 0.5

    def __post_init__(self) -> None:
        check_probability("RandomEqualize", self.p)

    @property
    def num_numbers(self) -> int:
        return 1

    def draw(self, numbers: Floats, key: Key) -> Draw:
        return {"equalize": torch.from_numpy(numbers[:, 0] < self.p)}

    def filter(self, images: torch.Tensor, draw: Draw) -> torch.Tensor:
        return _some(images, draw["equalize"], equalize(images))

    def describe(self, draw: Draw, image: int, size: tuple[int, int] | None) -> str:
        return "equalized" if draw["equalize"][image] else ""


@dataclass(frozen=True)
class GaussianBlur(Filter):
    """Blurred by a Gaussian whose width is drawn for each image.

    Args:    kernel_size: odd, a number or (width, height) as in torchvision
             sigma: a number or (low, high), in pixels
    Example: >>> GaussianBlur(9, sigma=(0.1, 2.0))
    """

    kernel_size: int | Sequence[int]
    sigma: float | Sequence[float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        if any(size < 1 or size % 2 == 0 for size in self._size()):
            raise checks.invalid(
                "GaussianBlur", "kernel_size", "odd and >= 1", self.kernel_size, "Give 9."
            )
        low, high = self._sigma()
        if not 0 < low <= high:
            raise checks.invalid(
                "GaussianBlur", "sigma", "above 0, low before high", self.sigma, "Give (0.1, 2.0)."
            )

    def _size(self) -> tuple[int, int]:
        """Height and width."""
        if isinstance(self.kernel_size, int):
            return self.kernel_size, self.kernel_size
        return self.kernel_size[1], self.kernel_size[0]

    def _sigma(self) -> tuple[float, float]:
        if isinstance(self.sigma, int | float):
            return float(self.sigma), float(self.sigma)
        return float(self.sigma[0]), float(self.sigma[1])

    @property
    def num_numbers(self) -> int:
        return 1

    def draw(self, numbers: Floats, key: Key) -> Draw:
        low, high = self._sigma()
        return {"sigma": torch.from_numpy(low + numbers[:, 0].astype(np.float64) * (high - low))}

    def filter(self, images: torch.Tensor, draw: Draw) -> torch.Tensor:
        return blur(images, self._size(), draw["sigma"])

    def describe(self, draw: Draw, image: int, size: tuple[int, int] | None) -> str:
        return f"blurred {draw['sigma'][image]:.2f} px"


@dataclass(frozen=True)
class GaussianNoise(Filter):
    """Normal noise of its own added to each value.

    Args: mean, sigma: of the noise, in the range 0 .. 1 of the values
          clip: keep the result in 0 .. 1
    """

    mean: float = 0.0
    sigma: float = 0.1
    clip: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.sigma < math.inf:
            raise checks.invalid("GaussianNoise", "sigma", ">= 0", self.sigma, "Give 0.1.")

    @property
    def num_numbers(self) -> int:
        return 2

    def draw(self, numbers: Floats, key: Key) -> Draw:
        return {"noise": noise.seeds(torch.from_numpy(numbers.copy()))}

    def filter(self, images: torch.Tensor, draw: Draw) -> torch.Tensor:
        added = noise.normal(draw["noise"], images[0].numel(), images.device).view_as(images)
        result = images + added.mul_(self.sigma).add_(self.mean)
        return result.clamp_(0, 1) if self.clip else result


@dataclass(frozen=True)
class Lambda(Filter):
    """A function of your own: float32 pictures [B, C, H, W] in 0 .. 1 -> the same shape.

    It runs on the whole batch and must treat each image by itself; what it draws is outside of the
    keys, and with it the promise that the same key gives the same pixels.

    Example: >>> Lambda(lambda images: images.sqrt())
    """

    function: Callable[[torch.Tensor], torch.Tensor]

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise checks.invalid_type(
                "Lambda", "function", "callable", type(self.function).__name__, "Give a function."
            )

    def filter(self, images: torch.Tensor, draw: Draw) -> torch.Tensor:
        result = self.function(images.clone())
        if not isinstance(result, torch.Tensor) or result.shape != images.shape:
            got = list(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
            raise checks.invalid(
                "Lambda", "function", f"one that returns {list(images.shape)}", got,
                "Keep the shape; use Resize to change the size.",
            )  # fmt: skip
        return result.to(torch.float32)
