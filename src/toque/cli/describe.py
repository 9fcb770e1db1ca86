"""toque describe: a model, seen before it is trained."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from torch import nn


def describe(
    model: Annotated[str, typer.Argument(metavar="MODEL|RUN", help="A model's name, or a run.")],
    input_size: Annotated[
        str, typer.Option("--input", help="CxHxW of one image; unset: the run's, or 3x224x224.")
    ] = "",
    classes: Annotated[int, typer.Option(help="Classes of a model given by name.")] = 1000,
    batch: Annotated[int, typer.Option(help="Images in the batch that is described.")] = 1,
    depth: Annotated[int, typer.Option(help="Levels of the tree that are printed.")] = 2,
    optimizer: Annotated[str, typer.Option(help="For the memory: sgd or adamw.")] = "sgd",
    time: Annotated[bool, typer.Option(help="Run a step and show each layer's time.")] = False,
    out: Annotated[str, typer.Option("--out", "-o", help="Write a page with a picture here.")] = "",
) -> None:
    """Show shapes, parameters, operations, saved bytes, receptive field and predicted memory.

    Example: toque describe toque/repvgg_a0 --input 3x224x224 -o model.html
    """
    import torch
    from rich.console import Console

    from toque.cli.waiting import waiting
    from toque.models import description, memory, picture

    network, shape, title = built(model, input_size, classes, batch)
    images = torch.linspace(0, 1e4, math.prod(shape)).sin_().reshape(shape) if time else None
    with waiting("following a batch through the model"):
        described = description.describe(network, shape, images=images)
        predicted = memory.predict(network, shape, optimizer=optimizer)
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{title} for {' x '.join(map(str, shape))}", style="bold")
    console.print(described.text(depth), markup=False)
    console.print(f"a training step with {optimizer}: {predicted}", markup=False)
    if out:
        page = picture.page(title, network, described, predicted)
        Path(out).write_text(page, encoding="utf-8")
        console.print(f"wrote {out}", markup=False)


def built(name: str, input_size: str, classes: int, batch: int) -> tuple[nn.Module, list[int], str]:
    """The model, the shape of the batch, and what to call it."""
    from toque import checks
    from toque.models import create
    from toque.train.run_folder.folder import read_run

    title, size = name, (3, 224, 224)
    if Path(name).is_dir():
        run, environment = read_run(Path(name))
        classes, channels = len(environment["classes"]), int(environment["channels"])
        side = run.image_size or 224
        title, size = f"{run.model} of {name}", (channels, side, side)
        name = str(run.model)
    if input_size:
        parts = input_size.lower().split("x")
        if len(parts) != 3 or not all(part.isdigit() and int(part) for part in parts):
            raise checks.invalid(
                "describe", "--input", "CxHxW, such as 3x224x224", repr(input_size),
                "Give channels, height and width.",
            )  # fmt: skip
        size = (int(parts[0]), int(parts[1]), int(parts[2]))
    model = create(name, num_classes=classes, in_channels=size[0], image_size=(size[1], size[2]))
    return model, [batch, *size], title
