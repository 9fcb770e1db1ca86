"""Other transforms for some of the images: with a probability, or one of several.

The chosen images go through a pipeline of their own, so each image still has its own draw.

Shape letters: B images, n numbers per image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from toque import checks
from toque.augment.arguments import check_probability
from toque.augment.plan import Transform
from toque.augment.transform import Draw, Filter, Floats, Geometric, Integers, Pointwise
from toque.random import Key


def _check(where: str, transforms: Sequence[Transform]) -> None:
    if not transforms:
        raise checks.invalid(where, "transforms", "at least one", 0, "Leave it out.")
    for transform in transforms:
        if not isinstance(transform, Geometric | Pointwise | Filter):
            raise checks.invalid_type(
                where, "transforms", "crops, flips, warps, colours or filters",
                type(transform).__name__, "Put it beside this transform, in Compose.",
            )  # fmt: skip


def _draw(transforms: Sequence[Transform], numbers: Floats, key: Key) -> dict[str, torch.Tensor]:
    """The draws of several transforms in one mapping, under names like "0.angle"."""
    result: dict[str, torch.Tensor] = {}
    used = 0
    for number, transform in enumerate(transforms):
        assert isinstance(transform, Geometric | Pointwise | Filter)
        mine = numbers[:, used : used + transform.num_numbers]
        used += transform.num_numbers
        for name, values in transform.draw(mine, key).items():
            result[f"{number}.{name}"] = values
    return result


def _apply(
    where: str, transforms: Sequence[Transform], images: torch.Tensor, draw: Draw, which: Integers
) -> torch.Tensor:
    """The images with number in which [n] through the transforms, the others as they are."""
    from toque.augment.compose import Compose
    from toque.augment.parameters import Parameters

    if not len(which):
        return images
    chosen = torch.from_numpy(which)
    draws: list[dict[str, torch.Tensor]] = [{} for _ in transforms]
    for name, values in draw.items():
        number, _, field = name.partition(".")
        if field:
            draws[int(number)][field] = values[chosen]
    pipeline = Compose(transforms)
    there = chosen.to(images.device)
    changed = pipeline.apply(images[there], Parameters(len(which), tuple(draws)))
    if changed.shape[2:] != images.shape[2:]:
        raise checks.invalid(
            where, "transforms", "ones that keep the size", f"{list(images.shape[2:])} -> "
            f"{list(changed.shape[2:])}", "Put the crop or resize beside it, in Compose.",
        )  # fmt: skip
    return images.index_copy(0, there, changed)


class _OfTransforms(Filter):
    """Does transforms to some of the images."""

    transforms: Sequence[Transform]

    @property
    def moves_pixels(self) -> bool:
        return any(
            isinstance(transform, Geometric)
            or (isinstance(transform, Filter) and transform.moves_pixels)
            for transform in self.transforms
        )

    @property
    def num_numbers(self) -> int:
        """One says what is done; each transform has its own."""
        return 1 + sum(
            transform.num_numbers
            for transform in self.transforms
            if isinstance(transform, Geometric | Pointwise | Filter)
        )

    def check_channels(self, channels: int) -> None:
        for transform in self.transforms:
            if isinstance(transform, Pointwise | Filter):
                transform.check_channels(channels)


@dataclass(frozen=True)
class RandomApply(_OfTransforms):
    """Transforms done to an image with probability p, or not at all.

    Example: >>> RandomApply([GaussianBlur(9)], p=0.5)
    """

    transforms: Sequence[Transform]
    p: float = 0.5

    def __post_init__(self) -> None:
        check_probability("RandomApply", self.p)
        _check("RandomApply", self.transforms)

    def draw(self, numbers: Floats, key: Key) -> Draw:
        done = torch.from_numpy(numbers[:, 0] < self.p)
        return {"apply": done, **_draw(self.transforms, numbers[:, 1:], key)}

    def filter(self, images: torch.Tensor, draw: Draw) -> torch.Tensor:
        which = np.flatnonzero(draw["apply"].numpy())
        return _apply("RandomApply", self.transforms, images, draw, which)

    def describe(self, draw: Draw, image: int, size: tuple[int, int] | None) -> str:
        if not draw["apply"][image]:
            return ""
        return " and ".join(type(transform).__name__ for transform in self.transforms)


@dataclass(frozen=True)
class RandomChoice(_OfTransforms):
    """One of several transforms done to each image.

    Args:    p: weight of each transform, all alike unless given
    Example: >>> RandomChoice([RandomRotation(30), RandomPerspective(p=1.0)])
    """

    transforms: Sequence[Transform]
    p: Sequence[float] | None = None

    def __post_init__(self) -> None:
        _check("RandomChoice", self.transforms)
        if self.p is not None and (
            len(self.p) != len(self.transforms) or min(self.p) < 0 or not sum(self.p) > 0
        ):
            raise checks.invalid(
                "RandomChoice", "p", f"{len(self.transforms)} weights >= 0", self.p,
                "Give one weight per transform.",
            )  # fmt: skip

    def draw(self, numbers: Floats, key: Key) -> Draw:
        weights = np.ones(len(self.transforms)) if self.p is None else np.array(self.p, float)
        edges = np.cumsum(weights / weights.sum())
        chosen = np.minimum(np.searchsorted(edges, numbers[:, 0], side="right"), len(edges) - 1)
        return {"chosen": torch.from_numpy(chosen), **_draw(self.transforms, numbers[:, 1:], key)}

    def filter(self, images: torch.Tensor, draw: Draw) -> torch.Tensor:
        chosen = draw["chosen"].numpy()
        for number, transform in enumerate(self.transforms):
            prefix = f"{number}."
            mine = {
                "0." + name.removeprefix(prefix): values
                for name, values in draw.items()
                if name.startswith(prefix)
            }
            which = np.flatnonzero(chosen == number)
            images = _apply("RandomChoice", [transform], images, mine, which)
        return images

    def describe(self, draw: Draw, image: int, size: tuple[int, int] | None) -> str:
        return type(self.transforms[int(draw["chosen"][image])]).__name__
