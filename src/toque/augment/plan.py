"""Which transforms share a pass over the pixels.

A pass reads (crop, flip, resize, warp: one resample), then colours, then normalises, then erases. A
transform joins the pass before it unless it would have to act earlier in that order than something
already there, which starts a new pass. A flip may join late: it changes places only, so it can be
done while reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from toque import checks
from toque.augment.canvas import Kind, Padding, kind_of
from toque.augment.color import Color, Normalize, ToDtype
from toque.augment.transform import Drawing, Erasing, Filter, Geometric, Pointwise

Transform = Drawing | Normalize | ToDtype
"""Everything a pipeline is made of."""


@dataclass
class Pass:
    """The transforms of one pass, each with its number in the pipeline."""

    geometric: list[tuple[int, Geometric]] = field(default_factory=list)
    pointwise: list[tuple[int, Pointwise]] = field(default_factory=list)
    normalize: list[Normalize] = field(default_factory=list)
    erasing: list[tuple[int, Erasing, int]] = field(
        default_factory=list
    )  # and Normalizes before it
    filter: tuple[int, Filter] | None = None
    color: Color = "exact"

    @property
    def is_linear(self) -> bool:
        """Whether its colours are done by one matrix: asked for, and each transform has one."""
        return self.color == "linear" and all(t.has_matrix for _, t in self.pointwise)

    def kind(self) -> Kind:
        """The most general reading any of the transforms needs."""
        return kind_of([transform.kind for _, transform in self.geometric])

    def outside(self) -> Padding | None:
        """What stands outside the images; all transforms of the pass agree on it."""
        paddings = [transform.outside for _, transform in self.geometric]
        return next((padding for padding in paddings if padding is not None), None)

    def takes(self, transform: Transform) -> bool:
        """Whether the transform can be done in this pass without changing the result."""
        if self.filter is not None or isinstance(transform, Filter):
            return False
        if isinstance(transform, Geometric):
            return self._takes_geometric(transform)
        if isinstance(transform, Pointwise):
            return not (self.normalize or self.erasing)
        if isinstance(transform, Normalize):
            return not self.normalize
        return True

    def _takes_geometric(self, transform: Geometric) -> bool:
        if self.erasing or ((self.pointwise or self.normalize) and not transform.is_flip):
            return False
        held, wanted = self.outside(), transform.outside
        if held is not None:
            if wanted is not None and wanted != held:
                return False
            if transform.kind == "resize":  # it would blend the border into the picture
                return False
            if held.mode != "constant" and (transform.kind != "shift" or wanted is not None):
                return False
        return (
            wanted is None or wanted.mode == "constant" or self.kind() == transform.kind == "shift"
        )

    def add(self, number: int, transform: Transform) -> None:
        """Takes a transform in."""
        if isinstance(transform, Geometric):
            self.geometric.append((number, transform))
        elif isinstance(transform, Pointwise):
            self.pointwise.append((number, transform))
        elif isinstance(transform, Normalize):
            self.normalize.append(transform)
        elif isinstance(transform, Erasing):
            self.erasing.append((number, transform, len(self.normalize)))
        elif isinstance(transform, Filter):
            self.filter = (number, transform)

    def __str__(self) -> str:
        if self.filter is not None:
            return type(self.filter[1]).__name__
        stages: list[list[type]] = [
            [type(transform) for _, transform in self.geometric],
            [type(transform) for _, transform in self.pointwise],
            [type(transform) for transform in self.normalize],
            [type(transform) for _, transform, _ in self.erasing],
        ]
        reading = {
            "shift": "whole pixels", "resize": "one anti-aliased resample", "warp": "one warp"
        }[self.kind()]  # fmt: skip
        names = [", ".join(kind.__name__ for kind in stage) for stage in stages]
        if names[1] and self.is_linear:
            names[1] += " (one matrix)"
        if names[0]:
            names[0] += f" ({reading})"
        return " → ".join(name for name in names if name) or "copy"


def plan(transforms: Sequence[Transform], color: Color = "exact") -> list[Pass]:
    """The fewest passes that do the transforms in their order; at least one."""
    passes: list[Pass] = []
    for number, transform in enumerate(transforms):
        if not isinstance(transform, Transform):
            raise checks.invalid_type(
                "Compose", f"transforms[{number}]", "a transform of toque.augment",
                type(transform).__name__, "Wrap a function of tensors in augment.Lambda.",
            )  # fmt: skip
        if not passes or not passes[-1].takes(transform):
            passes.append(Pass(color=color))
        passes[-1].add(number, transform)
    if not passes or passes[-1].filter is not None:
        passes.append(Pass())  # casts to the dtype and layout of the result
    return passes
