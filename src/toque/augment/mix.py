"""MixUp and CutMix: two images of a batch and their labels joined.

The partner of an image is its neighbour in the batch, so unlike every other transform the result
depends on which batch the image is in. How much is mixed is drawn for each image by its own key.

Shape letters: B images, C channels, H W height and width, K classes.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from toque import checks
from toque.augment import kernels
from toque.random import Key


@functools.lru_cache(maxsize=64)
def _beta_table(alpha: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Points x in 0 .. 1/2 and the distribution function of Beta(alpha, alpha) there, times two."""
    # With v = x ** alpha the density x ** (alpha - 1) (1 - x) ** (alpha - 1) dx is
    # (1 - x) ** (alpha - 1) dv / alpha, which is smooth also where alpha < 1.
    v = np.linspace(0, 0.5**alpha, 4097)
    x = v ** (1 / alpha)
    density = (1 - x) ** (alpha - 1)
    steps = (density[1:] + density[:-1]) / 2 * np.diff(v)
    total = np.concatenate([[0.0], np.cumsum(steps)])
    return x, total / total[-1]


def beta(numbers: npt.NDArray[np.floating], alpha: float) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1) -> draws of Beta(alpha, alpha), by inverting its distribution function."""
    x, distribution = _beta_table(float(alpha))
    drawn = np.asarray(numbers, dtype=np.float64)
    upper = drawn >= 0.5
    half = np.interp(2 * np.where(upper, 1 - drawn, drawn), distribution, x)
    result: npt.NDArray[np.float64] = np.where(upper, 1 - half, half)
    return result


def _check(where: str, alpha: float, num_classes: int) -> None:
    if not 0 < alpha < np.inf:
        raise checks.invalid(where, "alpha", "above 0", alpha, "Give 0.2 for MixUp, 1 for CutMix.")
    if num_classes < 1:
        raise checks.invalid(where, "num_classes", ">= 1", num_classes, "Give their number.")


def _soft(
    where: str, images: torch.Tensor, labels: torch.Tensor, key: Key, num_classes: int
) -> torch.Tensor:
    if images.ndim != 4 or not images.dtype.is_floating_point:
        raise checks.invalid(
            where, "images", "float [B, C, H, W]", f"{images.dtype} {list(images.shape)}",
            "Mix after Compose.",
        )  # fmt: skip
    if len(labels) != len(images) or len(key) != len(images):
        raise checks.invalid(
            where, "labels and key", f"for {len(images)} images", f"{len(labels)} and {len(key)}",
            "Give one label and one index per image.",
        )  # fmt: skip
    if labels.ndim == 2 and labels.shape[1] == num_classes:
        return labels.to(torch.float32)
    if labels.ndim != 1 or labels.dtype.is_floating_point:
        raise checks.invalid(
            where, "labels", f"class numbers [B] or probabilities [B, {num_classes}]",
            f"{labels.dtype} {list(labels.shape)}", "Convert them first.",
        )  # fmt: skip
    return torch.nn.functional.one_hot(labels.long(), num_classes).to(torch.float32)


@dataclass(frozen=True)
class MixUp:
    """Each image and its label blended with those of the next image in the batch.

    Shape:   images [B, C, H, W], labels [B] or [B, K] -> images of the same shape, targets [B, K]
    Dtype:   images float, labels int64 or float32 -> images as given, targets float32
    Args:    num_classes: K
             alpha: the share kept is drawn from Beta(alpha, alpha), for each image
    Raises:  ValueError: alpha <= 0, labels of another shape
    Source:  Zhang 2017, arXiv:1710.09412; one draw per image where torchvision has one per batch
    Example: >>> images, targets = MixUp(num_classes=10)(images, labels, key=key)
    """

    num_classes: int
    alpha: float = 0.2

    def __post_init__(self) -> None:
        _check("MixUp", self.alpha, self.num_classes)

    def draw(self, key: Key) -> torch.Tensor:
        """The share of its own that each image keeps: float32 [B]."""
        numbers = key.uniforms({"augment/MixUp": 1}, kernels.sweep())["augment/MixUp"]
        shares = beta(numbers[:, 0], self.alpha)
        return torch.from_numpy(shares.astype(np.float32))

    def __call__(
        self, images: torch.Tensor, labels: torch.Tensor, *, key: Key
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mixed images and soft targets."""
        targets = _soft("MixUp", images, labels, key, self.num_classes)
        share = self.draw(key).to(images.device)
        kept = share.to(images.dtype)[:, None, None, None]
        mixed = images * kept + images.roll(-1, 0) * (1 - kept)
        weight = share.to(targets.device)[:, None]
        return mixed, targets * weight + targets.roll(-1, 0) * (1 - weight)


@dataclass(frozen=True)
class CutMix:
    """A rectangle of each image replaced by that of the next in the batch, labels in proportion.

    Shape:   images [B, C, H, W], labels [B] or [B, K] -> images of the same shape, targets [B, K]
    Dtype:   images float, labels int64 or float32 -> images as given, targets float32
    Args:    num_classes: K
             alpha: the area kept is drawn from Beta(alpha, alpha), for each image
    Raises:  ValueError: alpha <= 0, labels of another shape
    Source:  Yun 2019, arXiv:1905.04899; one draw per image where torchvision has one per batch
    Example: >>> images, targets = CutMix(num_classes=10)(images, labels, key=key)
    """

    num_classes: int
    alpha: float = 1.0

    def __post_init__(self) -> None:
        _check("CutMix", self.alpha, self.num_classes)

    def draw(self, key: Key) -> dict[str, torch.Tensor]:
        """Share kept and centre of the rectangle in parts of the image: [B] and [B, 2]."""
        numbers = key.uniforms({"augment/CutMix": 3}, kernels.sweep())["augment/CutMix"]
        return {
            "share": torch.from_numpy(beta(numbers[:, 0], self.alpha)),
            "centre": torch.from_numpy(numbers[:, 1:].astype(np.float64)),
        }

    def rectangles(self, key: Key, height: int, width: int) -> torch.Tensor:
        """Top, left, bottom, right of the part that is replaced: int64 [B, 4]."""
        draw = self.draw(key)
        half = 0.5 * (1 - draw["share"]).sqrt()
        edges = []
        for at, length in ((draw["centre"][:, 0], height), (draw["centre"][:, 1], width)):
            middle = (at * length).floor()
            reach = (half * length).floor()
            edges.append(((middle - reach).clamp(0, length), (middle + reach).clamp(0, length)))
        (top, bottom), (left, right) = edges
        return torch.stack([top, left, bottom, right], dim=1).long()

    def __call__(
        self, images: torch.Tensor, labels: torch.Tensor, *, key: Key
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mixed images and soft targets."""
        targets = _soft("CutMix", images, labels, key, self.num_classes)
        height, width = images.shape[2:]
        boxes = self.rectangles(key, height, width)
        top, left, bottom, right = boxes.to(images.device)[:, :, None, None].unbind(1)
        rows = torch.arange(height, device=images.device)[:, None]
        columns = torch.arange(width, device=images.device)[None, :]
        cut = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
        mixed = torch.where(cut[:, None], images.roll(-1, 0), images)
        # The label follows the pixels that were really replaced, not the area drawn.
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        kept = (1 - area.float() / (height * width)).to(targets.device)[:, None]
        return mixed, targets * kept + targets.roll(-1, 0) * (1 - kept)
