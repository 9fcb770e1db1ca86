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

    Example: toque evaluate runs/flowers photos/new
    """
    import json

    from toque.train import evaluate as measure
    from toque.train.folder import read_run

    found = measure(run, data)
    _, environment = read_run(Path(run))
    classes = environment["classes"]
    confusion = found.confusion(len(classes))
    if as_json:
        print(
            json.dumps(
                {
                    "images": len(found.targets),
                    "loss": found.loss,
                    "accuracy": found.accuracy,
                    "classes": classes,
                    "confusion": confusion.tolist(),
                }
            )
        )
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("class", "images", "recall", "precision")
    for number, name in enumerate(classes):
        right, true, said = (
            confusion[number, number],
            confusion[number].sum(),
            confusion[:, number].sum(),
        )
        table.add_row(
            name,
            str(true),
            f"{100 * right / true:.1f} %" if true else "-",
            f"{100 * right / said:.1f} %" if said else "-",
        )
    Console().print(table)
    accuracy = "" if found.accuracy is None else f"accuracy {100 * found.accuracy:.2f} %, "
    print(f"{accuracy}loss {found.loss:.4f} on {len(found.targets)} images")
