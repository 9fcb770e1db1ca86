"""What a caller asks for when data is opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from toque import checks
from toque.data.decoding import MAX_PIXELS
from toque.data.targets import Task


@dataclass(frozen=True)
class Columns:
    """Which column of a table means what; None: by the usual names.

    path:   of the image, from the table's folder
    label:  one column of words or numbers, of several labels (cat|outdoor), or of mask files; or
            several columns, each a number or a yes (1) or no (0)
    split:  train, or val (valid, validation, test)
    weight: how much the image counts, >= 0
    """

    path: str | None = None
    label: str | Sequence[str] | None = None
    split: str | None = None
    weight: str | None = None


@dataclass(frozen=True)
class Asked:
    """The arguments of `toque.data.open`, but for the data.

    Raises: ValueError: a value out of range
    """

    seed: int
    val_fraction: float
    on_bad: str
    max_pixels: int
    channels: int | None
    task: Task | None
    columns: Columns

    def __post_init__(self) -> None:
        if not 0 < self.val_fraction < 1:
            raise checks.invalid(
                "data", "val_fraction", "above 0 and below 1", self.val_fraction, "0.2 is usual."
            )
        known = ("raise", "skip")
        if self.on_bad not in known:
            raise checks.invalid(
                "data", "on_bad", " or ".join(known), self.on_bad,
                checks.nearest(self.on_bad, known),
            )  # fmt: skip
        if self.max_pixels < 1:
            raise checks.invalid(
                "data", "max_pixels", ">= 1", self.max_pixels, f"Usual is {MAX_PIXELS}."
            )
        if self.channels not in (None, 1, 3):
            raise checks.invalid("data", "channels", "1 or 3", self.channels, "Use 3 for colour.")
