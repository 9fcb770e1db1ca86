"""Line charts: rows of numbers -> the paths, ticks and sentences of one chart.

The lines are drawn in a square of 1000 x 1000 units that the page stretches to the width at hand,
with strokes that do not stretch; ticks and labels are text of the page at percentages of that
square. So a chart fills a phone and a wide screen alike, and its text has the same size on both.

Shape letters: n points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from toque.train.report.axes import compact, enclose, percent, round_ticks, tick_labels

Unit = Literal["number", "percent", "decades"]
Where = Callable[[float], str]

_SIDE = 1000.0
_BUCKETS = 400  # columns that a long curve is thinned to: about the pixels of a chart on a phone
_DOTS = 60  # a curve with more points is drawn without dots
_NOISY = 80  # a curve of more points gets a running mean on top
_Y_TICKS, _X_TICKS = 5, 4


@dataclass(frozen=True, eq=False)
class Curve:
    """Points of one line. `kind` picks its colour and stroke, for which the page has a style.

    Args:  noisy: draw a running mean on top if there are many points
    Shape: x, y float [n], x ascending; y may hold NaN and infinities, which are gaps
    """

    name: str
    kind: str
    x: np.ndarray
    y: np.ndarray
    noisy: bool = True


@dataclass(frozen=True)
class Stroke:
    """One SVG path. `pale` for single values that are drawn behind their running mean."""

    kind: str
    path: str
    pale: bool = False
    says: str = ""


@dataclass(frozen=True)
class Tick:
    """A label at a percentage of the chart's width (from the left) or height (from the top)."""

    at: float
    label: str


@dataclass(frozen=True)
class Chart:
    """All that the page needs to show one chart. `across` is what the x axis counts."""

    title: str
    across: str
    summary: str
    legend: list[tuple[str, str]]
    lines: list[Stroke]
    dots: list[Stroke]
    y_ticks: list[Tick]
    x_ticks: list[Tick]
    epoch_ticks: list[Tick]
    best: float | None
    remarks: list[str]
    best_label: str = "Best epoch"


