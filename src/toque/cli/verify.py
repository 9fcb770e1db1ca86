"""toque verify: prove a layer."""

from __future__ import annotations

from typing import Annotated

import typer


def verify(
    layer: Annotated[
        str, typer.Argument(help='"package.module:Name", also "torch.nn:Linear(5,4)".')
    ],
    shape: Annotated[
        list[str],
        typer.Option("--input", help='Shape of an input: "2x8x16x16"; "4:int10" for classes.'),
    ],
    reference: Annotated[
        str, typer.Option(help="The plain composition it stands for, as package.module:name.")
    ] = "",
    require: Annotated[
        list[str] | None, typer.Option(help="A check that must be supported.")
    ] = None,
    skip: Annotated[list[str] | None, typer.Option(help="A check to leave out.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Prove a layer: gradients, transforms, memory, dtypes, state. Exits with 1 when a check fails.

    Example: toque verify my_layers:ScaledSilu --input 4x3 --input 3
    """
    from toque.layers import verify as prove
    from toque.layers.naming import find_layer, make_input

    report = prove(
        find_layer(layer),
        *(make_input(text, position) for position, text in enumerate(shape)),
        reference=find_layer(reference) if reference else None,
        required=require or (),
        skip=skip or (),
    )
    if as_json:
        print(report.to_json())
    else:
        from rich.console import Console

        Console().print(report)
    raise typer.Exit(0 if report.passed else 1)
