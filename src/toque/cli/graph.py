"""toque graph: what a model keeps for backward, drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def graph(
    model: Annotated[str, typer.Argument(help='A model name, or "package.module:Name".')],
    shape: Annotated[str, typer.Option("--input", help="Shape of the input.")] = "2x3x224x224",
    output: Annotated[
        Path, typer.Option("-o", "--out", help="A .html (folds by module) or .svg file.")
    ] = Path("graph.html"),
    save_memory: Annotated[
        bool, typer.Option("--save-memory", help="Draw it as layers.save_memory makes it.")
    ] = False,
) -> None:
    """Draw the autograd graph of one forward: nodes, bytes they keep, the lines that made them.

    Example: toque graph toque/resnet18 --input 2x3x64x64 -o graph.html
    """
    from torch import nn

    from toque import layers, models
    from toque.layers import graph as drawing
    from toque.layers.naming import find_layer, make_input

    made = find_layer(model) if ":" in model else models.create(model, num_classes=10)
    if isinstance(made, nn.Module):
        made.train()
        if save_memory:
            layers.save_memory(made)
    trace = layers.trace_saved(made, make_input(shape))
    print(trace)
    print(f"written: {drawing.write(trace, output, model)}")
