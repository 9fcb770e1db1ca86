"""The page: contents -> HTML text -> file."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from toque import checks, durable
from toque.train.metrics import Scores
from toque.train.metrics.calibration import ece
from toque.train.metrics.intervals import wilson
from toque.train.report import (
    axes,
    confusion,
    images,
    lines,
    over_time,
    reliability,
    sections,
    template,
)
from toque.train.report.contents import Picture, ReportData

if TYPE_CHECKING:
    from toque.train.metrics.shown import Metric

_MOST_PICTURES = 48  # per part: at 224 px and some 8 kB each, the page stays near 1 MB
_MOST_PAIRS = 12
_MOST_ROWS = 200
_HEAT_SIDE = 200
_LARGEST = 1e100  # beyond it the arithmetic of the axes overflows; no loss means anything there


@dataclass(frozen=True)
class Tile:
    """One of the large numbers at the top."""

    label: str
    value: str
    more: str = ""


@dataclass(frozen=True)
class Setting:
    """One row of the settings or the environment."""

    key: str
    value: str
    changed: bool = False


@dataclass(frozen=True)
class Shown:
    """A picture as the page shows it."""

    source: str
    alt: str
    tiny: bool
    picture: Picture
    confidence: str


def write(path: Path, data: ReportData) -> None:
    """Write the report as one HTML file that needs no network.

    The file is written aside in the same folder, synced and renamed: at every moment `path` is
    either what it was or the whole new report.

    Raises:  MissingFile: the folder does not exist
             OSError: it cannot be written; `path` is as it was and nothing is left beside it
    Example: >>> write(Path("runs/flowers/report.html"), ReportData(title="flowers"))
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise checks.MissingFile(
            checks.sentence("report", "path", "in a folder that exists", path, "Make the folder.")
        )
    durable.write(path, render(data))


def render(data: ReportData) -> str:
    """The text of the page. The same data gives the same text.

    Everything of the data is escaped by the template; the page also forbids itself, by its content
    security policy, to run scripts or to load anything from outside.
    """
    return template.render("page.html", _context(data))


def _context(data: ReportData) -> dict[str, Any]:
    outcome = {str(key).replace(" ", "_"): value for key, value in data.outcome.items()}
    settings = [Setting(key, value, key in data.changed) for key, value in _flatten(data.settings)]
    scores = data.scores
    matrix = data.confusion if data.confusion is not None and data.confusion.sum() else None
    return {
        "title": data.title,
        "notes": list(data.notes),
        "next_steps": list(data.next_steps),
        "tiles": [*_measured(outcome, data), *_tiles(outcome, matrix, data.scores)],
        "charts": _charts(data.metrics, outcome.get("best_epoch"), data.measured),
        "epochs": _epochs(data.metrics, data.measured),
        "main": data.measured[0].label if data.measured else None,
        "shares": sections.shares(data.metrics),
        "over_time": over_time.charts(data.metrics),
        "advice": data.advice,
        "sureness": (
            sections.sureness(scores)
            if scores is not None
            else sections.sureness_of(data.measured, data.intervals)
        ),
        "calibration": _calibration(data),
        "signal": sections.signal(data.signal)
        if data.signal is not None and data.signal.layers
        else None,
        "classes": list(data.classes),
        "matrix": _matrix(matrix, data.classes) if matrix is not None else None,
        "table": data.table if data.table is not None and data.table.rows else None,
        "worst": _pictures(data.worst),
        "masks": any(metric.key == "mean_iou" for metric in data.measured) and bool(data.classes),
        "mistakes": _pictures(data.mistakes),
        "suspects": _pictures(data.suspects),
        "answered": list(data.answered),
        "doubtful": list(data.doubtful[:_MOST_ROWS]),
        "doubted": data.doubted,
        "doubted_kinds": data.doubted_kinds,
        "cannot_tell": data.cannot_tell,
        # Of an image with several labels each may be in doubt.
        "in_doubt": len(
            {one.name for one in data.doubtful} if data.doubted_kinds else data.doubtful
        ),
        "learnt": data.learnt,
        "unlearnt": _pictures(data.learnt.pictures) if data.learnt is not None else [],
        "unlearnt_doubtful": (
            list(data.learnt.doubtful[:_MOST_ROWS]) if data.learnt is not None else []
        ),
        "correct": _pictures(data.correct),
        "augmented": _pictures(data.augmented),
        "given": {
            "worst": len(data.worst),
            "mistakes": len(data.mistakes),
            "suspects": len(data.suspects),
            "doubtful": len(data.doubtful),
            "correct": len(data.correct),
            "augmented": len(data.augmented),
        },
        "settings": settings,
        "changed": [setting for setting in settings if setting.changed],
        "environment": [Setting(key, value) for key, value in _flatten(data.environment)],
        "weights": outcome.get("weights"),
        "sha256": outcome.get("sha256"),
        "outcome": [
            Setting(key.replace("_", " "), value)
            for key, value in _flatten(outcome)
            if key not in (*_TILED, "weights", "sha256", *(one.key for one in data.measured))
        ],
    }


