"""toque train: train, or continue, a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from toque.cli.allocator import keep_freed_memory
from toque.cli.settings import run_of


def train(
    data: Annotated[
        str | None,
        typer.Argument(
            help="A folder of images, 'fashion' (bundled), a .toml of settings, or a run folder "
            "to continue.  [default: fashion]"
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="The run folder.  [default: runs/NAME of the data]")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting, as epochs=20. Repeatable."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings from a file; write one with: toque new run.toml")
    ] = None,
    devices: Annotated[
        int | None, typer.Option(help="Processes of this machine that train together, one a GPU.")
    ] = None,
    restarts: Annotated[
        int, typer.Option(help="With --devices: how often to start all again when one dies.")
    ] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only warnings.")] = False,
) -> None:
    """Train a model on a folder of images; the same command again continues it.

    DATA is a folder train/CLASS/*.jpg + val/CLASS/*.jpg, or CLASS/*.jpg, which is split.

    Example: toque train photos/ --set epochs=20 --set model=resnet18
    """
    from toque import checks

    run = run_of(data, config, settings, out)
    from toque.train.distributed import Elsewhere, LostRank, failing, joining, launch

    if restarts and devices is None:
        raise checks.invalid(
            "train", "--restarts", "given with --devices", restarts,
            "Add --devices 1 or more; torchrun has --max-restarts.",
        )  # fmt: skip
    if devices is not None and not joining.is_one_of_several():
        raise SystemExit(launch.local(devices, ["-m", "toque", *sys.argv[1:]], restarts=restarts))
    launch.die_with_launcher()
    if "data" not in run.model_fields_set and not quiet and joining.speaks():
        print(
            "No data was named, so this trains on the pictures of clothing that come with toque: "
            "with the usual settings about two minutes on two cores. Yours: toque train photos/",
            file=sys.stderr,
        )

    from toque.train import Stopped, fit

    if run.memory.limit is None:
        keep_freed_memory()
    try:
        result = fit(run, show="quiet" if quiet else "auto")
    except Stopped as stop:
        # Here, because the parser would turn every KeyboardInterrupt into its own exit code.
        print(f"\ntoque: {stop}", file=sys.stderr)
        raise SystemExit(stop.code) from None
    except LostRank as lost:
        print(f"toque: {lost}", file=sys.stderr)
        failing.leave(1)
    except Elsewhere as end:
        failing.leave(int(end.code or 0))
    if quiet or not joining.speaks():
        return
    print(
        f"\n{result.summary()}, after {result.seconds:.0f} s\n"
        f"weights  {result.weights}\n"
        f"report   {result.report}   (open it in a browser)\n"
        f"next     toque predict {result.out} IMAGE…   toque evaluate {result.out}"
    )
