"""Sections of the page: time, scores, labels to check, the signal at the start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from toque.models.signal import Signal
from toque.train.metrics import Interval, Scores, stages
from toque.train.report import axes, lines

if TYPE_CHECKING:
    from toque.train.metrics.shown import Metric

_STAGES: dict[stages.Stage, str] = {
    "device": "computing",
    "data": "waiting for images",
    "host": "Python between the steps",
    "validation": "validation",
    "checkpoint": "writing checkpoints",
}


def shares(metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    part = stages.shares([row for row in metrics if row.get("split") == "val"])
    return [
        {"stage": stage, "share": part[stage], "says": says}
        for stage, says in _STAGES.items()
        if part and part[stage] > 0
    ]


def sureness(scores: Scores) -> list[dict[str, str]]:
    """The table of scores: shares in percent, the loss as it is."""
    shares = {
        "Accuracy": scores.accuracy, "Top 5": scores.top5, "Macro F1": scores.f1,
    }  # fmt: skip
    rows = [
        {
            "name": name,
            "value": axes.percent(found.value),
            "range": f"{100 * found.low:.1f} to {100 * found.high:.1f} %",
        }
        for name, found in shares.items()
        if found is not None
    ]
    loss = scores.loss
    return [
        *rows,
        {
            "name": "Loss, nats",
            "value": f"{loss.value:.4f}",
            "range": f"{loss.low:.4f} to {loss.high:.4f}",
        },
        {
            "name": "Calibration error",
            "value": axes.percent(scores.calibration.ece),
            "range": f"{axes.percent(scores.calibration.ece_after)} at temperature "
            f"{scores.calibration.temperature:.3g}",
        },
    ]


def sureness_of(
    measured: Sequence[Metric], intervals: Mapping[str, Interval]
) -> list[dict[str, str]]:
    """The table of scores of another task than classes."""
    return [
        {
            "name": metric.label,
            "value": metric.text(intervals[metric.key].value),
            "range": metric.between(intervals[metric.key]),
        }
        for metric in measured
        if metric.key in intervals
    ]


def signal(seen: Signal) -> dict[str, Any] | None:
    """The sizes of outputs and gradients from the first layer to the last, as powers of ten.

    None for a model without layers to look at.
    """
    if not seen.layers:
        return None
    x = np.arange(len(seen.layers), dtype=float)
    outputs = _decades([layer.deviation for layer in seen.layers])
    gradients = _decades([layer.gradient for layer in seen.layers])
    curves = [
        lines.Curve("Outputs", "train", x, outputs, noisy=False),
        lines.Curve("Gradients", "val", x, gradients, noisy=False),
    ]
    verdict = "Good." if seen.good else f"Bad: {'; '.join(seen.faults)}."
    return {
        "says": " ".join([
            verdict, "The size of outputs and of gradients should stay about the same from the "
            "first layer to the last.", *(f"Note: {remark}." for remark in seen.remarks)
        ]),
        "chart": lines.draw("Size, layer by layer", curves, unit="decades", across="layers"),
        "layers": seen.layers,
    }  # fmt: skip


def _decades(sizes: Sequence[float]) -> np.ndarray:
    values = np.array(sizes, dtype=float)
    return np.where(values > 0, np.log10(np.where(values > 0, values, 1.0)), np.nan)
