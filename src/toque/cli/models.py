"""toque models: the models there are, with parameters and operations."""

from __future__ import annotations

from typing import Annotated

import typer


def models(
    pattern: Annotated[
        str, typer.Argument(help='A name or glob: "resnet*", "timm/convnext*", "torchvision/*".')
    ] = "toque/*",
    classes: Annotated[int, typer.Option(help="Classes of the last layer.")] = 1000,
    limit: Annotated[int, typer.Option(help="Show at most so many.")] = 40,
) -> None:
    """List models with their parameters, operations and input size.

    Example: toque models "timm/convnext*"
    """
    from rich.console import Console
    from rich.table import Table

    from toque import checks
    from toque.cli.waiting import waiting
    from toque.models import catalog

    found = catalog.matching(pattern)
    if not found:
        raise checks.invalid(
            "models", "PATTERN", "one that matches a model", repr(pattern),
            checks.nearest(pattern, catalog.names()),
        )  # fmt: skip
    table = Table("model", "parameters", "GFLOP", "input")
    for column in (1, 2):
        table.columns[column].justify = "right"
    with waiting("measuring each model"):
        for name in found[:limit]:
            size = catalog.size(name, num_classes=classes)
            table.add_row(
                name, f"{size.parameters / 1e6:,.2f} M", f"{size.flops / 1e9:,.2f}", size.input
            )
    Console().print(table)
    if len(found) > limit:
        print(f"{len(found) - limit} more; see them with --limit {len(found)}.")
