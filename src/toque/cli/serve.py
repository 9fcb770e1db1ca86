"""toque serve: a run or an exported file, over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer


def serve(
    model: Annotated[str, typer.Argument(help="A run folder, or an exported file.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    host: Annotated[
        str, typer.Option(help="127.0.0.1: this machine alone; 0.0.0.0: every network.")
    ] = "127.0.0.1",
    device: Annotated[str, typer.Option(help="cpu or cuda, for a run folder.")] = "cpu",
    trust: Annotated[
        bool, typer.Option("--trust", help="Load machine code, which an .aoti file is.")
    ] = False,
    calibrated: Annotated[
        bool, typer.Option("--calibrated", help="Answer with the confidence of the temperature.")
    ] = False,
    explain: Annotated[
        bool, typer.Option(help="Show where the network looked, when asked.")
    ] = True,
    token: Annotated[
        str | None,
        typer.Option(envvar="TOQUE_TOKEN", help="What clients must send as a bearer token."),
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="Images asked about at once.")] = 16,
    max_delay_ms: Annotated[
        float, typer.Option(min=0, help="How long a batch waits for more images.")
    ] = 2.0,
    max_waiting: Annotated[
        int, typer.Option(min=1, help="Images that may wait; above, the answer is 503.")
    ] = 64,
    max_megabytes: Annotated[float, typer.Option(min=0.001, help="Of one upload.")] = 10.0,
    max_megapixels: Annotated[float, typer.Option(min=0.001, help="Of one image.")] = 25.0,
) -> None:
    """Answer over HTTP: a page at /, POST /predict, and a newer model loaded by itself.

    Example: toque serve runs/flowers, then: curl --data-binary @garden.jpg localhost:8000/predict
    """
    from toque.deploy.serving.limits import Limits
    from toque.deploy.serving.server import serve as listen

    limits = Limits(
        max_bytes=int(max_megabytes * 2**20),
        max_pixels=int(max_megapixels * 1e6),
        max_batch=max_batch,
        max_delay_s=max_delay_ms / 1000,
        max_waiting=max_waiting,
    )
    listen(
        model, host=host, port=port, device=device, trust=trust, calibrate=calibrated,
        explain=explain, token=token, limits=limits,
    )  # fmt: skip