def draw(
    title: str,
    curves: Sequence[Curve],
    images_of_epoch: tuple[np.ndarray, np.ndarray] | None = None,
    *,
    unit: Unit = "number",
    from_zero: bool = False,
    cut_spikes: bool = False,
    best_epoch: float | None = None,
    across: str = "images",
    first_decade: int | None = None,
) -> Chart | None:
    """Lay out one chart; None if no curve has a finite point.

    Args: images_of_epoch: (epochs, images seen), both ascending, for the second row of labels
          unit: how values are written; percent also keeps the axis within 0 .. 100 %, and
          decades are powers of ten
          from_zero: begin the axis at 0
          cut_spikes: let values far above all others leave the chart, and say so
          best_epoch: epoch to mark with an upright line
          across: what x counts
          first_decade: x counts decades of it from this power of ten on
    """
    curves = [curve for curve in curves if np.isfinite(curve.y).any()]
    if not curves:
        return None
    values = np.concatenate([curve.y[np.isfinite(curve.y)] for curve in curves])
    low, high, remarks = _y_range(values, unit, from_zero, cut_spikes)

    def where(x: float) -> str:
        if first_decade is None:
            return f"{compact(x)} {across}"
        return f"{across} {compact(10.0 ** (first_decade + x))}"

    right = max(float(curve.x.max()) for curve in curves) or 1.0
    lines: list[Stroke] = []
    dots: list[Stroke] = []
    for curve in curves:
        lost = int((~np.isfinite(curve.y)).sum())
        if lost:
            plural = "s" if lost > 1 else ""
            remarks.append(f"{curve.name}: {lost:,} value{plural} missing or not finite, a gap.")
        if curve.noisy and len(curve.y) > _NOISY:
            width = max(5, len(curve.y) // 60) | 1
            lines.append(Stroke(curve.kind, _path(curve.x, curve.y, right, low, high), pale=True))
            # One spike that left the chart would lift the mean of all its neighbours with it.
            mean = running_mean(np.where(curve.y <= high, curve.y, np.nan), width)
            lines.append(Stroke(curve.kind, _path(curve.x, mean, right, low, high)))
            remarks.append(f"{curve.name}: pale, each value; bold, the mean of {width} values.")
            continue
        lines.append(Stroke(curve.kind, _path(curve.x, curve.y, right, low, high)))
        if len(curve.y) <= _DOTS:
            dots += _dots(curve, right, low, high, unit, where)
    scale = 100.0 if unit == "percent" else 1.0
    sign = " %" if unit == "percent" else ""
    y_values = round_ticks(low * scale, high * scale, _Y_TICKS, integers=unit == "decades")
    x_values = round_ticks(0.0, right, _X_TICKS, integers=across in ("images", "layers"))
    if first_decade is not None:
        x_values = [float(x) for x in range(math.floor(right) + 1)]
    return Chart(
        title=title,
        across=across,
        summary=" ".join(_says(curve, unit, where) for curve in curves),
        legend=[(curve.kind, curve.name) for curve in curves],
        lines=lines,
        dots=dots,
        y_ticks=[
            Tick(_percentage(1 - (value / scale - low) / (high - low)), label + sign)
            for value, label in zip(y_values, _y_labels(y_values, unit), strict=True)
        ],
        x_ticks=[
            Tick(_percentage(value / right), label)
            for value, label in zip(x_values, _x_labels(x_values, first_decade), strict=True)
        ],
        epoch_ticks=_epoch_ticks(images_of_epoch, right),
        best=_best(images_of_epoch, best_epoch, right),
        remarks=remarks,
    )


def running_mean(y: np.ndarray, width: int) -> np.ndarray:
    """Mean of the finite values within `width` // 2 on both sides; a gap in y stays a gap.

    Shape: float [n] -> float [n]
    """
    finite = np.isfinite(y)
    half = width // 2
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, y, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    start = np.maximum(np.arange(len(y)) - half, 0)
    stop = np.minimum(np.arange(len(y)) + half + 1, len(y))
    mean = (sums[stop] - sums[start]) / np.maximum(counts[stop] - counts[start], 1)
    return np.where(finite, mean, np.nan)


def thin(x: np.ndarray, y: np.ndarray, buckets: int) -> tuple[np.ndarray, np.ndarray]:
    """At most 5 points for each of `buckets` equal parts of x: first, lowest, highest, last, a gap.

    What is left looks the same at that width: no spike and no gap is lost, unlike with every k-th
    point. Curves of up to 2 points per part stay as they are.

    Shape: float [n], [n], x ascending -> float [m], [m], m <= 5 * buckets
    """
    if len(x) <= 2 * buckets:
        return x, y
    edges = np.searchsorted(x, np.linspace(x[0], x[-1], buckets + 1)[1:-1], side="left")
    kept: set[int] = set()
    for start, stop in zip([0, *edges], [*edges, len(x)], strict=True):
        part = y[start:stop]
        finite = np.flatnonzero(np.isfinite(part))
        if finite.size:
            ends = (int(finite[0]), int(finite[-1]))
            extremes = (int(finite[part[finite].argmin()]), int(finite[part[finite].argmax()]))
            kept.update(int(start) + at for at in (*ends, *extremes))
        if finite.size < part.size:
            kept.add(int(start) + int(np.flatnonzero(~np.isfinite(part))[0]))
    order = np.array(sorted(kept))
    return x[order], y[order]


def _y_range(
    values: np.ndarray, unit: Unit, from_zero: bool, cut_spikes: bool
) -> tuple[float, float, list[str]]:
    low, high = float(values.min()), float(values.max())
    remarks = []
    if cut_spikes and len(values) >= 20:
        bottom, top = (float(value) for value in np.quantile(values, [0.02, 0.98]))
        # Three times the usual range: a curve that falls from ln K to near 0 is never cut.
        limit = top + 3 * (top - bottom)
        if high > limit > low:
            above = int((values > limit).sum())
            verb = "lies" if above == 1 else "lie"
            remarks.append(
                f"{above:,} of {len(values):,} values {verb} above, up to {compact(high)}."
            )
            high = float(values[values <= limit].max())
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0) or 1.0
    if unit == "percent" and high - low < 1e-9:
        low, high = low - 0.05, high + 0.05
    low, high = enclose(low, high, _Y_TICKS)
    if unit == "percent":
        low, high = max(low, 0.0), min(high, 1.0)
    return low, high, remarks


