"""toque preview: what augmentation does to some images, as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toque.cli.settings import run_of


def preview(
    data: Annotated[
        str | None,
        typer.Argument(help="'fashion' (bundled), a folder of images, or a .toml of settings."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture to write.")] = Path(
        "preview.png"
    ),
    images: Annotated[int, typer.Option(min=1, help="How many images.")] = 6,
    draws: Annotated[int, typer.Option(min=1, help="How many draws of each.")] = 5,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting, as augment=imagenet."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Settings from a file.")] = None,
) -> None:
    """Show training images as the model will see them, with what was drawn in words.

    The draws are those of the first epochs of a run with these settings.

    Example: toque preview photos/ --set augment=imagenet -o grid.png
    """
    from toque import checks

    run = run_of(data, config, settings)
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise checks.invalid(
            "toque preview", "--out", "a .png, .jpg or .webp", out, "As in -o grid.png."
        )

    from toque import random
    from toque.augment.sheet import contact_sheet
    from toque.train import build, prepare

    own = prepare.Own()
    splits = prepare.open_splits(run, own)
    task = prepare.task_of(splits, own)
    run = prepare.resolve(run, splits, own, task)
    pipeline, _ = build.pipelines(run, splits, task)
    if pipeline is None:
        raise checks.invalid(
            "toque preview", "augment", "a preset", run.augment, "As in --set augment=light."
        )
    size = len(splits.train)
    indices = [int(n) for n in random.permutation(run.seed, 0, size, 0, min(images, size))]
    sheet = contact_sheet(
        pipeline,
        [splits.train.read(index) for index in indices],
        seed=run.seed,
        indices=indices,
        num_draws=draws,
        names=[f"image {n}: {Path(splits.train.name(n)).name}" for n in indices],
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
    print(f"{len(indices)} images, {draws} draws of each: {out}\n\n{pipeline.plan()}")
