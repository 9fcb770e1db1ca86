"""toque predict: what a finished run, or an exported file, says of images."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toque.cli import predict_other

if TYPE_CHECKING:
    from toque.deploy import Prediction


def predict(
    model: Annotated[str, typer.Argument(help="A run folder, or an exported file.")],
    images: Annotated[
        list[str], typer.Argument(help="Image files, folders, or - for standard input.")
    ],
    top: Annotated[int, typer.Option(min=1, help="How many classes to show for each image.")] = 5,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON with the probability of every class.")
    ] = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print CSV with a column for every class.")
    ] = False,
    tta: Annotated[
        bool, typer.Option("--tta", help="Mean over each image and its mirror image.")
    ] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="Load machine code, which an .aoti file is.")
    ] = False,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Of several labels, those more probable are named.")
    ] = 0.5,
    masks: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where masks are written.  [default: masks]"),
    ] = None,
    calibrated: Annotated[
        bool, typer.Option("--calibrated", help="Answer with the confidence of the temperature.")
    ] = False,
    explain: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write pictures of where the network looked."),
    ] = None,
) -> None:
    """Say what is on images, with a finished run or an exported file.

    Example: toque predict runs/flowers garden.jpg meadow.jpg
    """
    from toque import checks
    from toque.deploy import predict as ask

    if as_json and as_csv:
        raise checks.invalid("predict", "--json", "given without --csv", "both", "Leave one out.")
    if predict_other.is_for(model):
        unfit = {
            "--tta": tta,
            "--csv": as_csv,
            "--explain": explain is not None,
            "--calibrated": calibrated,
        }
        for option in (option for option, given in unfit.items() if given):
            raise checks.invalid(
                "predict", option, "for a run on classes", "one on another task", "Leave it out."
            )
        predict_other.show(model, images, threshold, masks, as_json)
        return
    with _bar() as progress:
        answers = ask(
            model, images, trust=trust, mirrored=tta, calibrate=calibrated, progress=progress
        )
    if explain is not None:
        _write_pictures(model, answers, explain)
    if as_json:
        import json

        print(json.dumps([answer.as_dict() for answer in answers], indent=1, ensure_ascii=False))
    elif as_csv:
        _print_csv(answers)
    else:
        _print_table(answers, top)


def _write_pictures(model: str, answers: Sequence[Prediction], folder: Path) -> None:
    from toque import checks
    from toque.deploy import load
    from toque.deploy.explain import write_overlay

    predictor = load(model)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise checks.invalid(
            "predict", "--explain", "a folder that can be written",
            f"{folder} ({error.strerror})", "Choose another.",
        ) from None  # fmt: skip
    for number, answer in enumerate(answers):
        if answer.image == "-":
            raise checks.invalid(
                "predict", "--explain", "for image files", "-", "Save the image to a file first."
            )
        # Two folders may hold files of one name: the number keeps them apart.
        file = (
            folder / f"{number:05}-{Path(answer.image).stem}-{answer.label.replace('/', '_')}.png"
        )
        write_overlay(predictor, predictor.pixels(answer.image), answer.label, file)


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error, where a person looks at it."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("images", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print_csv(answers: Sequence[Prediction]) -> None:
    import csv

    classes = list(answers[0].probabilities) if answers else []
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(["image", "label", "confidence", *classes])
    for answer in answers:
        shares = answer.probabilities.values()
        rows.writerow([answer.image, answer.label, answer.confidence, *shares])


def _print_table(answers: Sequence[Prediction], top: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("image", "label", "confidence", "next")
    for answer in answers:
        others = ", ".join(f"{name} {100 * share:.1f} %" for name, share in answer.top(top)[1:])
        # Text: a file called [red].jpg is a name, not a colour.
        table.add_row(
            Text(answer.image),
            Text(_said(answer)),
            f"{100 * answer.confidence:.1f} %",
            Text(others),
        )
    Console().print(table)


def _said(answer: Prediction) -> str:
    """The class; of several labels those that are there."""
    return answer.label if answer.labels is None else ", ".join(answer.labels) or "none"
