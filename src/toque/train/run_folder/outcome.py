"""result.json: how a run ended, in numbers that a program can read.

It stands beside answers.safetensors; together they hold what the report and comparisons need, so
that neither has to run the model again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from toque import checks, durable
from toque.train.metrics import Interval, Scores, scores_of
from toque.train.metrics import answers as answer_files
from toque.train.metrics.shown import Table
from toque.train.run_folder import folder
from toque.version import VERSION


@dataclass(frozen=True, eq=False)
class Outcome:
    """How a run ended.

    loss, accuracy: of the kept weights on the validation images; accuracy None without classes
    images_seen, seconds: also before a restart, and of the last call
    sha256:         of weights.safetensors
    given:          dotted keys of the settings that the caller gave and that are not the defaults
    notes:          what was warned of
    scores:         with their intervals and the answers; None where the outputs are no classes
    metrics:        of the task, by name
    table:          of the task's classes, labels or numbers, where the scores do not say it
    intervals:      of the metrics, by name, where the task is not one class for each
    thresholds:     of several labels, the probability from which each is said to be there
    """

    loss: float
    accuracy: float | None
    images_seen: int
    seconds: float
    sha256: str
    given: Sequence[str]
    notes: Sequence[str]
    scores: Scores | None
    metrics: Mapping[str, float]
    table: Table
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    thresholds: Sequence[float] = ()


def write(path: Path, outcome: Outcome, data_fingerprint: str) -> None:
    """Keep an outcome in a run folder: the answers first, then result.json, each whole or not."""
    if outcome.scores is not None:
        answer_files.write(path, outcome.scores.answers, data_fingerprint)
    tree: dict[str, Any] = {
        "toque": VERSION,
        "loss": outcome.loss,
        "accuracy": outcome.accuracy,
        "metrics": dict(outcome.metrics),
        "table": asdict(outcome.table),
        "intervals": {name: one.as_dict() for name, one in outcome.intervals.items()},
        "thresholds": list(outcome.thresholds),
        "images_seen": outcome.images_seen,
        "seconds": round(outcome.seconds, 3),
        "weights_sha256": outcome.sha256,
        "given": list(outcome.given),
        "notes": list(outcome.notes),
        "scores": outcome.scores.as_dict() if outcome.scores else None,
    }
    durable.write(path / folder.RESULT, json.dumps(tree, indent=1, ensure_ascii=False) + "\n")


def read(path: Path) -> Outcome | None:
    """The outcome of a run folder; None for a run that has not finished.

    Raises: ValueError: a file that is damaged or not of this kind
    """
    file = path / folder.RESULT
    if not file.is_file():
        return None
    found = answer_files.read(path)
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
        told = tree["scores"]
        return Outcome(
            tree["loss"], tree["accuracy"], tree["images_seen"], tree["seconds"],
            tree["weights_sha256"], tree["given"], tree["notes"],
            scores_of(told, found[0]) if told and found else None, tree["metrics"],
            Table(**tree["table"]),
            {name: Interval(**one) for name, one in tree.get("intervals", {}).items()},
            tree.get("thresholds", ()),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise checks.invalid(
            "report", str(file), "how a run ended", f"an error ({error!r})",
            "Run the training command again: it writes the file anew.",
        ) from None  # fmt: skip
