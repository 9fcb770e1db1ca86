"""toque evaluate: a finished run on validation images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    run: Annotated[str, typer.Argument(help="A run folder.")],
    data: Annotated[
        str | None, typer.Argument(help="Other images; unset: the run's own validation images.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a finished run on its validation images, or on others.

    Example: toque evaluate runs/flowers photos/new
    """
    import json

    from toque.train import evaluate as measure
    from toque.train.folder import read_run

    found = measure(run, data)
    settings, environment = read_run(Path(run))
    classes = environment["classes"]
    confusion = found.confusion(len(classes))
    scores = found.scores(settings.seed)
    if as_json:
        answer = {
            "images": len(found.targets),
            "loss": found.loss,
            "accuracy": found.accuracy,
            "classes": classes,
            "confusion": confusion.tolist(),
            "scores": scores.as_dict() if scores else None,
        }
        print(json.dumps(answer))
        return
    from rich.console import Console
    from rich.table import Table

    from toque.train.report.confusion import scores as by_class

    table = Table("class", "images", "recall", "precision", "F1")
    for score in by_class(confusion, classes):
        shares = (score.recall, score.precision, score.f1)
        shown = ("-" if math.isnan(share) else f"{100 * share:.1f} %" for share in shares)
        table.add_row(score.name, str(score.count), *shown)
    Console().print(table)
    if scores is not None:
        print(f"macro F1 {scores.f1.percent()}\n{scores.calibration.sentence()}")
    print(f"{found.summary(scores)} images")
