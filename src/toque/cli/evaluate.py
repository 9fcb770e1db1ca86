"""toque evaluate: a finished run on validation images."""

from __future__ import annotations

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

    Example: toque evaluate runs/flowers photos/test
    """
    import json
    import sys

    from toque.cli.waiting import waiting
    from toque.train import evaluate as measure
    from toque.train.run_folder.folder import read_run

    with waiting("asking the model about each image"):
        found = measure(run, data, say=lambda note: print(f"note: {note}", file=sys.stderr))
    settings, environment = read_run(Path(run))
    classes = environment["classes"]
    scores = found.scores(settings.seed)
    intervals = {} if scores is not None else found.intervals(settings.seed)
    if as_json:
        answer = found.as_dict(classes)
        if scores is not None:
            answer["scores"] = scores.as_dict()
        elif intervals:
            answer["intervals"] = {name: one.as_dict() for name, one in intervals.items()}
        print(json.dumps(answer))
        return
    from rich.console import Console
    from rich.table import Table

    each = found.table(classes)
    table = Table(*each.columns)
    for row in each.rows:
        table.add_row(*row)
    Console().print(table)
    if scores is not None:
        print(f"macro F1 {scores.f1.percent()}\n{scores.calibration.sentence()}")
    print(f"{found.summary(scores, intervals)} images")
