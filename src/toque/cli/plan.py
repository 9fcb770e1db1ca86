"""toque plan: a run on many ranks, reckoned before it is started."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


def plan(
    model: Annotated[str, typer.Argument(metavar="MODEL|RUN", help="A model's name, or a run.")],
    ranks: Annotated[str, typer.Option(help="Numbers of ranks.")] = "1,8,64",
    gpu: Annotated[str, typer.Option(help="a100, h100 or h200.")] = "h100",
    batch: Annotated[int, typer.Option(help="Images of each rank.")] = 64,
    strategy: Annotated[str, typer.Option(help="ddp or fsdp.")] = "ddp",
    optimizer: Annotated[str, typer.Option(help="For the memory: sgd or adamw.")] = "sgd",
    input_size: Annotated[
        str, typer.Option("--input", help="CxHxW of one image; unset: the run's, or 3x224x224.")
    ] = "",
    classes: Annotated[int, typer.Option(help="Classes of a model given by name.")] = 1000,
) -> None:
    """Memory of a rank, bytes in a step, images/s and efficiency, by assumptions that are printed.

    Example: toque plan resnet50 --ranks 8,64,1024 --gpu h100
    """
    import torch
    from rich.console import Console
    from rich.table import Table

    from toque import checks
    from toque.cli.describe import built
    from toque.train.studies import planning

    if not all(part.strip().isdigit() for part in ranks.split(",")):
        raise checks.invalid("plan", "--ranks", "numbers", repr(ranks), "As in --ranks 8,64.")
    if strategy not in ("ddp", "fsdp"):
        raise checks.invalid("plan", "--strategy", "ddp or fsdp", strategy, "Choose one.")
    numbers = [int(part) for part in ranks.split(",")]
    with torch.device("meta"):  # its weights are never made
        _, (_, *size), title = built(model, input_size, classes, batch)
    plans = planning.plan(
        lambda: built(model, input_size, classes, batch)[0],
        size, numbers, gpu=gpu, images_of_a_rank=batch, optimizer=optimizer, strategy=strategy,
        say=lambda sentence: print(f"{title}: {sentence} …", file=sys.stderr, flush=True),
    )  # fmt: skip
    console = Console(soft_wrap=True, highlight=False)
    console.width = max(console.width, 110)  # a narrow table would lose its figures
    console.print(f"{title}, {strategy}, {batch} images of {' x '.join(map(str, size))} a rank")
    table = Table(box=None, header_style="bold")
    for column in (
        "ranks", "batch", "memory GB", "sent MB/step", "step ms", "exposed ms", "images/s",
        "efficiency", "hidden at",
    ):  # fmt: skip
        table.add_column(column, justify="right", no_wrap=True)
    capacity = planning.GPUS[gpu].memory_bytes
    for one in plans:
        full = " (too much)" if one.memory_bytes > capacity else ""
        table.add_row(
            str(one.ranks), str(one.ranks * batch), f"{one.memory_bytes / 1e9:.2f}{full}",
            f"{one.sent_bytes / 1e6:.1f}", f"{1e3 * (one.compute_s + one.exposed_s):.2f}",
            f"{1e3 * one.exposed_s:.2f}", f"{one.images_per_s:,.0f}", f"{one.efficiency:.1%}",
            str(one.hidden_at_images),
        )  # fmt: skip
    console.print(table)
    for sentence in planning.assumptions(planning.GPUS[gpu], strategy):
        console.print(f"assumed: {sentence}", style="dim", markup=False)
