"""Runs beside each other: what separates them, how they went, and whether it is more than noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from toque import durable
from toque.train import run as settings_of
from toque.train.metrics import Interval, Scores, difference
from toque.train.metrics.intervals import Statistic, bootstrap
from toque.train.metrics.shown import Metric
from toque.train.report import axes, lines, over_time, template

_COLOURS = 5
MOST_RUNS = 2 * _COLOURS  # five colours, each also dashed


class Answers(Protocol):
    """What a comparison asks of a run's answers on N images, as an Evaluation of its task says it.

    shown:   the metrics, the one that decides first
    indices: [N] int64, the images in their source
    """

    @property
    def shown(self) -> tuple[Metric, ...]: ...

    @property
    def indices(self) -> npt.NDArray[np.int64]: ...

    @property
    def main(self) -> Metric: ...

    @property
    def score(self) -> float: ...

    def __len__(self) -> int: ...

    def statistic(self) -> Statistic | None: ...

    def resamples(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Compared:
    """One run of a comparison.

    name:        short and different from the others'
    path:        as the caller gave it
    settings:    resolved, nested
    rows:        of metrics.jsonl
    metrics:     the final ones, by name; empty for a run that has not finished
    loss:        the final one
    scores:      with the answers, of a run on classes
    answers:     of a run on labels, numbers or masks
    intervals:   of the metrics of such a run, by name
    fingerprint: of the data
    seconds, images_seen: how long it took
    """

    name: str
    path: str
    settings: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, float] = field(default_factory=dict)
    loss: float | None = None
    scores: Scores | None = None
    answers: Answers | None = None
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    fingerprint: str = ""
    seconds: float | None = None
    images_seen: int | None = None


def write(path: Path, runs: Sequence[Compared]) -> None:
    """Write the comparison as one HTML file that needs no network."""
    durable.write(path, render(runs))


def render(runs: Sequence[Compared]) -> str:
    """The text of the page. The same runs give the same text."""
    context = {
        "title": " and ".join(run.name for run in runs) if len(runs) < 4 else f"{len(runs)} runs",
        "runs": [
            {"kind": _kind(n), "name": run.name, "path": run.path, "unfinished": run.loss is None}
            for n, run in enumerate(runs)
        ],
        "sentences": verdicts(runs),
        "results": _results(runs),
        "differing": _differing(runs),
        "charts": [
            {"id": "images", "title": "Over images", "drawn": _charts(runs, timed=False)},
            {"id": "time", "title": "Over time", "drawn": _charts(runs, timed=True)},
        ],
    }
    return template.render("compare.html", context)


def verdicts(runs: Sequence[Compared]) -> list[str]:
    """Whether the best run is better than each other by more than the noise of the images."""
    scored = [run for run in runs if run.scores is not None or run.answers is not None]
    if len(scored) < 2:
        return ["Fewer than two of these runs have kept answers, so no difference can be judged."]
    if len({type(run.answers) for run in scored}) > 1:
        return ["These runs learnt different tasks, so they cannot be compared image by image."]
    best = max(scored, key=_score)
    said = [
        verdict(best, run) if run.scores is not None else verdict_of_task(best, run)
        for run in scored
        if run is not best
    ]
    return [
        *said,
        "This is the noise of which images were validated on. Another seed changes a result too: "
        "to know by how much, train each with some seeds.",
    ]


def _score(run: Compared) -> float:
    if run.scores is not None:
        return run.scores.accuracy.value
    return run.answers.score if run.answers is not None else 0.0


def verdict_of_task(best: Compared, other: Compared) -> str:
    """One sentence about two runs on labels, numbers or masks, the better first."""
    mine, theirs = best.answers, other.answers
    assert mine is not None and theirs is not None
    main = mine.main
    ours, their = mine.statistic(), theirs.statistic()
    same = best.fingerprint == other.fingerprint and np.array_equal(
        np.sort(mine.indices), np.sort(theirs.indices)
    )
    if not same or ours is None or their is None:
        values = [main.text(run.metrics[main.key]) for run in (best, other)]
        return (
            f"{best.name} ({main.label} {values[0]}) and {other.name} ({values[1]}) were validated "
            f"on other images or data: they cannot be compared image by image.{_drawn(best, other)}"
        )
    sign = 1 if main.higher else -1
    found = bootstrap(
        lambda counts: sign * (ours(counts)[:, :1] - their(counts)[:, :1]),
        len(mine), 0, mine.resamples(),
    )[0]  # fmt: skip
    images = f"{len(mine):,} validation images"
    if found.value == 0:
        return f"{best.name} and {other.name} are equally good on these {images}."
    way = "higher" if main.higher else "lower"
    return (
        f"{best.name} has a {way} {main.label} than {other.name} by {main.sure(found)}: "
        f"{'more than' if found.low > 0 else 'within'} the noise of these {images}."
    )


def _drawn(one: Compared, other: Compared) -> str:
    """What to do where each run drew its validation images by a seed of its own."""
    seeds = [run.settings.get("split_seed", run.settings.get("seed")) for run in (one, other)]
    if one.settings.get("data") != other.settings.get("data") or seeds[0] == seeds[1]:
        return ""
    return " Give them one split_seed to validate all on the same images."


def verdict(best: Compared, other: Compared) -> str:
    """One sentence about two runs with answers, the better first."""
    assert best.scores is not None and other.scores is not None
    mine, theirs = best.scores.answers, other.scores.answers
    same = (
        best.fingerprint == other.fingerprint
        and len(mine) == len(theirs)
        and np.array_equal(np.sort(mine.indices), np.sort(theirs.indices))
    )
    if not same:
        return (
            f"{best.name} ({best.scores.accuracy.percent()}) and {other.name} "
            f"({other.scores.accuracy.percent()}) were validated on other images or data: they "
            f"cannot be compared image by image.{_drawn(best, other)}"
        )
    right = theirs.right[np.argsort(theirs.indices)].astype(float)
    found = difference(right, mine.right[np.argsort(mine.indices)].astype(float), seed=0)
    points = f"{100 * found.value:.1f} points ({100 * found.low:.1f} to {100 * found.high:.1f})"
    images = f"{len(mine):,} validation images"
    if found.low > 0:
        return (
            f"{best.name} is more accurate than {other.name} by {points}: more than the noise of "
            f"these {images}."
        )
    if found.value == 0:
        return f"{best.name} and {other.name} are equally accurate on these {images}."
    return f"{best.name} is ahead of {other.name} by {points}: within the noise of these {images}."


def _results(runs: Sequence[Compared]) -> dict[str, Any]:
    names = list(dict.fromkeys(name for run in runs for name in run.metrics if name != "accuracy"))
    labels = {one.key: one.label for run in runs if run.answers for one in run.answers.shown}
    has_scores = any(run.scores for run in runs)
    columns = ["Run", *(["Accuracy", "Macro F1"] if has_scores else []),
               *(labels.get(name, name) for name in names),
               "Loss", "Images seen", "Time", "Images a second"]  # fmt: skip
    rows = []
    for run in runs:
        row = [run.name]
        if has_scores:
            row += [_sure(run.scores.accuracy if run.scores else None),
                    _sure(run.scores.f1 if run.scores else None)]  # fmt: skip
        row += [_metric(run, name) for name in names]
        speed = run.images_seen / run.seconds if run.images_seen and run.seconds else None
        row += [
            f"{run.loss:.4f}" if run.loss is not None else "–",
            f"{run.images_seen:,}" if run.images_seen is not None else "–",
            axes.duration(run.seconds) if run.seconds is not None else "–",
            axes.compact(speed) if speed is not None else "–",
        ]
        rows.append(row)
    caption = "With the range that holds 95 % of resamples of the validation images (bootstrap)."
    sure = has_scores or any(run.intervals for run in runs)
    return {"columns": columns, "rows": rows, "caption": caption if sure else ""}


def _metric(run: Compared, name: str) -> str:
    if name not in run.metrics:
        return "–"
    for metric in run.answers.shown if run.answers is not None else ():
        if metric.key == name:
            sure = run.intervals.get(name)
            return metric.sure(sure) if sure is not None else metric.text(run.metrics[name])
    return axes.compact(run.metrics[name])


def _sure(found: Interval | None) -> str:
    return found.percent() if found is not None else "–"


def _differing(runs: Sequence[Compared]) -> dict[str, Any] | None:
    each = [settings_of.flat(run.settings) for run in runs]
    keys = sorted({key for flat in each for key in flat} - {"out"})
    rows = [
        [key, *(str(flat.get(key, "–")) for flat in each)]
        for key in keys
        if len({str(flat.get(key, "–")) for flat in each}) > 1
    ]
    return {"columns": ["Setting", *(run.name for run in runs)], "rows": rows} if rows else None


def _charts(runs: Sequence[Compared], *, timed: bool) -> list[lines.Chart]:
    kinds: list[tuple[str, str, str, lines.Unit]] = [
        ("Validation accuracy", "val", "accuracy", "percent"),
        *_measured(runs),
        ("Validation loss", "val", "loss", "number"),
        ("Training loss", "train", "loss", "number"),
    ]
    if not timed:
        kinds.append(("Learning rate", "train", "learning_rate", "number"))
    drawn = []
    for title, split, key, unit in kinds:
        curves = []
        for number, run in enumerate(runs):
            rows = [row for row in run.rows if row.get("split") == split and key in row]
            x = over_time.elapsed(rows) if timed else _column(rows, "images_seen")
            y = _column(rows, key)
            if len(x):
                curves.append(lines.Curve(run.name, _kind(number), x, y, key != "learning_rate"))
        if curves:
            spikes = key == "loss"
            across = "seconds" if timed else "images"
            drawn.append(lines.draw(title, curves, unit=unit, cut_spikes=spikes, across=across))
    return [chart for chart in drawn if chart is not None]


def _measured(runs: Sequence[Compared]) -> list[tuple[str, str, str, lines.Unit]]:
    known = {one.key: one for run in runs if run.answers is not None for one in run.answers.shown}
    return [(f"Validation {one.label}", "val", one.key, one.unit) for one in known.values()]


def _column(rows: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    values = [row.get(key) for row in rows]
    return np.array([float(v) if isinstance(v, int | float) else math.nan for v in values])


def _kind(number: int) -> str:
    return f"run{number % _COLOURS}" + (" again" if number >= _COLOURS else "")
