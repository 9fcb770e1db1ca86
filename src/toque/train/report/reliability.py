"""The reliability diagram: how often the model is right, for how sure it is.

Source: Guo 2017, arXiv:1706.04599, figure 1
"""

from __future__ import annotations

from collections.abc import Sequence

from toque.train.metrics.calibration import Bin
from toque.train.report.axes import percent
from toque.train.report.lines import Chart, Stroke, Tick

_SIDE = 1000.0


def chart(bins: Sequence[Bin]) -> Chart:
    """Bars of accuracy over confidence, beside the diagonal on which both are equal."""
    return _chart(bins, "Sure, and right", "sure", "Right", "As sure as right", "images", "right")


def chart_of_labels(bins: Sequence[Bin]) -> Chart:
    """Bars of how often labels are there over their probability, beside the same diagonal."""
    return _chart(
        bins, "Probable, and there", "probable", "There", "As probable as there", "labels", "there"
    )


def _chart(
    bins: Sequence[Bin], title: str, across: str, bar: str, line: str, what: str, found_so: str
) -> Chart:
    bars = []
    for found in bins:
        left, right = found.low * _SIDE + 8, found.high * _SIDE - 8
        top = (1 - found.accuracy) * _SIDE
        says = (
            f"{found.count:,} {what} between {100 * found.low:.0f} and {100 * found.high:.0f} % "
            f"{across}: {percent(found.accuracy)} {found_so}"
        )
        path = f"M{left:.1f} {_SIDE}V{top:.1f}H{right:.1f}V{_SIDE}z"
        bars.append(Stroke("bars", path, says=says))
    ticks = [Tick(100.0 * n / 4, f"{25 * n} %") for n in range(5)]
    return Chart(
        title=title,
        across=across,
        summary=" ".join(f"{one.says}." for one in bars),
        legend=[("bars", bar), ("ideal", line)],
        lines=[Stroke("ideal", f"M0 {_SIDE}L{_SIDE} 0")],
        dots=bars,
        y_ticks=[Tick(100.0 - tick.at, tick.label) for tick in ticks],
        x_ticks=ticks,
        epoch_ticks=[],
        best=None,
        remarks=[],
    )