def _path(x: np.ndarray, y: np.ndarray, right: float, low: float, high: float) -> str:
    """Straight lines between neighbours; a point between two gaps is a line of no length, which a
    round cap shows as a dot."""
    x, y = thin(x, np.where(np.isfinite(y), np.minimum(y, high), np.nan), _BUCKETS)
    across = x / right * _SIDE
    down = (1 - (y - low) / (high - low)) * _SIDE
    finite = np.isfinite(y)
    pieces = []
    for n in np.flatnonzero(finite):
        joined = n > 0 and finite[n - 1]
        alone = not joined and (n + 1 == len(x) or not finite[n + 1])
        point = f"{across[n]:.1f} {down[n]:.1f}"
        pieces.append(f"L{point}" if joined else f"M{point}h0" if alone else f"M{point}")
    return "".join(pieces)


def _dots(
    curve: Curve, right: float, low: float, high: float, unit: Unit, where: Where
) -> list[Stroke]:
    dots = []
    for x, y in zip(curve.x, curve.y, strict=True):
        if np.isfinite(y) and y <= high:
            at = f"M{x / right * _SIDE:.1f} {(1 - (y - low) / (high - low)) * _SIDE:.1f}h0"
            says = f"{curve.name} {_text(y, unit)} at {where(x)}"
            dots.append(Stroke(curve.kind, at, says=says))
    return dots


def _text(value: float, unit: Unit) -> str:
    if unit == "decades":
        return compact(10.0**value)
    return percent(value) if unit == "percent" else compact(value)


def _x_labels(values: list[float], first_decade: int | None) -> list[str]:
    if first_decade is None:
        return tick_labels(values)
    return [f"1e{first_decade + value:.0f}" for value in values]


def _y_labels(values: list[float], unit: Unit) -> list[str]:
    if unit == "decades":
        return [f"1e{value:.0f}" for value in values]
    return tick_labels(values)


def _says(curve: Curve, unit: Unit, where: Where) -> str:
    finite = np.flatnonzero(np.isfinite(curve.y))
    x, y = curve.x[finite], curve.y[finite]
    if len(y) == 1:
        return f"{curve.name}: {_text(y[0], unit)} at {where(x[0])}."
    low, high = int(y.argmin()), int(y.argmax())
    return (
        f"{curve.name}: from {_text(y[0], unit)} to {_text(y[-1], unit)}; "
        f"lowest {_text(y[low], unit)} at {where(x[low])}, "
        f"highest {_text(y[high], unit)} at {where(x[high])}."
    )


def _epoch_ticks(scale: tuple[np.ndarray, np.ndarray] | None, right: float) -> list[Tick]:
    if scale is None or len(scale[0]) == 0:
        return []
    epochs, images = scale
    last = float(np.interp(right, images, epochs))
    whole = round_ticks(0.0, last, _X_TICKS, integers=True) if last >= 1 else [0.0]
    return [
        Tick(_percentage(float(np.interp(epoch, epochs, images)) / right), f"{epoch:.0f}")
        for epoch in whole
    ]


def _best(
    scale: tuple[np.ndarray, np.ndarray] | None, epoch: float | None, right: float
) -> float | None:
    if scale is None or epoch is None or len(scale[0]) == 0:
        return None
    return _percentage(min(1.0, float(np.interp(epoch, scale[0], scale[1])) / right))


def _percentage(share: float) -> float:
    return round(100 * share, 3)
