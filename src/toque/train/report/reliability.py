"""The reliability diagram: how often the model is right, for how sure it is.

Source: Guo 2017, arXiv:1706.04599, figure 1
"""

from __future__ import annotations

from toque.train.metrics import Calibration
from toque.train.report.axes import percent
from toque.train.report.lines import Chart, Stroke, Tick

_SIDE = 1000.0


def chart(calibration: Calibration) -> Chart:
    """Bars of accuracy over confidence, beside the diagonal on which both are equal."""
    bars = []
    for found in calibration.bins:
        left, right = found.low * _SIDE + 8, found.high * _SIDE - 8
        top = (1 - found.accuracy) * _SIDE
        says = (
            f"{found.count:,} images between {100 * found.low:.0f} and {100 * found.high:.0f} % "
            f"sure: {percent(found.accuracy)} right"
        )
        path = f"M{left:.1f} {_SIDE}V{top:.1f}H{right:.1f}V{_SIDE}z"
        bars.append(Stroke("bars", path, says=says))
    ticks = [Tick(100.0 * n / 4, f"{25 * n} %") for n in range(5)]
    return Chart(
        title="Sure, and right",
        across="sure",
        summary=" ".join(f"{bar.says}." for bar in bars),
        legend=[("bars", "Right"), ("ideal", "As sure as right")],
        lines=[Stroke("ideal", f"M0 {_SIDE}L{_SIDE} 0")],
        dots=bars,
        y_ticks=[Tick(100.0 - tick.at, tick.label) for tick in ticks],
        x_ticks=ticks,
        epoch_ticks=[],
        best=None,
        remarks=[],
    )
