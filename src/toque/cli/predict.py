"""toque predict: what a finished run, or an exported file, says of images."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from toque.deploy import Predictor
    from toque.deploy.answers import Answer


def predict(
    model: Annotated[str, typer.Argument(help="A run folder, or an exported file.")],
    images: Annotated[
        list[str],
        typer.Argument(help="Image files, folders, or - for standard input: an image, or paths."),
    ],
    top: Annotated[int, typer.Option(min=1, help="Classes to show for each image.")] = 5,
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
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="SHARE",
            help="Of several labels, those so probable are named.  [default: each from the "
            "threshold that the run chose on its validation images]",
        ),
    ] = None,
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
    """Say what is on images; ends with 1 where some cannot be used.

    Example: toque predict runs/flowers garden.jpg meadow.jpg
    """
    import sys

    from toque import checks
    from toque.cli import predicted
    from toque.deploy import asking

    def say(sentence: str) -> None:
        print(f"predict: {sentence}", file=sys.stderr)

    if as_json and as_csv:
        raise checks.invalid("predict", "--json", "given without --csv", "both", "Leave one out.")
    opened = asking.opened(model, trust=trust, mirrored=tta, calibrate=calibrated)
    if explain is not None:
        _check_explains(opened)
    writer = predicted.MaskWriter(masks or Path("masks"))
    pictures = _Pictures(opened, explain) if explain is not None else None
    answers: list[predicted.Said] = []
    failed: list[asking.Unanswered] = []
    with _bar() as progress:
        tried = asking.each_tried(opened, images, progress=progress, say=say)
        for number, one in enumerate(tried):
            if isinstance(one, asking.Unanswered):
                failed.append(one)
                answers.append(predicted.unanswered(one))
                continue
            if pictures is not None:
                pictures.write(number, one)
            answers.append(writer.written(number, predicted.with_threshold(one, threshold)))
    for bad in failed:
        say(f"{bad.image}: {bad.reason}")
    if as_json:
        predicted.print_json(answers)
    elif as_csv:
        predicted.print_csv(answers)
    else:
        predicted.print_table(answers, top)
    if failed:
        say(f"{len(failed):,} of {len(answers):,} images could not be answered for")
        raise typer.Exit(1)


def _check_explains(model: Predictor) -> None:
    from toque import checks
    from toque.deploy.explain import why_not

    reason = why_not(model)
    if reason is not None:
        raise checks.invalid("predict", "--explain", *reason)


class _Pictures:
    """Writes where the network looked, image by image."""

    def __init__(self, model: Predictor, folder: Path) -> None:
        from toque import checks

        self._model, self._folder = model, folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise checks.invalid(
                "predict", "--explain", "a folder that can be written",
                f"{folder} ({error.strerror})", "Choose another.",
            ) from None  # fmt: skip

    def write(self, number: int, answer: Answer) -> None:
        from toque import checks
        from toque.deploy import Prediction
        from toque.deploy.explain import write_overlay

        if answer.image == "-":
            raise checks.invalid(
                "predict", "--explain", "for image files", "-", "Save the image to a file first."
            )
        # Of several numbers, each has its own picture.
        labels = [answer.label] if isinstance(answer, Prediction) else self._model.labels
        for label in labels:
            # Two folders may hold files of one name: the number keeps them apart.
            name = f"{number:05}-{Path(answer.image).stem}-{label.replace('/', '_')}.png"
            pixels = self._model.pixels(answer.image)
            write_overlay(self._model, pixels, label, self._folder / name)


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error, where a person looks at it."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("images", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
