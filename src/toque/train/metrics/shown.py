"""How a number that an evaluation gives is read by people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from toque.train.metrics.intervals import Interval


@dataclass(frozen=True)
class Metric:
    """A number that an evaluation gives, and how people read it.

    key:    its name in metrics.jsonl
    label:  its name in a sentence
    unit:   "percent" of a share 0 .. 1, or "number"
    higher: whether more is better
    """

    key: str
    label: str
    unit: Literal["percent", "number"] = "percent"
    higher: bool = True

    def text(self, value: float) -> str:
        """ "91.20 %" or "0.3051"."""
        return f"{100 * value:.2f} %" if self.unit == "percent" else f"{value:.4g}"

    def sure(self, found: Interval) -> str:
        """ "91.2 % (90.0 to 92.4)" or "0.3051 (0.2811 to 0.3294)"."""
        if self.unit == "percent":
            return found.percent()
        return f"{self.text(found.value)} ({self.between(found)})"

    def between(self, found: Interval) -> str:
        """ "90.0 to 92.4 %" or "0.2811 to 0.3294"."""
        if self.unit == "percent":
            return f"{100 * found.low:.1f} to {100 * found.high:.1f} %"
        return f"{self.text(found.low)} to {self.text(found.high)}"


@dataclass(frozen=True)
class Table:
    """Columns, rows of text, and what must be said of them."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = "On the validation images."


def percent(share: float, digits: int = 1) -> str:
    """ "91.2 %", or "-" for what is not a number; never rounded up to 100 % or down to 0 %, which
    would say "always"."""
    if not math.isfinite(share):
        return "-"
    margin = 10.0**-digits
    value = round(share * 100, digits)
    if share < 1 and value >= 100:
        return f"> {100 - margin:.{digits}f} %"
    if share > 0 and value <= 0:
        return f"< {margin:.{digits}f} %"
    return f"{value:.{digits}f} %"
