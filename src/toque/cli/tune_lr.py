"""toque tune-lr: a learning rate from a range test."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from toque.cli.settings import run_of


def tune_lr(
    data: Annotated[
        str | None,
        typer.Argument(help="'fashion' (bundled), a folder of images, or a .toml of settings."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path(
        "tune-lr.html"
    ),
    steps: Annotated[int, typer.Option(help="Training steps, each at a higher rate.")] = 100,
    low: Annotated[float, typer.Option(help="The first rate.")] = 1e-5,
    high: Annotated[float, typer.Option(help="The last rate.")] = 10.0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting, as batch_size=128."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Settings from a file.")] = None,
) -> None:
    """Train some steps at rising rates, draw the loss, and propose a learning rate.

    No run folder is written or changed.

    Example: toque tune-lr photos/ --set optimizer.name=adamw -o tune-lr.html
    """
    from toque import checks

    checks.require_folder_of("tune-lr", "--out", out)
    run = run_of(data, config, settings)

    from toque.train.studies import tuning

    def say(step: int, rate: float, loss: float) -> None:
        if step % 10 == 0:
            print(f"step {step} of {steps}  lr {rate:.2e}  loss {loss:.4f}", file=sys.stderr)

    found = tuning.tune_learning_rate(run, steps=steps, low=low, high=high, say=say)
    for sentence in found.sentences():
        print(sentence)
    if len(found.rates) > 1:
        tuning.write(out, found, f"{run.data}")
        print(f"\nplot  {out}   (open it in a browser)")
    if found.proposal is not None:
        given = [f"--config {shlex.quote(str(config))}" if config else shlex.quote(run.data)]
        kept = [one for one in settings or [] if not one.startswith("optimizer.learning_rate=")]
        given += [f"--set {shlex.quote(one)}" for one in kept]
        print(
            f"next  toque train {' '.join(given)} "
            f"--set optimizer.learning_rate={found.proposal:.2g}"
        )