def _calibration(data: ReportData) -> dict[str, Any] | None:
    """What the probabilities are worth: of classes, or of labels each by itself."""
    if data.scores is not None:
        found = data.scores.calibration
        return {"says": found.sentence(), "chart": reliability.chart(found.bins)}
    if not data.reliability:
        return None
    apart = axes.percent(ece(data.reliability))
    return {
        "says": f"The probability of a label and how often it is there lie {apart} apart on "
        "average over all images and labels.",
        "chart": reliability.chart_of_labels(data.reliability),
    }


_TILED = ("accuracy", "loss", "best_epoch", "seconds", "images_seen")


def _measured(outcome: Mapping[str, Any], data: ReportData) -> list[Tile]:
    tiles = []
    for metric in data.measured:
        if math.isfinite(value := _number(outcome, metric.key)):
            sure = data.intervals.get(metric.key)
            more = f"{metric.between(sure)} at 95 % confidence" if sure is not None else ""
            tiles.append(Tile(_capital(metric.label), metric.text(value), more))
    return tiles


def _capital(label: str) -> str:
    """With a capital, unless it is an abbreviation with one inside: mAP."""
    return label if label[1:2].isupper() else label[0].upper() + label[1:]


def _tiles(
    outcome: Mapping[str, Any], matrix: np.ndarray | None, scores: Scores | None
) -> list[Tile]:
    tiles = []
    accuracy, seconds, seen = (
        _number(outcome, key) for key in ("accuracy", "seconds", "images_seen")
    )
    if math.isfinite(accuracy):
        tiles.append(Tile("Accuracy", axes.percent(accuracy), _interval(accuracy, matrix, scores)))
    if math.isfinite(loss := _number(outcome, "loss")):
        tiles.append(Tile("Validation loss", f"{loss:.4g}"))
    if math.isfinite(best := _number(outcome, "best_epoch")):
        tiles.append(Tile("Best epoch", f"{round(best, 1):g}"))
    if math.isfinite(seconds):
        tiles.append(Tile("Time", axes.duration(seconds)))
    if math.isfinite(seen):
        rate = f"{axes.compact(seen / seconds)} a second" if seconds > 0 else ""
        tiles.append(Tile("Images seen", axes.compact(seen), rate))
    return tiles


def _interval(accuracy: float, matrix: np.ndarray | None, scores: Scores | None) -> str:
    """How sure the accuracy is, if it is the one of the answers."""
    if scores is not None and abs(scores.accuracy.value - accuracy) < 1e-4:
        low, high, total = scores.accuracy.low, scores.accuracy.high, len(scores.answers)
    elif matrix is not None:
        right, total = int(np.trace(matrix)), int(matrix.sum())
        if abs(right / total - accuracy) > 0.5 / total:
            return ""
        low, high = wilson(right, total)
    else:
        return ""
    return f"{100 * low:.1f}–{100 * high:.1f} % at 95 % confidence, {total:,} images"


def _number(row: Mapping[str, Any], key: str) -> float:
    value = row.get(key)
    try:
        return math.nan if value is None else float(value)
    except (TypeError, ValueError):
        return math.nan


