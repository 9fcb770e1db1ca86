"""toque export: a finished run as one file that takes raw images."""

from __future__ import annotations

from typing import Annotated

import typer


def export(
    run: Annotated[str, typer.Argument(help="A run folder.")],
    to: Annotated[
        str | None, typer.Option(help="onnx, pt2 or safetensors; unset: by -o, else onnx.")
    ] = None,
    out: Annotated[
        str | None, typer.Option("-o", "--out", help="The file; unset: RUN/export/model.*")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Compare on other labelled images than the run's own.")
    ] = None,
) -> None:
    """Write a finished run as one file, once its answers agree with the run's.

    Example: toque export runs/flowers --to onnx -o flowers.onnx
    """
    from toque.deploy import export as write

    done = write(run, to=to, out=out, data_path=data)
    print(f"parity   {done.parity}")
    print(f"file     {done.file}")
    print(f"card     {done.card}")
    print(f"ask it   toque predict {done.file} IMAGE")
