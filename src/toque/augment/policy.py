"""Policies: operations drawn from a list, with a strength on a scale. A draw of its own per image.

Shape letters: B images, n numbers per image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from toque import checks
from toque.augment import operations
from toque.augment.arguments import check_gray_or_rgb, check_warp_interpolation
from toque.augment.mix import beta
from toque.augment.operations import OPERATIONS, Scale, posterize, strengths, usual_scale
from toque.augment.transform import Draw, Filter, Floats
from toque.random import Key


class _Policy(Filter):
    """Performs the operations that were drawn, one after the other."""

    interpolation: object
    fill: float | tuple[float, ...]

    @property
    def moves_pixels(self) -> bool:
        return True

    def check_channels(self, channels: int) -> None:
        check_gray_or_rgb(type(self).__name__, channels)

    def filter(self, images: torch.Tensor, draw: Draw) -> torch.Tensor:
        return operations.perform_all(images, draw, self.interpolation, self.fill)

    def describe(self, draw: Draw, image: int, size: tuple[int, int] | None) -> str:
        return operations.describe(draw, image)


@dataclass(frozen=True)
class RandAugment(_Policy):
    """A fixed number of operations drawn evenly, all at one strength.

    Args:    num_ops: how many, one after the other
             magnitude: 0 .. num_magnitude_bins - 1
             interpolation, fill: of the geometric operations
    Source:  Cubuk 2019, arXiv:1909.13719; torchvision's list and scale
    Example: >>> RandAugment(num_ops=2, magnitude=9)
    """

    num_ops: int = 2
    magnitude: int = 9
    num_magnitude_bins: int = 31
    interpolation: object = "nearest"
    fill: float | tuple[float, ...] = 0

    def __post_init__(self) -> None:
        check_warp_interpolation("RandAugment", self.interpolation)
        if self.num_ops < 1:
            raise checks.invalid("RandAugment", "num_ops", ">= 1", self.num_ops, "Give 2.")
        if not 0 <= self.magnitude < self.num_magnitude_bins or self.num_magnitude_bins < 2:
            raise checks.invalid(
                "RandAugment", "magnitude", f"in 0 .. {self.num_magnitude_bins - 1}",
                self.magnitude, "Give 9.",
            )  # fmt: skip

    @property
    def num_numbers(self) -> int:
        return 2 * self.num_ops

    def draw(self, numbers: Floats, key: Key) -> Draw:
        scale = usual_scale(self.num_magnitude_bins)
        numbers = numbers.astype(np.float64)
        chosen_ops = (numbers[:, : self.num_ops] * len(scale)).astype(np.int64)
        steps = np.full_like(chosen_ops, self.magnitude)
        strength = strengths(scale, chosen_ops, steps, numbers[:, self.num_ops :])
        return {"operation": torch.from_numpy(chosen_ops), "strength": torch.from_numpy(strength)}


@dataclass(frozen=True)
class TrivialAugmentWide(_Policy):
    """One operation drawn evenly, at a strength drawn evenly from a wide scale.

    Source:  Müller 2021, arXiv:2103.10158, the wide space; torchvision's list and scale
    Example: >>> TrivialAugmentWide()
    """

    num_magnitude_bins: int = 31
    interpolation: object = "nearest"
    fill: float | tuple[float, ...] = 0

    def __post_init__(self) -> None:
        check_warp_interpolation("TrivialAugmentWide", self.interpolation)
        if self.num_magnitude_bins < 2:
            raise checks.invalid(
                "TrivialAugmentWide", "num_magnitude_bins", ">= 2", self.num_magnitude_bins,
                "Give 31.",
            )  # fmt: skip

    @property
    def num_numbers(self) -> int:
        return 3

    def _scale(self) -> Scale:
        up = np.linspace(0.0, 1.0, self.num_magnitude_bins)
        wide = dict.fromkeys(
            ("ShearX", "ShearY", "Brightness", "Color", "Contrast", "Sharpness"), 0.99 * up
        )
        return {
            **usual_scale(self.num_magnitude_bins),
            **wide,
            "TranslateX": 32.0 * up,
            "TranslateY": 32.0 * up,
            "Rotate": 135.0 * up,
            "Posterize": posterize(self.num_magnitude_bins, 6),
        }

    def draw(self, numbers: Floats, key: Key) -> Draw:
        scale = self._scale()
        numbers = numbers.astype(np.float64)
        chosen_ops = (numbers[:, :1] * len(scale)).astype(np.int64)
        steps = (numbers[:, 1:2] * self.num_magnitude_bins).astype(np.int64)
        strength = strengths(scale, chosen_ops, steps, numbers[:, 2:])
        return {"operation": torch.from_numpy(chosen_ops), "strength": torch.from_numpy(strength)}

    def filter(self, images: torch.Tensor, draw: Draw) -> torch.Tensor:
        return operations.perform_all(
            images, draw, self.interpolation, self.fill, translate_px=True
        )


@dataclass(frozen=True)
class AutoAugment(_Policy):
    """One of 25 pairs of operations that a search found for a dataset, each with its probability.

    Args:    policy: "imagenet", "cifar10" or "svhn"
    Source:  Cubuk 2018, arXiv:1805.09501, tables in the appendix; torchvision's scale
    Example: >>> AutoAugment("cifar10")
    """

    policy: object = "imagenet"
    interpolation: object = "nearest"
    fill: float | tuple[float, ...] = 0

    def __post_init__(self) -> None:
        check_warp_interpolation("AutoAugment", self.interpolation)
        self._pairs()

    def _pairs(self) -> Sequence[Sequence[tuple[str, float, int | None]]]:
        from toque.augment.found_policies import POLICIES

        name = getattr(self.policy, "value", self.policy)
        if name not in POLICIES:
            raise checks.invalid(
                "AutoAugment", "policy", f"one of {', '.join(POLICIES)}", name,
                checks.nearest(str(name), POLICIES),
            )  # fmt: skip
        return POLICIES[name]

    @property
    def num_numbers(self) -> int:
        return 5

    def draw(self, numbers: Floats, key: Key) -> Draw:
        pairs = self._pairs()
        numbers = numbers.astype(np.float64)
        chosen = (numbers[:, 0] * len(pairs)).astype(np.int64)
        names = np.array([[OPERATIONS.index(name) for name, _, _ in pair] for pair in pairs])
        chance = np.array([[p for _, p, _ in pair] for pair in pairs])
        steps = np.array([[step or 0 for _, _, step in pair] for pair in pairs])
        chosen_ops = np.where(numbers[:, 1:3] <= chance[chosen], names[chosen], 0)
        scale = {**usual_scale(10), "Invert": None}
        strength = strengths(scale, chosen_ops, steps[chosen], numbers[:, 3:5])
        return {"operation": torch.from_numpy(chosen_ops), "strength": torch.from_numpy(strength)}


@dataclass(frozen=True)
class AugMix(_Policy):
    """Several chains of operations blended with each other and with the image itself.

    Args:    severity: 1 .. 10, the strongest step of the scale
             mixture_width: number of chains
             chain_depth: operations in a chain; -1 draws 1 .. 3 for each
             alpha: of the Dirichlet and Beta distributions of the weights
             all_ops: with brightness, colour, contrast and sharpness
    Source:  Hendrycks 2019, arXiv:1912.02781; torchvision's list and scale
    Example: >>> AugMix()
    """

    severity: int = 3
    mixture_width: int = 3
    chain_depth: int = -1
    alpha: float = 1.0
    all_ops: bool = True
    interpolation: object = "bilinear"
    fill: float | tuple[float, ...] = 0

    def __post_init__(self) -> None:
        check_warp_interpolation("AugMix", self.interpolation)
        if not 1 <= self.severity <= 10:
            raise checks.invalid("AugMix", "severity", "in 1 .. 10", self.severity, "Give 3.")
        if self.mixture_width < 1 or self.chain_depth == 0 or not self.alpha > 0:
            raise checks.invalid(
                "AugMix", "mixture_width, chain_depth and alpha", ">= 1, not 0 and above 0",
                (self.mixture_width, self.chain_depth, self.alpha), "Give 3, -1 and 1.0.",
            )  # fmt: skip

    @property
    def _depth(self) -> int:
        return self.chain_depth if self.chain_depth > 0 else 3

    @property
    def num_numbers(self) -> int:
        return 1 + self.mixture_width * (2 + 3 * self._depth)

    def _scale(self) -> dict[str, npt.NDArray[np.float64] | None]:
        up = np.linspace(0.0, 1.0, 10)
        scale = usual_scale(10)
        # Fewer bits than in the other policies: from 4 down to 0.
        scale |= {"TranslateX": up / 3, "TranslateY": up / 3, "Posterize": posterize(10, 4) - 4}
        del scale["Identity"]
        if not self.all_ops:
            for name in ("Brightness", "Color", "Contrast", "Sharpness"):
                del scale[name]
        return scale

    def draw(self, numbers: Floats, key: Key) -> Draw:
        width, depth, scale = self.mixture_width, self._depth, self._scale()
        numbers = numbers.astype(np.float64)
        own, rest = (
            beta(numbers[:, 0], self.alpha),
            numbers[:, 1:].reshape(-1, width, 2 + 3 * depth),
        )
        known = np.array([OPERATIONS.index(name) for name in scale])
        chosen_ops = known[(rest[:, :, 2 : 2 + depth] * len(known)).astype(np.int64)]
        steps = (rest[:, :, 2 + depth : 2 + 2 * depth] * self.severity).astype(np.int64)
        strength = strengths(scale, chosen_ops, steps, rest[:, :, 2 + 2 * depth :])
        if self.chain_depth < 0:
            length = 1 + (rest[:, :, 1] * 3).astype(np.int64)
            chosen_ops = np.where(np.arange(depth) < length[:, :, None], chosen_ops, 0)
        # Shares of a Dirichlet distribution: exact where alpha is 1, by its Gamma numbers.
        gamma = _gamma(rest[:, :, 0], self.alpha)
        share = gamma / gamma.sum(1, keepdims=True)
        return {
            "operation": torch.from_numpy(chosen_ops.reshape(-1, width * depth)),
            "strength": torch.from_numpy(strength.reshape(-1, width * depth)),
            "own": torch.from_numpy(own),
            "share": torch.from_numpy(share),
        }

    def filter(self, images: torch.Tensor, draw: Draw) -> torch.Tensor:
        chosen_ops, amounts = draw["operation"].numpy(), draw["strength"].numpy()
        own = draw["own"].to(images)[:, None, None, None]
        share = draw["share"].to(images)
        result = images * own
        for chain in range(self.mixture_width):
            mixed = images
            for step in range(chain * self._depth, (chain + 1) * self._depth):
                mixed = operations.perform(
                    mixed, chosen_ops[:, step], amounts[:, step], self.interpolation, self.fill
                )
            result += mixed * (share[:, chain, None, None, None] * (1 - own))
        return result


def _gamma(numbers: Floats, alpha: float) -> Floats:
    """Numbers in [0, 1) -> draws of Gamma(alpha), by inverting its distribution function."""
    if alpha == 1:
        return -np.log1p(-numbers)
    # On a grid in v = x ** alpha, where the density is smooth also below alpha = 1.
    v = np.linspace(0, (alpha + 12 * np.sqrt(alpha) + 12) ** alpha, 20001)
    density = np.exp(-(v ** (1 / alpha)))
    total = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return np.asarray(np.interp(numbers, total / total[-1], v) ** (1 / alpha))