def _charts(
    metrics: Sequence[Mapping[str, Any]], best_epoch: object, measured: Sequence[Metric] = ()
) -> list[lines.Chart]:
    epochs = sorted({(_number(row, "epoch"), _number(row, "images_seen")) for row in metrics})
    known = np.array([pair for pair in epochs if all(map(math.isfinite, pair))]).reshape(-1, 2)
    # Training starts at (0, 0), and a scale that only rises can be read both ways.
    scale = np.maximum.accumulate(np.vstack([[0.0, 0.0], known]))
    best = _number({"best": best_epoch}, "best")

    def curve(name: str, split: Literal["train", "val"], key: str) -> lines.Curve:
        points = [
            (_number(row, "images_seen"), _number(row, key))
            for row in metrics
            if row.get("split") == split and key in row
        ]
        pairs = np.array(sorted(p for p in points if math.isfinite(p[0]))).reshape(-1, 2)
        pairs[np.abs(pairs[:, 1]) > _LARGEST, 1] = np.inf
        return lines.Curve(name, split, pairs[:, 0], pairs[:, 1], noisy=key != "learning_rate")

    losses = [curve("Training", "train", "loss"), curve("Validation", "val", "loss")]
    rate = [curve("Schedule", "train", "learning_rate")]
    epoch_scale = (scale[:, 0], scale[:, 1]) if len(known) else None
    marked = best if math.isfinite(best) else None
    right = [curve("Training", "train", "accuracy"), curve("Validation", "val", "accuracy")]
    others = [
        lines.draw(
            _capital(metric.label), [curve("Validation", "val", metric.key)],
            epoch_scale, unit=metric.unit, best_epoch=marked,
        )
        for metric in measured
    ]  # fmt: skip
    drawn = [
        lines.draw("Loss", losses, epoch_scale, cut_spikes=True, best_epoch=marked),
        lines.draw("Accuracy", right, epoch_scale, unit="percent", best_epoch=marked),
        *others,
        lines.draw("Learning rate", rate, epoch_scale, from_zero=True),
    ]
    return [chart for chart in drawn if chart is not None]


def _epochs(
    metrics: Sequence[Mapping[str, Any]], measured: Sequence[Metric] = ()
) -> list[list[str]]:
    """The numbers behind the charts: one row for each validation with the training before it; the
    accuracies, or the first of what else is measured."""
    rows: list[list[str]] = []
    train: Mapping[str, Any] = {}
    for row in sorted(
        metrics, key=lambda row: (_number(row, "images_seen"), row.get("split") == "val")
    ):
        if row.get("split") == "train":
            train = row
        else:
            rows.append([
                _cell(row, "epoch", "{:.2f}"), _cell(row, "images_seen", "{:,.0f}"),
                _cell(train, "loss", "{:.4f}"), _cell(row, "loss", "{:.4f}"),
                *(
                    [_measured_cell(row, measured[0])]
                    if measured
                    else [_cell(train, "accuracy", "{:.2%}"), _cell(row, "accuracy", "{:.2%}")]
                ),
                _cell(train, "learning_rate", "{:.4g}"), _cell(train, "images_per_s", "{:,.0f}"),
            ])  # fmt: skip
    every = -(-len(rows) // _MOST_ROWS) or 1
    return rows[::-every][::-1]  # counted from the end, so that the last one is always there


def _measured_cell(row: Mapping[str, Any], metric: Metric) -> str:
    value = _number(row, metric.key)
    return metric.text(value) if math.isfinite(value) else "–"


def _cell(row: Mapping[str, Any], key: str, form: str) -> str:
    value = _number(row, key)
    return form.format(value) if math.isfinite(value) else "–"


def _matrix(matrix: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    whole = len(classes) <= confusion.LARGEST_TABLE
    scores = confusion.scores(matrix, classes)
    by_recall = sorted(scores, key=lambda score: (math.isnan(score.recall), score.recall))
    return {
        "total": int(matrix.sum()),
        "cells": confusion.cells(matrix, classes) if whole else None,
        "heat": None if whole else images.heat_uri(confusion.shrink(matrix, _HEAT_SIDE)),
        "pairs": confusion.most_confused(matrix, classes, _MOST_PAIRS if whole else 30),
        "scores": by_recall,
    }


def _pictures(pictures: Sequence[Picture]) -> list[Shown]:
    shown = []
    for picture in itertools.islice(pictures, _MOST_PICTURES):
        known = picture.confidence is not None and math.isfinite(picture.confidence)
        confidence = axes.percent(float(picture.confidence or 0.0)) if known else ""
        words = [picture.name]
        if picture.predicted is not None:
            words.append(f"predicted {picture.predicted}" + (f" at {confidence}" if known else ""))
        if picture.true is not None:
            words.append(f"true {picture.true}")
        if picture.caption is not None:
            words.append(picture.caption)
        source = images.data_uri(picture.image)
        tiny = images.is_tiny(picture.image)
        shown.append(Shown(source, ", ".join(words), tiny, picture, confidence))
    return shown


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{key}.")
        else:
            yield key, value if isinstance(value, str) else json.dumps(value, default=str)
