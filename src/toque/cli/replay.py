"""toque replay: one step of a run again, with its images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from toque.train import Replayed

_ROWS = 12


def replay(
    run: Annotated[str, typer.Argument(help="A run folder, finished or not; it is only read.")],
    step: Annotated[int | None, typer.Option(min=1, help="The step's number, from 1.")] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Or the images seen after it, as a message names it.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A picture of its images to write, as x.png.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run one step of a training again, exactly: its loss, its gradients, its images.

    For a step whose loss was no number, or that made the loss jump: which images were in it, and
    what did the model answer. The steps since the checkpoint before it are run as well.

    Example: toque replay runs/flowers --step 120 -o step.png
    """
    import io
    import json

    from PIL import Image

    from toque import checks, durable

    if out is not None and out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise checks.invalid(
            "toque replay", "--out", "a .png, .jpg or .webp", out, "As in -o step.png."
        )
    from toque.train import replay as again
    from toque.train.studies import replay_sheet

    def say(sentence: str) -> None:
        print(sentence, file=sys.stderr)

    found = again(run, step=step, images=images, say=say)
    for note in found.notes:
        say(f"warning: this may not be exact: {note}")
    order = replay_sheet.by_loss(found)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        picture = io.BytesIO()
        kind = Image.registered_extensions()[out.suffix.lower()]
        replay_sheet.sheet(found).save(picture, kind)
        durable.write(out, picture.getvalue())
    if as_json:
        print(json.dumps(_summary(found, order)))
        return
    _show(found, order, out)


def _show(found: Replayed, order: list[int], out: Path | None) -> None:
    """The step for people: its numbers, and a table of its images, the largest loss first."""
    import math

    from rich.console import Console
    from rich.table import Table

    from toque import checks
    from toque.train.studies import replay_sheet

    print(
        f"step {found.step}   images {found.images_seen} .. "
        f"{found.images_seen + len(found.names) - 1}\n"
        f"learning rate {found.learning_rate:.6g}   loss {found.loss:.7g}   "
        f"gradient norm {found.gradient_norm:.4g}"
    )
    if found.not_finite:
        print(f"gradients that are no numbers: {checks.first(found.not_finite)}")
    if found.skipped:
        print("the step was skipped: it changed nothing")
    if found.exact is not None:
        same = "are those" if found.exact else "ARE NOT those"
        print(f"the weights after it {same} of the run's checkpoint, bit for bit")
    else:
        print("no checkpoint of the run lies just after it, to compare the weights with")
    table = Table("image", "epoch", "target", "answer", "loss")
    for position in order[:_ROWS]:
        value = found.losses[position] if found.losses else math.nan
        shown = f"{value:.4g}" if math.isfinite(value) else "no number" if found.losses else "-"
        target, answer = replay_sheet.answer(found, position)
        table.add_row(found.names[position], str(found.epoch[position]), target, answer, shown)
    Console().print(table)
    if len(order) > _ROWS:
        print(f"and {len(order) - _ROWS} more images; all with --json" + " or -o" * (out is None))
    if out is not None:
        print(f"pictures {out}")


def _summary(found: Replayed, order: list[int]) -> dict[str, Any]:
    """The step as JSON: None for what is no number."""
    import math

    from toque.train.studies import replay_sheet

    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    images = []
    for position in order:
        target, answer = replay_sheet.answer(found, position)
        images.append(
            {
                "name": found.names[position],
                "index": int(found.indices[position]),
                "epoch": int(found.epoch[position]),
                "target": target,
                "answer": answer,
                "loss": number(found.losses[position]) if found.losses else None,
            }
        )
    return {
        "step": found.step,
        "images_seen": found.images_seen,
        "learning_rate": found.learning_rate,
        "loss": number(found.loss),
        "gradient_norm": number(found.gradient_norm),
        "skipped": found.skipped,
        "not_finite": list(found.not_finite),
        "exact": found.exact,
        "images": images,
    }
