"""Scatter charts: what was predicted beside what is true, a chart for each number.

Shape letters: N images, D numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from toque.train.report.axes import compact, enclose, round_ticks, tick_labels
from toque.train.report.lines import Chart, Stroke, Tick

_SIDE = 1000.0
_MOST_CHARTS = 12
_MOST_POINTS = 2000  # more are drawn as cells, stronger where more images lie
_CELLS = 80
_WORST = 5
_TICKS = 4


def charts(
    names: Sequence[str],
    targets: npt.NDArray[np.floating],
    predictions: npt.NDArray[np.floating],
) -> list[Chart]:
    """A chart of each number, of the first twelve of many.

    Shape: names D, targets and predictions [N, D]; pairs that are not finite are left out
    """
    drawn = []
    for d, name in enumerate(names[:_MOST_CHARTS]):
        true, said = (array[:, d].astype(np.float64) for array in (targets, predictions))
        finite = np.isfinite(true) & np.isfinite(said)
        if finite.any():
            drawn.append(_chart(name, true[finite], said[finite], int((~finite).sum())))
    return drawn


def _chart(
    name: str, true: npt.NDArray[np.float64], said: npt.NDArray[np.float64], lost: int
) -> Chart:
    bottom, top = float(true.min()), float(true.max())
    span = top - bottom
    # Answers further out than the truth is wide would press all others into a corner.
    near = (said >= bottom - span) & (said <= top + span) if span > 0 else np.ones(len(said), bool)
    shown = np.concatenate([true, said[near]])
    low, high = enclose(float(shown.min()), float(shown.max()), _TICKS)
    across = (true - low) / (high - low) * _SIDE
    down = (1 - np.clip((said - low) / (high - low), 0, 1)) * _SIDE
    remarks = []
    if lost:
        remarks.append(f"{lost:,} of {lost + len(true):,} answers are no finite number: left out.")
    if away := int((~near).sum()):
        verb = "lies" if away == 1 else "lie"
        far = said[int(np.abs(said - (low + high) / 2).argmax())]
        remarks.append(
            f"{away:,} of {len(said):,} answers {verb} outside, up to {compact(float(far))}: "
            "drawn on the edge."
        )
    points = [Stroke("points", _dots(across, down))]
    if len(true) > _MOST_POINTS:
        points = _cells(across, down)
        remarks.append("The stronger the colour of a cell, the more images lie in it.")
    off = np.abs(said - true)
    worst = np.argsort(-off, kind="stable")[:_WORST].tolist()
    misses = [
        Stroke("miss", f"M{across[n]:.1f} {down[n]:.1f}h0",
               says=f"true {compact(float(true[n]))}, predicted {compact(float(said[n]))}")
        for n in worst
    ]  # fmt: skip
    ticks = round_ticks(low, high, _TICKS)
    labelled = list(zip(ticks, tick_labels(ticks), strict=True))
    return Chart(
        title=f"{name}, predicted",
        across="true",
        summary=f"{len(true):,} validation images, off by {compact(float(np.median(off)))} in the "
        f"median. Missed most: {'; '.join(one.says for one in misses)}.",
        legend=[("points", "Images"), ("miss", "Missed most"), ("ideal", "Predicted as true")],
        lines=[Stroke("ideal", f"M0 {_SIDE:.0f}L{_SIDE:.0f} 0"), *points],
        dots=misses,
        y_ticks=[Tick(round(100 * (high - at) / (high - low), 3), label) for at, label in labelled],
        x_ticks=[Tick(round(100 * (at - low) / (high - low), 3), label) for at, label in labelled],
        epoch_ticks=[],
        best=None,
        remarks=remarks,
    )  # fmt: skip


def _dots(across: npt.NDArray[np.float64], down: npt.NDArray[np.float64]) -> str:
    """Lines of no length, which round caps show as dots."""
    return "".join(f"M{x:.1f} {y:.1f}h0" for x, y in zip(across, down, strict=True))


def _cells(across: npt.NDArray[np.float64], down: npt.NDArray[np.float64]) -> list[Stroke]:
    """Squares of a grid in three strengths: at least one image, a fifth, and a half of the most."""
    size = _SIDE / _CELLS
    columns, rows = (np.minimum(at / size, _CELLS - 1).astype(int) for at in (across, down))
    counts = np.bincount(rows * _CELLS + columns, minlength=_CELLS**2)
    most = counts.max()
    strength = (counts > 0).astype(int) + (counts > most / 5) + (counts > most / 2)
    strokes = []
    for level in (1, 2, 3):
        squares = (divmod(int(cell), _CELLS) for cell in np.flatnonzero(strength == level))
        path = "".join(
            f"M{column * size:.4g} {row * size:.4g}h{size:.4g}v{size:.4g}h-{size:.4g}z"
            for row, column in squares
        )
        if path:
            strokes.append(Stroke(f"cells{level}", path))
    return strokes
