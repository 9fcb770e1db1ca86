"""toque profile: where the time of a training step goes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from toque.cli.settings import run_of


def profile(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN|DATA", help="A run folder, a folder of images, 'fashion', or a .toml."
        ),
    ],
    trace: Annotated[Path, typer.Option("--trace", "-o", help="The Chrome trace to write.")] = Path(
        "trace.json"
    ),
    steps: Annotated[int, typer.Option(min=1, help="Steps that are timed.")] = 20,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting, as threads=4."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time the real training for some steps: loading, Python, computing; operators and modules.

    Nothing of a run is changed. Open the trace in ui.perfetto.dev or chrome://tracing.

    Example: toque profile photos/ --set batch_size=128 -o trace.json
    """
    import dataclasses
    import json
    import os

    # Before torch is imported: its profiler greets every start on stderr.
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")
    run = run_of(source, None, settings)
    from toque.train.studies.profiling import profile_run

    found = profile_run(
        run, steps=steps, trace=trace, say=lambda sentence: print(sentence, file=sys.stderr)
    )
    if as_json:
        print(json.dumps(dataclasses.asdict(found) | {"sentence": found.sentence()}))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True, highlight=False)
    speeds = Table("what", "images/s")
    for name, value in (
        ("training, with loading", found.images_per_s),
        ("computing alone, one batch again and again", found.computing_per_s),
        ("loading alone", found.loading_per_s),
    ):
        speeds.add_row(name, f"{value:.0f}")
    stages = Table("stage", "time")
    for stage in ("data", "host", "device"):
        stages.add_row(stage, f"{100 * found.stages[stage]:.1f} %")
    console.print(stages)
    console.print(speeds)
    operators = Table("operator", "time", "ms a step", "calls a step")
    for cost in found.operators:
        operators.add_row(cost.name, f"{100 * cost.share:.1f} %", f"{cost.ms:.2f}", f"{cost.calls}")
    console.print(operators)
    modules = Table("module, forward and backward", "time", "ms a step")
    for cost in found.modules:
        modules.add_row(cost.name, f"{100 * cost.share:.1f} %", f"{cost.ms:.2f}")
    console.print(modules)
    print(f"{found.sentence()}\n\ntrace  {trace}   (open it in ui.perfetto.dev)")
