"""toque export: a finished run as one file that takes raw images."""

from __future__ import annotations

from typing import Annotated

import typer


def export(
    run: Annotated[str, typer.Argument(help="A run folder.")],
    to: Annotated[
        str | None, typer.Option(help="onnx, pt2, aoti or safetensors; unset: by -o, else onnx.")
    ] = None,
    out: Annotated[
        str | None, typer.Option("-o", "--out", help="The file; unset: RUN/export/model.*")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Compare on other labelled images than the run's own.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Take images of one size alone; unset: of any."),
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store the weights as float16.")] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Compute on whole numbers, calibrated; onnx alone.")
    ] = False,
    calibrated: Annotated[
        bool, typer.Option("--calibrated", help="Divide the logits by the run's temperature.")
    ] = False,
    max_loss: Annotated[
        float, typer.Option(min=0, max=100, help="Points of accuracy that --int8 may cost.")
    ] = 1.0,
) -> None:
    """Write a finished run as one file, once its answers agree with the run's.

    Example: toque export runs/flowers --to onnx -o flowers.onnx
    """
    from toque import checks
    from toque.cli.waiting import waiting
    from toque.deploy import export as write
    from toque.deploy.card import how_to_ask

    if half and int8:
        raise checks.invalid("export", "--half", "given without --int8", "both", "Leave one out.")
    with waiting("writing the file, and comparing its answers with the run's"):
        done = write(
            run, to=to, out=out, data_path=data, size=None if size is None else _height_width(size),
            precision="int8" if int8 else "half" if half else "float32", max_loss=max_loss / 100,
            calibrate=calibrated,
        )  # fmt: skip
    print(f"folded   {done.folded}")
    print(f"parity   {done.parity}")
    print(f"file     {done.file}")
    print(f"card     {done.card}")
    print(f"ask it   {how_to_ask(done.file)}")


def _height_width(text: str) -> tuple[int, int]:
    from toque import checks

    height, _, width = text.lower().partition("x")
    # Height first, as in the shape of the images.
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise checks.invalid(
            "export", "--size", "a height and a width in pixels", text, "Write --size 480x640."
        )
    return int(height), int(width)
