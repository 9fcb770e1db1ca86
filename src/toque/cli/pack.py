"""toque pack: decoded images in one folder, for training without decoding."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

_COLUMNS = ("table.path", "table.label", "table.split", "table.weight")


def pack(
    data: Annotated[str, typer.Argument(help="As for toque train; or a cache, with --check.")],
    cache: Annotated[
        Path | None, typer.Argument(help="The folder to pack into, new or packed before.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=1, metavar="PX", help="Short side that larger images are reduced to."),
    ] = None,
    encoding: Annotated[
        Literal["raw", "jpeg"],
        typer.Option(help="jpeg: a tenth of the bytes."),
    ] = "raw",
    quality: Annotated[int, typer.Option(min=1, max=100, metavar="N", help="Of the JPEG.")] = 90,
    channels: Annotated[
        int | None, typer.Option(metavar="N", help="1 or 3.  [default: 1 where every file is gray]")
    ] = None,
    on_bad: Annotated[
        Literal["raise", "skip"],
        typer.Option(help="Unreadable images."),
    ] = "raise",
    task: Annotated[
        Literal["auto", "classification", "multilabel", "regression", "segmentation"],
        typer.Option(metavar="NAME", help="As in toque train."),
    ] = "auto",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="table.path, .label, .split or .weight."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="That decode.  [default: one per core]")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare every byte of a cache with its checksums.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing.")] = False,
) -> None:
    """Decode every image once into CACHE, for toque train CACHE.

    Stopped, the same command goes on. --check ends with 1 on a damaged file.

    Example: toque pack photos/ photos-packed/ --size 256
    """
    from toque import checks
    from toque.cli.settings import overrides
    from toque.data import Columns, damaged_files
    from toque.data import pack as pack_images
    from toque.train import run as settings_of

    if check:
        wrong = damaged_files(data if cache is None else cache)
        for name in wrong:
            print(f"damaged: {name}")
        if wrong:
            print(f"{len(wrong)} damaged files. Pack again with the same command to mend them.")
            raise typer.Exit(1)
        if not quiet:
            print("every file is as it was written")
        return
    if cache is None:
        raise checks.invalid(
            "toque pack", "CACHE", "given", "none", f"As in toque pack {data} {data}-packed."
        )
    asked = overrides(settings or ())
    for key in asked:
        if key not in _COLUMNS:
            raise checks.invalid(
                "toque pack", "--set", f"one of {', '.join(_COLUMNS)}", key,
                f"{checks.nearest(key, _COLUMNS)} Other settings are given to toque train.",
            )  # fmt: skip
    run = settings_of.load(None, asked)
    packed = pack_images(
        data,
        cache,
        size=size,
        encoding=encoding,
        quality=quality,
        channels=channels,
        on_bad=on_bad,
        task=None if task == "auto" else task,
        columns=Columns(**run.table.model_dump()),
        threads=threads,
        show="quiet" if quiet else "auto",
    )
    if quiet:
        return
    kept = f" ({packed.num_kept} were there)" if packed.num_kept else ""
    print(
        f"{packed.num_images} images{kept}, {packed.num_bytes / 1e6:.0f} MB, "
        f"{packed.seconds:.0f} s: {packed.path}\n"
        f"next     toque train {packed.path}"
    )
