"""toque serve: a run or an exported file, over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer


def serve(
    model: Annotated[str, typer.Argument(help="A run folder, or an exported file.")],
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="N", help="0 takes a free one.")
    ] = 8000,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="0.0.0.0: every network.")
    ] = "127.0.0.1",
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Processes that answer.")] = 1,
    device: Annotated[
        str, typer.Option(metavar="NAME", help="cpu or cuda, for a run folder.")
    ] = "cpu",
    trust: Annotated[
        bool, typer.Option("--trust", help="Load machine code, which an .aoti file is.")
    ] = False,
    calibrated: Annotated[
        bool, typer.Option("--calibrated", help="Answer with the confidence of the temperature.")
    ] = False,
    no_explain: Annotated[
        bool, typer.Option("--no-explain", help="Never show where the network looked.")
    ] = False,
    token: Annotated[
        str | None,
        typer.Option(envvar="TOQUE_TOKEN", metavar="TOKEN", help="What clients must send."),
    ] = None,
    max_batch: Annotated[
        int, typer.Option(min=1, metavar="N", help="Images asked about at once.")
    ] = 16,
    max_delay_ms: Annotated[
        float, typer.Option(min=0, metavar="MS", help="How long a batch waits.", hidden=True)
    ] = 2.0,
    max_waiting: Annotated[
        int, typer.Option(min=1, metavar="N", help="Waiting images; above, 503.", hidden=True)
    ] = 64,
    max_megabytes: Annotated[
        float, typer.Option(min=0.001, metavar="MB", help="Of one upload.")
    ] = 10.0,
    max_megapixels: Annotated[
        float, typer.Option(min=0.001, metavar="MP", help="Of one image.")
    ] = 25.0,
    max_seconds: Annotated[
        float, typer.Option(min=0.001, metavar="S", help="For an answer; above, 503.", hidden=True)
    ] = 30.0,
    linger: Annotated[
        float,
        typer.Option(min=0, metavar="S", help="Listen on after SIGTERM."),
    ] = 0.0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Log no request that went well.")] = False,
) -> None:
    """Answer over HTTP: a page, POST /predict; a newer model is loaded by itself.

    Example: toque serve runs/flowers --port 8000
    """
    # What is hidden is in the guide alone: the help page must fit a screen.
    from toque.deploy.serving.limits import Limits
    from toque.deploy.serving.server import serve as listen

    limits = Limits(
        max_bytes=int(max_megabytes * 2**20),
        max_pixels=int(max_megapixels * 1e6),
        max_batch=max_batch,
        max_delay_s=max_delay_ms / 1000,
        max_waiting=max_waiting,
        answer_s=max_seconds,
    )
    listen(
        model, host=host, port=port, workers=workers, device=device, trust=trust,
        calibrate=calibrated, explain=not no_explain, token=token, limits=limits, quiet=quiet,
        linger_s=linger,
    )  # fmt: skip
