"""What was found in a data set, in words and numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch

Kind = Literal[
    "unreadable", "leakage", "contradictory", "exact duplicates", "near duplicates", "suspects",
    "imbalance", "labels", "oddities", "sizes", "passed over", "parts",
]  # fmt: skip


@dataclass(frozen=True)
class Item:
    """One image of a finding: its part, its number there, its name and its class."""

    part: str
    index: int
    name: str
    label: str

    def __str__(self) -> str:
        return f"{self.part}: {self.name}" if self.part != "all" else self.name


@dataclass(frozen=True)
class Finding:
    """Something about the data.

    kind:    what
    problem: whether it should stop a training: these make toque check end with 1
    says:    one sentence with the number, and what to do
    groups:  the images: one each, or those that belong together
    remarks: of each group, where there is something to say
    """

    kind: Kind
    problem: bool
    says: str
    groups: tuple[tuple[Item, ...], ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """The numbers of one part of the data.

    classes:        images of each class
    height, width:  least, median and greatest
    """

    name: str
    num_images: int
    classes: dict[str, int]
    height: tuple[int, int, int]
    width: tuple[int, int, int]


@dataclass(frozen=True)
class Findings:
    """All that a check found.

    data:      what was looked at
    findings:  the most serious first
    parts:     in numbers
    mean, std: of each channel over the training images, each counted alike, in 0 .. 1
    seconds:   it took
    read:      gives the image of an item, uint8 [C, H, W]
    """

    data: str
    findings: tuple[Finding, ...]
    parts: tuple[Part, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    seconds: float
    read: Callable[[Item], torch.Tensor] = field(repr=False, compare=False)

    def with_finding(self, more: Finding, read: Callable[[Item], torch.Tensor]) -> Findings:
        """These and one more, whose images another function gives."""
        theirs = {(item.part, item.index) for group in more.groups for item in group}

        def either(item: Item) -> torch.Tensor:
            return read(item) if (item.part, item.index) in theirs else self.read(item)

        return replace(self, findings=(*self.findings, more), read=either)

    @property
    def problems(self) -> tuple[Finding, ...]:
        """Those that should stop a training."""
        return tuple(finding for finding in self.findings if finding.problem)

    @property
    def clean(self) -> bool:
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "clean": self.clean,
            "data": self.data,
            "findings": [asdict(finding) for finding in self.findings],
            "parts": [asdict(part) for part in self.parts],
            "mean": self.mean,
            "std": self.std,
            "seconds": round(self.seconds, 3),
        }
