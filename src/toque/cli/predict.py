"""toque predict: what a finished run says of images."""

from __future__ import annotations

from typing import Annotated

import typer


def predict(
    run: Annotated[str, typer.Argument(help="A run folder.")],
    images: Annotated[list[str], typer.Argument(help="Image files, or folders of them.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes to show for each image.")] = 3,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON with the probability of every class.")
    ] = False,
) -> None:
    """Say what is on images, with a finished run.

    Example: toque predict runs/flowers garden.jpg meadow.jpg
    """
    import json

    from toque.deploy import predict as ask

    answers = ask(run, images)
    if as_json:
        print(json.dumps([answer.as_dict() for answer in answers], indent=1, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("image", "label", "confidence", "next")
    for answer in answers:
        ranked = sorted(answer.probabilities.items(), key=lambda pair: -pair[1])[:top]
        others = ", ".join(f"{name} {100 * share:.1f} %" for name, share in ranked[1:])
        table.add_row(answer.image, answer.label, f"{100 * answer.confidence:.1f} %", others)
    Console().print(table)
