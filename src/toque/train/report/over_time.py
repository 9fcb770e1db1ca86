"""Throughput and memory over the hours and minutes of a run.

A run that was continued begins its clock again with each call: the calls are laid end to end, the
pause between them left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from toque.train.report import lines

_UNITS = ((7200.0, 3600.0, "hours"), (180.0, 60.0, "minutes"))
_GIB = 2**30


def charts(metrics: Sequence[Mapping[str, Any]]) -> list[lines.Chart]:
    """The charts that the rows of training have numbers for."""
    rows = [row for row in metrics if row.get("split") == "train"]
    across, seconds = "seconds", elapsed(rows)
    if not len(seconds):
        return []
    for limit, unit, name in _UNITS:
        if seconds[-1] >= limit:
            across, seconds = name, seconds / unit
            break
    drawn = []
    for title, key, scale in (
        ("Images a second", "images_per_s", 1.0),
        ("Most memory so far, GiB", "memory_bytes", _GIB),
    ):
        y = np.array([_number(row.get(key)) for row in rows]) / scale
        curve = lines.Curve("Training", "train", seconds, y, noisy=key != "memory_bytes")
        drawn.append(lines.draw(title, [curve], from_zero=True, across=across))
    return [chart for chart in drawn if chart is not None]


def elapsed(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Seconds of training at each row, over all calls: [n], ascending."""
    total, last = 0.0, 0.0
    times = []
    for row in rows:
        now = _number(row.get("time_s"))
        if math.isfinite(now):
            total += now - last if now >= last else now
            last = now
        times.append(total)
    return np.array(times)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
